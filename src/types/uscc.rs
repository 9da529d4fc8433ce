//! Unified social credit codes (统一社会信用代码), GB 32100-2015.

use std::fmt;
use std::str::FromStr;

use super::reason::FieldReason;
use super::violation::{Explain, Violations};

/// The 31 characters of GB 32100; a character's value is its place. No I, O, S, V, Z.
const ALPHABET: &str = "0123456789ABCDEFGHJKLMNPQRTUWXY";
/// Weights of the first 17 characters: powers of 3 modulo 31.
const WEIGHTS: [u32; 17] = [
    1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28,
];
/// Weights of the eight characters of an organisation code, GB 11714-1997.
const ORGANISATION_WEIGHTS: [u32; 8] = [3, 7, 9, 10, 5, 8, 4, 2];

/// Why a text is no unified social credit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsccError {
    /// Not 18 characters.
    #[error("a unified social credit code must have 18 characters, not {found}")]
    Length {
        /// How many it has.
        found: usize,
    },
    /// A character that the standard does not have there.
    #[error(
        "a unified social credit code must be digits and capital letters without I, O, S, V and Z, \
         digits in places 3 to 8: character {at} is {found:?}"
    )]
    Character {
        /// The character.
        found: char,
        /// Its place, from 1.
        at: usize,
    },
    /// A check character does not fit the ones before it.
    #[error(
        "the check character in place {at} of the unified social credit code does not fit: check \
         the code against the licence, or say in the override reason why it is right all the same"
    )]
    CheckDigit {
        /// 17 (GB 11714, of places 9 to 16) or 18 (GB 32100, of all before it).
        at: usize,
    },
}

impl Explain for UsccError {
    fn reason(&self) -> FieldReason {
        match self {
            Self::Length { .. } | Self::Character { .. } => FieldReason::BadFormat,
            Self::CheckDigit { .. } => FieldReason::BadCheckDigit,
        }
    }

    fn zh(&self) -> String {
        match self {
            Self::Length { found } => format!("统一社会信用代码应为 18 个字符，现为 {found} 个"),
            Self::Character { found, at } => format!(
                "统一社会信用代码应为数字和大写字母（不含 I、O、S、V、Z），第 3 至 8 位为数字：\
                 第 {at} 个字符是 {found:?}"
            ),
            Self::CheckDigit { at } => format!(
                "统一社会信用代码第 {at} 位校验码不符：请对照营业执照核对；确属发证原因的，请填写说明"
            ),
        }
    }
}

/// A unified social credit code whose form is right, and whose check characters fit or were
/// overridden with a recorded reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uscc {
    code: String,
    overridden: bool,
}

impl Uscc {
    /// The 18 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.code
    }

    /// True when a check character does not fit and the caller vouched for the code.
    #[must_use]
    pub fn is_overridden(&self) -> bool {
        self.overridden
    }
}

impl FromStr for Uscc {
    type Err = UsccError;

    /// Takes only codes whose check characters fit.
    fn from_str(text: &str) -> Result<Self, UsccError> {
        let values = values(text)?;
        if text.chars().nth(16) != organisation_check(text) {
            return Err(UsccError::CheckDigit { at: 17 });
        }
        if values.last() != Some(&check_value(&values)) {
            return Err(UsccError::CheckDigit { at: 18 });
        }
        Ok(Self {
            code: text.to_owned(),
            overridden: false,
        })
    }
}

impl fmt::Display for Uscc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)
    }
}

/// The values of 18 well-formed characters.
fn values(text: &str) -> Result<Vec<u32>, UsccError> {
    let found = text.chars().count();
    if found != 18 {
        return Err(UsccError::Length { found });
    }
    let value = |(i, found): (usize, char)| {
        let digits_only = (2..8).contains(&i);
        ALPHABET
            .chars()
            .zip(0..)
            .find(|(c, _)| *c == found && (c.is_ascii_digit() || !digits_only))
            .map(|(_, value)| value)
            .ok_or(UsccError::Character { found, at: i + 1 })
    };
    text.chars().enumerate().map(value).collect()
}

/// The value of the check character in place 18, from the 17 before it.
fn check_value(values: &[u32]) -> u32 {
    let sum: u32 = values.iter().zip(WEIGHTS).map(|(c, w)| c * w).sum();
    // The outer modulus matters: with a remainder of 0 the check is 0, not 31.
    (31 - sum % 31) % 31
}

/// The check character of the organisation code in places 9 to 16; A = 10 to Z = 35.
fn organisation_check(text: &str) -> Option<char> {
    let digits = text.chars().skip(8).filter_map(|c| c.to_digit(36));
    let sum: u32 = digits.zip(ORGANISATION_WEIGHTS).map(|(c, w)| c * w).sum();
    match 11 - sum % 11 {
        11 => Some('0'),
        10 => Some('X'),
        n => char::from_digit(n, 10),
    }
}

