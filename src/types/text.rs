//! Free text in fields: bounded, printable, and without identity numbers of persons.
//!
//! Lengths count characters (Unicode scalar values), as the API states them. Text is taken as it is:
//! nothing is trimmed or normalised, for the submitted bytes are what is hashed. A text of white
//! space alone counts as empty.

use super::personal::{contains_identity_number, contains_mobile_number, half_width};
use super::reason::FieldReason;
use super::violation::Violations;

/// Checks a required text of one line, at most `max_chars` characters.
pub fn required_text<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
) -> Option<&'a str> {
    required(v, path, value, max_chars, Breaks::Refused)
}

/// Checks an optional text of one line; empty is `None` without a violation.
pub fn optional_text<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
) -> Option<&'a str> {
    optional(v, path, value, max_chars, Breaks::Refused)
}

/// Checks a required text that may have line breaks (`\n`) and tabs.
pub fn required_prose<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
) -> Option<&'a str> {
    required(v, path, value, max_chars, Breaks::Allowed)
}

/// Checks an optional text that may have line breaks (`\n`) and tabs; empty is `None`.
pub fn optional_prose<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
) -> Option<&'a str> {
    optional(v, path, value, max_chars, Breaks::Allowed)
}

/// Checks an optional office telephone: a landline with or without area code and extension
/// (`0513-83110000-801`), a service number (`12345`, `95598`), or a 400 or 800 number. Separators
/// are spaces, hyphens and brackets; `+86` may stand in front.
///
/// A mobile number belongs to a person, so it is [`FieldReason::PersonalData`] here. In free text it
/// is let through: there it may be a duty telephone, and cannot be told from one.
pub fn optional_office_phone<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
) -> Option<&'a str> {
    if value.is_empty() {
        return None;
    }
    if is_office_phone(value) {
        return Some(value);
    }
    if contains_mobile_number(value) || contains_identity_number(value) {
        v.field(
            path,
            FieldReason::PersonalData,
            "is a personal number: give the office telephone, such as 0513-83110000",
            "疑似个人号码：请填写单位办公电话，如 0513-83110000",
        );
    } else {
        v.field(
            path,
            FieldReason::BadFormat,
            "is no office telephone: give area code and number, such as 0513-83110000",
            "不是有效的办公电话：请填写区号和号码，如 0513-83110000",
        );
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaks {
    Allowed,
    Refused,
}

fn required<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
    breaks: Breaks,
) -> Option<&'a str> {
    if value.trim().is_empty() {
        v.required(path);
        return None;
    }
    optional(v, path, value, max_chars, breaks)
}

fn optional<'a>(
    v: &mut Violations,
    path: &str,
    value: &'a str,
    max_chars: usize,
    breaks: Breaks,
) -> Option<&'a str> {
    let before = v.len();
    let length = value.chars().count();
    if length > max_chars {
        v.field(
            path,
            FieldReason::TooLong,
            format!("has {length} characters: at most {max_chars} are allowed"),
            format!("共 {length} 个字符：不得超过 {max_chars} 个"),
        );
    }
    if let Some((at, c)) = value
        .chars()
        .enumerate()
        .find(|(_, c)| is_refused(*c, breaks))
    {
        let code = u32::from(c);
        let at = at + 1;
        v.field(
            path,
            FieldReason::ControlCharacter,
            format!("has the control character U+{code:04X} at character {at}: remove it"),
            format!("第 {at} 个字符为控制字符 U+{code:04X}：请删除"),
        );
    }
    if contains_identity_number(value) {
        v.field(
            path,
            FieldReason::PersonalData,
            "holds a citizen identity number: remove it; entries cannot be deleted",
            "含有公民身份号码：请删除；已入账内容无法删除",
        );
    }
    (v.len() == before && !value.trim().is_empty()).then_some(value)
}

/// Control characters, and the invisible ones that reorder or hide what a reader sees: zero-width
/// and bidirectional controls, line and paragraph separators, the byte order mark.
fn is_refused(c: char, breaks: Breaks) -> bool {
    match c {
        '\n' | '\t' => breaks == Breaks::Refused,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{feff}' => true,
        c => c.is_control(),
    }
}

/// The telephone numbering plan of mainland China, as far as an office number needs it: area codes
/// are 010, 02x and 03xx to 09xx; local numbers 7 or 8 digits, none beginning with 0 or 1; service
/// numbers 3 to 6 digits beginning with 1, or 5 beginning with 95 or 96.
fn is_office_phone(value: &str) -> bool {
    let value: String = value.chars().map(half_width).collect();
    let value = value.trim();
    if !value
        .chars()
        .all(|c| c.is_ascii_digit() || " -()+".contains(c))
    {
        return false;
    }
    let groups: Vec<&str> = value
        .split(|c: char| !c.is_ascii_digit())
        .filter(|g| !g.is_empty())
        .collect();
    let (international, groups) = match groups.as_slice() {
        ["86" | "0086", rest @ ..] => (true, rest),
        all => (false, all),
    };
    match groups {
        [one] => is_service(one) || is_landline(one, international),
        ["400" | "800", rest @ ..] => rest.concat().len() == 7,
        [first, second] if is_area(first, international) => is_local(second),
        [first, second, extension] if is_area(first, international) => {
            is_local(second) && is_extension(extension)
        }
        [number, extension] => is_landline(number, international) && is_extension(extension),
        _ => false,
    }
}

fn is_service(number: &str) -> bool {
    let short = number.starts_with('1') && (3..=6).contains(&number.len());
    let five = number.len() == 5 && (number.starts_with("95") || number.starts_with("96"));
    let toll_free = number.len() == 10 && (number.starts_with("400") || number.starts_with("800"));
    short || five || toll_free
}

