//! Finds numbers of persons in text, so that they stay out of a log that cannot forget.
//!
//! Citizen identity numbers are GB 11643-1999: six digits of division, eight of birth date, three of
//! sequence, one check character (ISO 7064 MOD 11-2). They are found anywhere in a text, also inside
//! longer runs of digits, in full-width digits, and split into their groups (6, 8, 4) by a space or
//! a hyphen. The 15-digit numbers of before 1999 carry no check and are not looked for.
//!
//! A unified social credit code is no false alarm unless all its 18 characters are digits, its
//! division ends in 19 or 20, and both date and check fit by chance; no division of Nantong does.

use jiff::civil::Date;

/// The weight of each of the first 17 digits, GB 11643-1999.
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
/// The check character for each remainder modulo 11.
const CHECKS: [char; 11] = ['1', '0', 'X', '9', '8', '7', '6', '5', '4', '3', '2'];
/// Digits in an identity number.
const LENGTH: usize = 18;
/// Digits from which [`mask_long_numbers`] hides a number: a mobile number has 11.
const MASKED_FROM: usize = 11;

/// True when `text` holds a valid citizen identity number anywhere.
#[must_use]
pub fn contains_identity_number(text: &str) -> bool {
    // Nearly every text has too few digits, and that is soon seen.
    let digits = text.chars().map(half_width).filter(char::is_ascii_digit);
    if digits.take(LENGTH - 1).count() < LENGTH - 1 {
        return false;
    }
    let chars: Vec<char> = text.chars().map(half_width).collect();
    (0..chars.len()).any(|start| identity_number_at(chars.get(start..).unwrap_or(&[])))
}

/// True when `text` is, apart from separators and a country prefix, one mobile number of mainland
/// China (1, then 3 to 9, then nine digits), or holds one as a run of its own.
#[must_use]
pub fn contains_mobile_number(text: &str) -> bool {
    let joined: String = text
        .chars()
        .map(half_width)
        .filter(|c| !is_separator(*c) && !"()（）".contains(*c))
        .collect();
    joined.split(|c: char| !c.is_ascii_digit()).any(|run| {
        let run = ["0086", "86", "0"]
            .iter()
            .find_map(|p| run.strip_prefix(p))
            .unwrap_or(run);
        let mut digits = run.chars();
        run.len() == 11
            && digits.next() == Some('1')
            && digits.next().is_some_and(|c| ('3'..='9').contains(&c))
    })
}

/// The text with `*` for every digit of a number of 11 digits or more, separators not counted.
#[must_use]
pub fn mask_long_numbers(text: &str) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let in_number = |c: char| half_width(c).is_ascii_digit() || is_separator(c);
    for run in chars.chunk_by_mut(|a, b| in_number(*a) == in_number(*b)) {
        let is_digit = |c: &char| half_width(*c).is_ascii_digit();
        if run.iter().filter(|c| is_digit(c)).count() >= MASKED_FROM {
            run.iter_mut()
                .filter(|c| is_digit(c))
                .for_each(|c| *c = '*');
        }
    }
    chars.into_iter().collect()
}

/// Full-width forms of ASCII (U+FF01 to U+FF5E) as ASCII; every other character as it is.
pub(super) fn half_width(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{3000}' => ' ',
        _ => c,
    }
}

fn is_separator(c: char) -> bool {
    matches!(half_width(c), ' ' | '-' | '\u{2013}' | '\u{2014}')
}

/// True when an identity number starts at the first of `chars`.
fn identity_number_at(chars: &[char]) -> bool {
    let mut number = Vec::with_capacity(LENGTH);
    let mut rest = chars;
    for group in [6, 8, 4] {
        if let Some((first, tail)) = rest.split_first()
            && !number.is_empty()
            && is_separator(*first)
        {
            rest = tail;
        }
        let Some((head, tail)) = rest.split_at_checked(group) else {
            return false;
        };
        number.extend_from_slice(head);
        rest = tail;
    }
    is_identity_number(&number)
}

/// Checks 18 characters: no leading zero, a date from 1900 to 2099, and the check character.
fn is_identity_number(number: &[char]) -> bool {
    let Some((check, digits)) = number.split_last() else {
        return false;
    };
    let Some(digits) = digits
        .iter()
        .map(|c| c.to_digit(10))
        .collect::<Option<Vec<u32>>>()
    else {
        return false;
    };
    let sum: u32 = digits.iter().zip(WEIGHTS).map(|(d, w)| d * w).sum();
    let fits =
        CHECKS.iter().cycle().nth(sum as usize % CHECKS.len()) == Some(&check.to_ascii_uppercase());
    fits && digits.first() != Some(&0) && digits.get(6..14).is_some_and(is_birth_date)
}