/// Checks an optional code; empty is `None` without a violation, for small traders may have none.
///
/// A code that fails nothing but a check character is taken when `override_reason` has content:
/// codes have been misissued. A wrong length or character never is.
pub fn check_uscc(
    v: &mut Violations,
    path: &str,
    code: &str,
    override_reason: &str,
) -> Option<Uscc> {
    if code.is_empty() {
        return None;
    }
    match code.parse() {
        Ok(uscc) => Some(uscc),
        Err(UsccError::CheckDigit { .. }) if !override_reason.trim().is_empty() => Some(Uscc {
            code: code.to_owned(),
            overridden: true,
        }),
        Err(error) => {
            v.explain(path, &error);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::testing;

    const REAL: [&str; 3] = [
        "91350100M000100Y43",
        "91110000101623741K",
        "911101066976941872",
    ];
    const MISISSUED: &str = "91350211M0000XUF46";

    #[test]
    fn known_codes_are_judged_as_known() {
        // The last two have remainders 0 and 1, where the common mistakes are.
        for code in REAL
            .into_iter()
            .chain(["91320600MA000004X0", "91320600MA0000170Y"])
        {
            assert_eq!(
                code.parse::<Uscc>().map(|u| u.to_string()),
                Ok(code.to_owned())
            );
        }
        for (code, wanted, wrong) in [("91310115MA1H8R7C6D", '7', 17), (MISISSUED, 'R', 18)] {
            assert_eq!(
                code.parse::<Uscc>(),
                Err(UsccError::CheckDigit { at: wrong }),
                "{code}"
            );
            let check = check_value(&values(code).expect("well formed"));
            assert_eq!(ALPHABET.find(wanted), Some(check as usize), "{code}");
        }
        assert!("91350211M0000XUF4R".parse::<Uscc>().is_ok());
    }

    #[test]
    fn every_change_of_one_character_is_caught() {
        for code in REAL {
            let mut changed = 0;
            for at in 0..18 {
                for c in ALPHABET.chars().filter(|c| !code[at..].starts_with(*c)) {
                    let wrong = format!("{}{c}{}", &code[..at], &code[at + 1..]);
                    assert!(wrong.parse::<Uscc>().is_err(), "{wrong}");
                    changed += 1;
                }
            }
            assert_eq!(changed, 540);
        }
    }

    #[test]
    fn errors_name_the_place() {
        let parse = |text: &str| text.parse::<Uscc>();
        assert_eq!(parse("9135"), Err(UsccError::Length { found: 4 }));
        assert_eq!(
            parse("9135010OM000100Y43"),
            Err(UsccError::Character { found: 'O', at: 8 })
        );
        assert_eq!(
            parse("9135010AM000100Y43"),
            Err(UsccError::Character { found: 'A', at: 8 })
        );
        assert_eq!(
            parse("91350100m000100Y43"),
            Err(UsccError::Character { found: 'm', at: 9 })
        );
        assert_eq!(
            parse("91350100M000100Z43"),
            Err(UsccError::Character { found: 'Z', at: 16 })
        );
        assert_eq!(
            parse("91350100M000101Y43"),
            Err(UsccError::CheckDigit { at: 17 })
        );
    }

    #[test]
    fn only_a_check_character_can_be_overridden() {
        let check = |code: &str, reason: &str| {
            let mut v = Violations::new();
            let taken = check_uscc(&mut v, "uscc", code, reason).map(|u| u.is_overridden());
            (taken, v.into_iter().next().map(|v| v.reason))
        };
        assert_eq!(check("", ""), (None, None));
        assert_eq!(check(REAL[0], "多余的说明"), (Some(false), None));
        assert_eq!(check(MISISSUED, "发证机关赋码有误"), (Some(true), None));
        assert_eq!(
            check(MISISSUED, " "),
            (None, Some(FieldReason::BadCheckDigit))
        );
        assert_eq!(
            check("9135021", "理由"),
            (None, Some(FieldReason::BadFormat))
        );
        assert_eq!(
            check("91350211I0000XUF46", "理由"),
            (None, Some(FieldReason::BadFormat))
        );
    }

    proptest! {
        #[test]
        fn generated_codes_are_valid_and_neighbours_are_not(
            code in testing::uscc(), at in 0_usize..18, by in 1_usize..31,
        ) {
            prop_assert_eq!(code.parse::<Uscc>().map(|u| u.to_string()), Ok(code.clone()));
            let old = ALPHABET.find(&code[at..=at]).expect("in the alphabet");
            let new = &ALPHABET[(old + by) % 31..=(old + by) % 31];
            let wrong = format!("{}{new}{}", &code[..at], &code[at + 1..]);
            prop_assert!(wrong.parse::<Uscc>().is_err());
        }

        #[test]
        fn nothing_panics(text in any::<String>(), chars in "\\PC{18}") {
            let _ = (text.parse::<Uscc>(), chars.parse::<Uscc>());
        }
    }
}
