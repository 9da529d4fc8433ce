//! Accidents: their grade, and the type of an event.

use std::fmt;

use super::money::Fen;
use super::reason::FieldReason;
use super::violation::{Violations, excerpt};

/// The grade of an accident, ordered from the least. Order 493 of the State Council, article 3; the
/// thresholds are in the [`RuleTable`](super::RuleTable).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccidentGrade {
    /// 一般事故, grade IV.
    Ordinary,
    /// 较大事故, grade III.
    Larger,
    /// 重大事故, grade II.
    Major,
    /// 特别重大事故, grade I.
    EspeciallyMajor,
}

impl AccidentGrade {
    /// All grades, the least first.
    pub const ALL: [Self; 4] = [
        Self::Ordinary,
        Self::Larger,
        Self::Major,
        Self::EspeciallyMajor,
    ];

    /// The stable name, such as `ESPECIALLY_MAJOR`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ORDINARY",
            Self::Larger => "LARGER",
            Self::Major => "MAJOR",
            Self::EspeciallyMajor => "ESPECIALLY_MAJOR",
        }
    }

    /// The Chinese name.
    #[must_use]
    pub const fn zh(self) -> &'static str {
        match self {
            Self::Ordinary => "一般事故",
            Self::Larger => "较大事故",
            Self::Major => "重大事故",
            Self::EspeciallyMajor => "特别重大事故",
        }
    }
}

impl fmt::Display for AccidentGrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an accident's grade depends on, as far as it is known: what is not known counts as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccidentLosses {
    /// People dead. The missing are reported, and do not count before they are declared dead.
    pub deaths: u32,
    /// People seriously injured, acute industrial poisoning included.
    pub serious_injuries: u32,
    /// Direct economic loss.
    pub direct_loss: Fen,
}

/// The type of an event: a code and the system that it belongs to. The national layout could not be
/// verified, so the code is carried, and read only by the prefixes of the rule table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType {
    scheme: String,
    code: String,
}

impl EventType {
    const MAX_SCHEME_CHARS: usize = 40;
    const MAX_CODE_CHARS: usize = 20;

    /// Checks the fields `scheme` (1 to 40 characters) and `code` (1 to 20 of `A-Z 0-9`) of the
    /// scope.
    pub fn check(v: &mut Violations, scheme: &str, code: &str) -> Option<Self> {
        let scheme = super::required_text(v, "scheme", scheme, Self::MAX_SCHEME_CHARS);
        let code = super::required_text(v, "code", code, Self::MAX_CODE_CHARS)?;
        if !code
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        {
            let shown = excerpt(code);
            v.field(
                "code",
                FieldReason::BadFormat,
                format!("is {shown}: must be capital letters and digits, such as 12D01"),
                format!("为 {shown}：应由大写字母和数字组成，如 12D01"),
            );
            return None;
        }
        Some(Self {
            scheme: scheme?.to_owned(),
            code: code.to_owned(),
        })
    }

    /// The code system, such as `GB/T 35561-2017`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The code in it, such as `12D01`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grades_are_ordered_by_gravity() {
        assert!(AccidentGrade::ALL.is_sorted());
        let names: Vec<_> = AccidentGrade::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["ORDINARY", "LARGER", "MAJOR", "ESPECIALLY_MAJOR"]);
        assert_eq!(AccidentGrade::EspeciallyMajor.zh(), "特别重大事故");
    }

    #[test]
    fn an_event_type_needs_scheme_and_code() {
        let check = |scheme: &str, code: &str| {
            let mut v = Violations::new();
            let taken = EventType::check(&mut v.scope("event_type"), scheme, code);
            let found = v
                .into_iter()
                .map(|v| (v.field, v.reason))
                .collect::<Vec<_>>();
            (taken.map(|t| t.code().to_owned()), found)
        };
        assert_eq!(
            check("GB/T 35561-2017", "12D01"),
            (Some("12D01".to_owned()), vec![])
        );
        let scheme = ("event_type.scheme".to_owned(), FieldReason::Required);
        let code = |reason| ("event_type.code".to_owned(), reason);
        assert_eq!(
            check("", "").1,
            [scheme.clone(), code(FieldReason::Required)]
        );
        assert_eq!(check("", "12d01").1, [scheme, code(FieldReason::BadFormat)]);
        assert_eq!(check("x", &"A".repeat(21)).1, [code(FieldReason::TooLong)]);
    }

    proptest! {
        #[test]
        fn codes_of_the_form_are_taken(code in "[A-Z0-9]{1,17}") {
            let mut v = Violations::new();
            let taken = EventType::check(&mut v, "x", &code);
            prop_assert_eq!(taken.map(|t| t.code().to_owned()), Some(code));
        }
    }
}
