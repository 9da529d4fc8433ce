//! Codes of administrative divisions.

use std::fmt;
use std::str::FromStr;

use super::reason::FieldReason;
use super::violation::Explain;

/// The level of a division, from the widest to the narrowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DivisionLevel {
    /// 省级.
    Province,
    /// 地级.
    City,
    /// 县级.
    County,
    /// 乡级.
    Town,
    /// 村级.
    Village,
}

impl DivisionLevel {
    /// The name that the division table uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Province => "province",
            Self::City => "city",
            Self::County => "county",
            Self::Town => "town",
            Self::Village => "village",
        }
    }
}

impl fmt::Display for DivisionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no division code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DivisionCodeError {
    /// Neither 6 nor 9 nor 12 characters.
    #[error("a division code must have 6, 9 or 12 digits, not {found} characters")]
    Length {
        /// How many it has.
        found: usize,
    },
    /// Something other than an ASCII digit.
    #[error("a division code must be digits: character {at} is {found:?}")]
    Digit {
        /// The character.
        found: char,
        /// Its place, from 1.
        at: usize,
    },
    /// A zero where a narrower level follows, or zeros added to a shorter code.
    #[error(
        "a division code must not have an empty level: give the 6 digits of GB/T 2260, or all 9 or \
         12 of a town or village, never a shorter code filled up with zeros"
    )]
    EmptyLevel,
}

impl Explain for DivisionCodeError {
    fn reason(&self) -> FieldReason {
        FieldReason::BadFormat
    }

    fn zh(&self) -> String {
        match self {
            Self::Length { found } => {
                format!("区划代码应为 6、9 或 12 位数字，现为 {found} 个字符")
            }
            Self::Digit { found, at } => format!("区划代码应为数字：第 {at} 个字符是 {found:?}"),
            Self::EmptyLevel => "区划代码中间不得缺级：请填写 GB/T 2260 的 6 位代码，\
                或乡级 9 位、村级 12 位代码，不要用零补位"
                .to_owned(),
        }
    }
}

/// A division code: 6 digits of GB/T 2260 (province, city, county in pairs; `00` pairs at the end
/// for the wider ones), or with the 3 digits of a town (GB/T 10114) and the 3 of a village behind.
///
/// That it is well formed says nothing of its existence; see
/// [`DivisionTable`](super::DivisionTable).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DivisionCode(String);

impl DivisionCode {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The level that the code is of.
    #[must_use]
    pub fn level(&self) -> DivisionLevel {
        match self.prefix().len() {
            2 => DivisionLevel::Province,
            4 => DivisionLevel::City,
            6 => DivisionLevel::County,
            9 => DivisionLevel::Town,
            _ => DivisionLevel::Village,
        }
    }

    /// The digits that all divisions within it begin with: `3206` for 320600.
    #[must_use]
    pub fn prefix(&self) -> &str {
        let mut prefix = self.0.as_str();
        if prefix.len() == 6 {
            while let Some(shorter) = prefix.strip_suffix("00") {
                prefix = shorter;
            }
        }
        prefix
    }

    /// True when `other` is this division or lies within it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(self.prefix())
    }

    /// The division one level up, by the code alone; `None` for a province.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let keep = match self.level() {
            DivisionLevel::Province => return None,
            DivisionLevel::City => 2,
            DivisionLevel::County => 4,
            DivisionLevel::Town => 6,
            DivisionLevel::Village => 9,
        };
        self.0.get(..keep).map(|kept| Self(format!("{kept:0<6}")))
    }
}

impl FromStr for DivisionCode {
    type Err = DivisionCodeError;

    fn from_str(text: &str) -> Result<Self, DivisionCodeError> {
        let found = text.chars().count();
        if !matches!(found, 6 | 9 | 12) {
            return Err(DivisionCodeError::Length { found });
        }
        if let Some((i, found)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_digit()) {
            return Err(DivisionCodeError::Digit { found, at: i + 1 });
        }
        let code = Self(text.to_owned());
        let levels = [(0, 2), (2, 4), (4, 6), (6, 9), (9, 12)];
        let empty = |(from, to): (usize, usize)| {
            code.prefix()
                .get(from..to)
                .is_some_and(|part| part.bytes().all(|b| b == b'0'))
        };
        if code.prefix().len() < 2 || levels.into_iter().any(empty) {
            return Err(DivisionCodeError::EmptyLevel);
        }
        Ok(code)
    }
}

impl fmt::Display for DivisionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DivisionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DivisionCode({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> DivisionCode {
        text.parse().expect("a division code")
    }

    #[test]
    fn the_level_follows_from_the_digits() {
        use DivisionLevel::{City, County, Province, Town, Village};
        for (text, level, prefix, parent) in [
            ("320000", Province, "32", None),
            ("320600", City, "3206", Some("320000")),
            ("320681", County, "320681", Some("320600")),
            ("320681100", Town, "320681100", Some("320681")),
            ("320681100200", Village, "320681100200", Some("320681100")),
        ] {
            let code = code(text);
            let parent_of = code.parent().map(|p| p.to_string());
            assert_eq!((code.level(), code.prefix()), (level, prefix));
            assert_eq!(parent_of.as_deref(), parent);
        }
    }

    #[test]
    fn a_division_contains_itself_and_what_is_under_it() {
        assert!(code("320600").contains(&code("320600")));
        assert!(code("320600").contains(&code("320681100")));
        assert!(code("320000").contains(&code("320600")));
        assert!(!code("320681").contains(&code("320600")));
        assert!(!code("320681").contains(&code("320682100")));
        assert!(!code("320681100").contains(&code("320681101")));
    }

    #[test]
    fn filled_up_and_broken_codes_are_refused() {
        let parse = |text: &str| text.parse::<DivisionCode>();
        assert_eq!(parse(""), Err(DivisionCodeError::Length { found: 0 }));
        assert_eq!(parse("3206"), Err(DivisionCodeError::Length { found: 4 }));
        assert_eq!(
            parse("32068a"),
            Err(DivisionCodeError::Digit { found: 'a', at: 6 })
        );
        assert_eq!(
            parse("３２０６８１"),
            Err(DivisionCodeError::Digit {
                found: '３', at: 1
            })
        );
        for text in [
            "000000",
            "320012",
            "003206",
            "320681000",
            "320681000000",
            "320681100000",
        ] {
            assert_eq!(parse(text), Err(DivisionCodeError::EmptyLevel), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parents_contain_their_children(text in "[1-9][1-9][0-9]{4}([0-9]{3}){0,2}") {
            if let Ok(code) = text.parse::<DivisionCode>() {
                prop_assert_eq!(code.as_str(), text);
                let mut at = code.clone();
                while let Some(parent) = at.parent() {
                    prop_assert!(parent.contains(&code) && !at.contains(&parent));
                    prop_assert!(parent.level() < at.level());
                    prop_assert_eq!(parent.as_str().parse(), Ok(parent.clone()));
                    at = parent;
                }
                prop_assert_eq!(at.level(), DivisionLevel::Province);
            }
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = text.parse::<DivisionCode>();
        }
    }
}
