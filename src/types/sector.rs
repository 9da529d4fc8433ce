//! Industries, GB/T 4754-2017.

use std::fmt;
use std::str::FromStr;

use super::id::{IdError, Syntax, Words, identifier};

identifier!(
    /// An industry by GB/T 4754-2017: a section A to T, or with the 2 digits of a division, 3 of a
    /// group or 4 of a class behind, such as `C2631`. Only the form is checked: published counts of
    /// the classes differ, so no list of them is built in.
    Sector,
    Syntax {
        kind: Words { en: "a sector", zh: "行业代码" },
        rule: Words {
            en: "a letter A to T, alone or followed by 2 to 4 digits (GB/T 4754-2017)",
            zh: "一个字母 A 至 T，可后接 2 至 4 位数字（GB/T 4754-2017）",
        },
        min: 1,
        max: 5,
        first: |c| ('A'..='T').contains(&c),
        inner: |c| c.is_ascii_digit(),
        whole: |s| s.len() != 2,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_stands_alone_or_before_two_to_four_digits() {
        for text in ["A", "T", "C26", "C263", "C2631"] {
            assert_eq!(
                text.parse::<Sector>().map(String::from),
                Ok(text.to_owned())
            );
        }
        for text in ["", "U", "c26", "C2", "C26311", "26", "C2A", "CC2", "Ｃ26"] {
            assert!(text.parse::<Sector>().is_err(), "{text}");
        }
    }
}