fn is_birth_date(digits: &[u32]) -> bool {
    let date = digits.iter().fold(0, |n, d| n * 10 + d);
    let part = |n: u32| i8::try_from(n % 100).unwrap_or(0);
    let year = i16::try_from(date / 10_000).unwrap_or(0);
    (1900..2100).contains(&year) && Date::new(year, part(date / 100), part(date)).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::testing::{identity_number, uscc};

    #[test]
    fn published_examples_are_found() {
        // The examples of GB 11643-1999 itself.
        for number in ["11010519491231002X", "440524188001010014"] {
            let found = contains_identity_number(number);
            assert_eq!(found, !number.contains("1880"), "{number}");
        }
        for text in [
            "责任人身份证11010519491231002x，电话另报",
            "110105 19491231 002X",
            "110105-19491231-002X",
            "１１０１０５１９４９１２３１００２Ｘ",
            "编号0011010519491231002X9",
        ] {
            assert!(contains_identity_number(text), "{text}");
        }
    }

    #[test]
    fn other_numbers_are_not() {
        for text in [
            "",
            "110105194912310021",
            "11010519490230002X",
            "91350100M000100Y43",
            "91110000101623741K",
            "911101066976941872",
            "0513-83110000 0513-83110001",
            "13812345678 13912345678",
            "1101051949 1231002X",
        ] {
            assert!(!contains_identity_number(text), "{text}");
        }
    }

    #[test]
    fn mobile_numbers_are_told_from_landlines() {
        for text in [
            "13812345678",
            "+86 138 1234 5678",
            "0086-19912345678",
            "013812345678",
            "值班 １３８１２３４５６７８",
        ] {
            assert!(contains_mobile_number(text), "{text}");
        }
        for text in [
            "0513-83110000",
            "12345",
            "12012345678",
            "400-820-8820",
            "138123456789",
        ] {
            assert!(!contains_mobile_number(text), "{text}");
        }
    }

    #[test]
    fn long_numbers_are_masked_and_short_ones_kept() {
        assert_eq!(mask_long_numbers("张 13812345678"), "张 ***********");
        assert_eq!(mask_long_numbers("0513-8311000"), "****-*******");
        assert_eq!(mask_long_numbers("2024-01-17"), "2024-01-17");
    }

    proptest! {
        #[test]
        fn every_valid_number_is_found_in_any_text(
            before in "\\PC{0,12}", number in identity_number(), after in "\\PC{0,12}",
        ) {
            let text = format!("{before}{number}{after}");
            prop_assert!(contains_identity_number(&text));
            prop_assert!(!mask_long_numbers(&text).contains(&number));
        }

        #[test]
        fn every_valid_number_is_found_in_groups_and_full_width(
            number in identity_number(), a in "[ -]?", b in "[ -]?",
        ) {
            let (area, rest) = number.split_at(6);
            let (date, tail) = rest.split_at(8);
            let text = format!("{area}{a}{date}{b}{tail}");
            prop_assert!(contains_identity_number(&text));
            let wide: String = text.chars()
                .map(|c| char::from_u32(u32::from(c) + 0xfee0).filter(|_| c != ' ').unwrap_or(c))
                .collect();
            prop_assert!(contains_identity_number(&wide));
        }

        #[test]
        fn a_changed_check_character_is_not_found(number in identity_number(), by in 1_usize..11) {
            let (body, check) = number.split_at(17);
            let at = CHECKS.iter().position(|c| check.starts_with(*c)).unwrap_or(0);
            let wrong = CHECKS[(at + by) % CHECKS.len()];
            let text = format!("{body}{wrong}");
            prop_assert!(!contains_identity_number(&text));
        }

        #[test]
        fn credit_codes_and_phones_are_no_false_alarm(
            code in uscc(), phone in "0513-[2-8][0-9]{7}", mobile in "1[3-9][0-9]{9}",
        ) {
            prop_assert!(!contains_identity_number(&code));
            let phones = format!("{phone} {mobile}");
            prop_assert!(!contains_identity_number(&phones));
        }
    }
}