/// A local number, with its area code in front or without.
fn is_landline(number: &str, international: bool) -> bool {
    is_local(number)
        || (2..=4).any(|n| {
            number
                .split_at_checked(n)
                .is_some_and(|(area, local)| is_area(area, international) && is_local(local))
        })
}

/// An area code; behind +86 its 0 is left out.
fn is_area(code: &str, international: bool) -> bool {
    let code = if international {
        code
    } else {
        code.strip_prefix('0').unwrap_or_default()
    };
    matches!(
        code.as_bytes(),
        [b'1', b'0'] | [b'2', _] | [b'3'..=b'9', _, _]
    )
}

fn is_local(number: &str) -> bool {
    matches!(number.len(), 7 | 8) && number.starts_with(|c| ('2'..='9').contains(&c))
}

fn is_extension(number: &str) -> bool {
    (1..=6).contains(&number.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::testing::identity_number;

    fn reasons<T>(check: impl FnOnce(&mut Violations) -> T) -> Vec<FieldReason> {
        let mut v = Violations::new();
        check(&mut v);
        v.into_iter().map(|v| v.reason).collect()
    }

    #[test]
    fn a_required_text_has_content_and_a_bound() {
        let mut v = Violations::new();
        assert_eq!(
            required_text(&mut v, "title", "液氨储罐泄漏", 6),
            Some("液氨储罐泄漏")
        );
        assert!(v.is_empty());
        assert_eq!(
            reasons(|v| required_text(v, "t", "", 5)),
            [FieldReason::Required]
        );
        assert_eq!(
            reasons(|v| required_text(v, "t", " 　", 5)),
            [FieldReason::Required]
        );
        assert_eq!(
            reasons(|v| required_text(v, "t", "液氨储罐", 3)),
            [FieldReason::TooLong]
        );
        assert_eq!(reasons(|v| optional_text(v, "t", "", 5)), []);
    }

    #[test]
    fn control_characters_are_refused_and_breaks_only_outside_prose() {
        let broken = |text: &'static str| reasons(|v| required_text(v, "t", text, 99));
        for text in [
            "a\u{0}b",
            "a\nb",
            "a\u{202e}b",
            "\u{feff}a",
            "a\u{200b}b",
            "a\u{85}b",
        ] {
            assert_eq!(broken(text), [FieldReason::ControlCharacter], "{text:?}");
        }
        assert_eq!(reasons(|v| required_prose(v, "t", "a\n\tb", 9)), []);
        let carriage = reasons(|v| optional_prose(v, "t", "a\r\nb", 9));
        assert_eq!(carriage, [FieldReason::ControlCharacter]);
    }

    #[test]
    fn every_rule_is_reported_at_once() {
        let found = reasons(|v| required_text(v, "t", "11010519491231002X\n", 5));
        let all = [
            FieldReason::TooLong,
            FieldReason::ControlCharacter,
            FieldReason::PersonalData,
        ];
        assert_eq!(found, all);
    }

    #[test]
    fn office_phones_in_their_usual_forms() {
        for phone in [
            "0513-83110000",
            "051383110000",
            "(0513) 83110000",
            "（0513）83110000",
            "0513-83110000-801",
            "83110000",
            "83110000-801",
            "010-12345678".replace("1234", "6234").as_str(),
            "+86-513-83110000",
            "+86 513 83110000 801",
            "12345",
            "119",
            "95598",
            "400-820-8820",
            "4008208820",
        ] {
            assert_eq!(
                reasons(|v| optional_office_phone(v, "p", phone)),
                [],
                "{phone}"
            );
        }
    }

    #[test]
    fn personal_and_wrong_numbers_are_told_apart() {
        let refused = |phone: &str| reasons(|v| optional_office_phone(v, "p", phone));
        for phone in [
            "13812345678",
            "+86 138 1234 5678",
            "013812345678",
            "0513-83110000/13912345678",
        ] {
            assert_eq!(refused(phone), [FieldReason::PersonalData], "{phone}");
        }
        for phone in [
            "0513",
            "abc",
            "0513-8311",
            "0138-3110000",
            "0513-83110000-1234567",
            "-",
        ] {
            assert_eq!(refused(phone), [FieldReason::BadFormat], "{phone}");
        }
    }

    proptest! {
        #[test]
        fn an_identity_number_in_any_text_is_refused_and_not_echoed(
            before in "[\\p{Han} ]{0,20}", number in identity_number(), after in "[\\p{Han}，。]{0,20}",
        ) {
            let mut v = Violations::new();
            let text = format!("{before}{number}{after}");
            prop_assert_eq!(required_text(&mut v, "note", &text, 100), None);
            prop_assert_eq!(v.len(), 1);
            let found = &v.as_slice()[0];
            prop_assert_eq!(found.reason, FieldReason::PersonalData);
            prop_assert!(!found.en.contains(&number) && !found.zh.contains(&number));
        }

        #[test]
        fn mobile_numbers_are_never_office_phones(mobile in "(\\+86|0086|0)?[ -]?1[3-9][0-9]{9}") {
            let mut v = Violations::new();
            prop_assert_eq!(optional_office_phone(&mut v, "p", &mobile), None);
            prop_assert_eq!(v.as_slice()[0].reason, FieldReason::PersonalData);
        }

        #[test]
        fn no_text_makes_a_check_panic(text in any::<String>()) {
            let mut v = Violations::new();
            let _ = required_prose(&mut v, "t", &text, 10);
            let _ = optional_office_phone(&mut v, "p", &text);
        }
    }
}
