//! What is wrong with the fields of a request: every violation, with its path, in two languages.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;

use super::personal;
use super::reason::FieldReason;

/// A parse error that can be told to a caller: its `Display` is the English text.
///
/// Neither text may hold more of the input than [`excerpt`] gives.
pub trait Explain: std::error::Error {
    /// The rule that the text broke.
    fn reason(&self) -> FieldReason;
    /// What is wrong and what to do, in Chinese.
    fn zh(&self) -> String;
}

/// One rule that one field broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field from the request's root, such as `risk.place.latitude`.
    pub field: String,
    /// The rule.
    pub reason: FieldReason,
    /// What is wrong and what to do, in English.
    pub en: String,
    /// The same in Chinese.
    pub zh: String,
}

/// Collects all violations of one request, each under the path of its field.
///
/// ```
/// # use hefu::types::{FieldReason, Violations};
/// let mut v = Violations::new();
/// {
///     let mut risk = v.scope("risk");
///     let mut place = risk.scope("place");
///     place.field("latitude", FieldReason::OutOfRange, "is 91, must be at most 90", "不得大于 90");
/// }
/// assert_eq!(v.as_slice()[0].field, "risk.place.latitude");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Violations {
    found: Vec<Violation>,
    path: String,
}

impl Violations {
    /// None yet, at the request's root.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a message field: until the guard is dropped, paths begin with its name.
    pub fn scope(&mut self, name: &str) -> Scope<'_> {
        let outer = self.path.len();
        self.path = self.join(name);
        Scope {
            violations: self,
            outer,
        }
    }

    /// Enters one element of a repeated field, as `name[index]`.
    pub fn element(&mut self, name: &str, index: usize) -> Scope<'_> {
        self.scope(&format!("{name}[{index}]"))
    }

    /// Records a violation of `field`, a path relative to the scope; empty means the scope itself.
    pub fn field(
        &mut self,
        field: &str,
        reason: FieldReason,
        en: impl Into<String>,
        zh: impl Into<String>,
    ) {
        let field = self.join(field);
        self.found.push(Violation {
            field,
            reason,
            en: en.into(),
            zh: zh.into(),
        });
    }

    /// Records a parse error of `field`.
    pub fn explain(&mut self, field: &str, error: &impl Explain) {
        self.field(field, error.reason(), error.to_string(), error.zh());
    }

    /// Parses a required text field; an empty one is [`FieldReason::Required`].
    pub fn parse<T>(&mut self, field: &str, text: &str) -> Option<T>
    where
        T: FromStr<Err: Explain>,
    {
        if text.is_empty() {
            self.required(field);
            return None;
        }
        self.parse_optional(field, text)
    }

    /// Parses an optional text field; an empty one is `None` without a violation.
    pub fn parse_optional<T>(&mut self, field: &str, text: &str) -> Option<T>
    where
        T: FromStr<Err: Explain>,
    {
        if text.is_empty() {
            return None;
        }
        text.parse().map_err(|e| self.explain(field, &e)).ok()
    }

    /// Records that `field` is missing.
    pub fn required(&mut self, field: &str) {
        self.field(
            field,
            FieldReason::Required,
            "is required: give a value",
            "必填：请填写",
        );
    }

    /// What was found so far, in the order of the checks.
    #[must_use]
    pub fn as_slice(&self) -> &[Violation] {
        &self.found
    }

    /// True while nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The number of violations found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// `value` if nothing was found.
    ///
    /// # Errors
    /// All violations.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(self)
        }
    }

    /// The same for a value that was put together from checked parts, and is `None` where one was
    /// refused. A `None` without a violation is reported at the root rather than lost.
    ///
    /// # Errors
    /// All violations.
    pub fn into_complete<T>(mut self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) => self.into_result(value),
            None => {
                if self.found.is_empty() {
                    self.required("");
                }
                Err(self)
            }
        }
    }

    fn join(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (true, _) => name.to_owned(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{name}", self.path),
        }
    }
}

impl IntoIterator for Violations {
    type Item = Violation;
    type IntoIter = std::vec::IntoIter<Violation>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, v) in self.found.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {} ({})", v.field, v.en, v.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// Holds a [`Violations`] inside one message field; leaves it when dropped.
#[derive(Debug)]
pub struct Scope<'a> {
    violations: &'a mut Violations,
    outer: usize,
}

impl Deref for Scope<'_> {
    type Target = Violations;

    fn deref(&self) -> &Violations {
        self.violations
    }
}

impl DerefMut for Scope<'_> {
    fn deref_mut(&mut self) -> &mut Violations {
        self.violations
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.violations.path.truncate(self.outer);
    }
}

/// The most characters of an input that an answer repeats.
const EXCERPT_CHARS: usize = 64;

/// What of an input may stand in an error: quoted, at most 64 characters, control characters
/// escaped, and every digit masked that could belong to a personal number.
#[must_use]
pub fn excerpt(input: &str) -> String {
    let masked = personal::mask_long_numbers(input);
    let mut kept: String = masked
        .chars()
        .take(EXCERPT_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if masked.chars().count() > EXCERPT_CHARS {
        kept.push('…');
    }
    format!("\"{kept}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_violations_are_kept_with_their_paths() {
        let mut v = Violations::new();
        v.required("request_id");
        {
            let mut risk = v.scope("risk");
            risk.required("title");
            risk.element("consequences", 3)
                .field("", FieldReason::UnknownEnum, "unknown", "未知");
            risk.scope("place").required("latitude");
            risk.required("state");
        }
        v.required("etag");
        let fields: Vec<_> = v.as_slice().iter().map(|v| v.field.as_str()).collect();
        let expected = [
            "request_id",
            "risk.title",
            "risk.consequences[3]",
            "risk.place.latitude",
            "risk.state",
            "etag",
        ];
        assert_eq!(fields, expected);
        assert_eq!(v.into_result(()).map_err(|e| e.len()), Err(6));
    }

    #[test]
    fn a_value_passes_only_without_violations() {
        assert_eq!(Violations::new().into_result(5), Ok(5));
        let missing = Violations::new().into_complete::<()>(None);
        assert_eq!(
            missing.map_err(|v| v.as_slice()[0].reason),
            Err(FieldReason::Required)
        );
    }

    #[test]
    fn an_excerpt_hides_what_may_be_personal() {
        assert_eq!(excerpt("138-1234-5678 打电话"), "\"***-****-**** 打电话\"");
        assert_eq!(excerpt("R-2024-0017"), "\"R-2024-0017\"");
        assert_eq!(excerpt("a\u{1b}[2J"), "\"a\u{fffd}[2J\"");
    }

    proptest! {
        #[test]
        fn an_excerpt_is_short_and_printable(input in any::<String>()) {
            let shown = excerpt(&input);
            prop_assert!(shown.chars().count() <= EXCERPT_CHARS + 3);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
