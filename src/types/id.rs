//! Names of one part: nodes, agencies, registers, items, trust domains.

use std::fmt;
use std::str::FromStr;

use super::reason::FieldReason;
use super::violation::Explain;

/// A word in both languages of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// English.
    pub en: &'static str,
    /// Chinese.
    pub zh: &'static str,
}

/// Why a text is no identifier of its kind. None repeats more than one character of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Too short or too long.
    #[error("{} must have {min} to {max} characters, not {found}", kind.en)]
    Length {
        /// What it should have been.
        kind: Words,
        /// The fewest characters.
        min: usize,
        /// The most characters.
        max: usize,
        /// How many it has.
        found: usize,
    },
    /// A character that its kind does not have there.
    #[error("{} must be {}: character {at} is {found:?}", kind.en, rule.en)]
    Character {
        /// What it should have been.
        kind: Words,
        /// What its kind is made of.
        rule: Words,
        /// The character.
        found: char,
        /// Its place, from 1.
        at: usize,
    },
    /// Every character may stand in its kind, but not so.
    #[error("{} must be {}", kind.en, rule.en)]
    Form {
        /// What it should have been.
        kind: Words,
        /// What its kind is made of.
        rule: Words,
    },
}

impl Explain for IdError {
    fn reason(&self) -> FieldReason {
        match self {
            Self::Length { max, found, .. } if found > max => FieldReason::TooLong,
            Self::Length { .. } | Self::Character { .. } | Self::Form { .. } => {
                FieldReason::BadFormat
            }
        }
    }

    fn zh(&self) -> String {
        match self {
            Self::Length {
                kind,
                min,
                max,
                found,
            } => {
                format!("{}应为 {min} 至 {max} 个字符，现为 {found} 个", kind.zh)
            }
            Self::Character {
                kind,
                rule,
                found,
                at,
            } => {
                format!("{}应为{}：第 {at} 个字符是 {found:?}", kind.zh, rule.zh)
            }
            Self::Form { kind, rule } => format!("{}应为{}", kind.zh, rule.zh),
        }
    }
}

/// The form of one kind of identifier.
pub(super) struct Syntax {
    pub kind: Words,
    pub rule: Words,
    pub min: usize,
    pub max: usize,
    /// Characters that may stand anywhere but at the start.
    pub inner: fn(char) -> bool,
    /// Characters that may stand at the start.
    pub first: fn(char) -> bool,
    /// What the whole text must keep besides.
    pub whole: fn(&str) -> bool,
}

impl Syntax {
    pub fn check(&self, text: &str) -> Result<(), IdError> {
        let (kind, rule, min, max) = (self.kind, self.rule, self.min, self.max);
        let found = text.chars().count();
        if !(min..=max).contains(&found) {
            return Err(IdError::Length {
                kind,
                min,
                max,
                found,
            });
        }
        let wrong = |(i, c): &(usize, char)| !(if *i == 0 { self.first } else { self.inner })(*c);
        if let Some((i, found)) = text.chars().enumerate().find(wrong) {
            return Err(IdError::Character {
                kind,
                rule,
                found,
                at: i + 1,
            });
        }
        if (self.whole)(text) {
            Ok(())
        } else {
            Err(IdError::Form { kind, rule })
        }
    }
}

/// Defines a newtype over a text of one [`Syntax`].
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $syntax:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                const SYNTAX: Syntax = $syntax;
                SYNTAX.check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.0)
            }
        }
    };
}
pub(super) use identifier;

/// The form of node, agency and administrator ids: `[a-z][a-z0-9-]{1,61}`, no hyphen doubled or at
/// the end. It fits a DNS label, so that it can stand in host names and certificates.
const fn slug(en: &'static str, zh: &'static str) -> Syntax {
    Syntax {
        kind: Words { en, zh },
        rule: Words {
            en: "a lowercase letter, then lowercase letters, digits and single hyphens, no hyphen last",
            zh: "小写字母开头，后接小写字母、数字和单个连字符，且不以连字符结尾",
        },
        min: 2,
        max: 62,
        first: |c| c.is_ascii_lowercase(),
        inner: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
        whole: |s| !s.contains("--") && !s.ends_with('-'),
    }
}

identifier!(
    /// A running gateway, such as `qidong`. No division code: city-run zones have none.
    NodeId,
    slug("a node id", "节点标识")
);

identifier!(
    /// An organisation that calls the gateway, such as `qidong-emergency`.
    AgencyId,
    slug("an agency id", "单位标识")
);

identifier!(
    /// A person or program that administers nodes, such as `duty-desk`.
    AdminId,
    slug("an administrator id", "管理员标识")
);

identifier!(
    /// The SPIFFE trust domain that certificates and logs belong to, such as `nantong.gov.cn`.
    ///
    /// DNS-like: labels of lowercase letters, digits and inner hyphens, joined by dots; at most 180
    /// characters, so that every [`Origin`](super::Origin) fits in 255 bytes.
    TrustDomain,
    Syntax {
        kind: Words { en: "a trust domain", zh: "信任域" },
        rule: Words {
            en: "labels of lowercase letters, digits and inner hyphens, joined by single dots",
            zh: "由单个点连接的若干标签，每个标签由小写字母、数字和中间的连字符组成",
        },
        min: 1,
        max: 180,
        first: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
        inner: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.',
        whole: |s| s.split('.').all(|l| {
            !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-')
        }),
    }
);

identifier!(
    /// An agency's own number for an item, such as `R-2024-0017`: 1 to 64 of `A-Z a-z 0-9 . _ -`,
    /// beginning with a letter or digit, without `..`. Case is kept and counts.
    ///
    /// Not searched for identity numbers: a division code, a date and a serial number, a common
    /// form of item number, has their shape and passes their check once in eleven.
    ItemNumber,
    Syntax {
        kind: Words { en: "an item number", zh: "条目编号" },
        rule: Words {
            en: "a letter or digit, then letters, digits, '.', '_' and '-', without \"..\"",
            zh: "字母或数字开头，后接字母、数字、“.”“_”“-”，且不含“..”",
        },
        min: 1,
        max: 64,
        first: |c| c.is_ascii_alphanumeric(),
        inner: |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
        whole: |s| !s.contains(".."),
    }
);

identifier!(
    /// A kind of record, in the plural, such as `risks`: 1 to 32 lowercase letters.
    RegisterId,
    Syntax {
        kind: Words { en: "a register", zh: "登记簿名称" },
        rule: Words { en: "lowercase letters", zh: "小写字母" },
        min: 1,
        max: 32,
        first: |c| c.is_ascii_lowercase(),
        inner: |c| c.is_ascii_lowercase(),
        whole: |_| true,
    }
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error<T: FromStr<Err = IdError> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().expect_err("refused").to_string()
    }

    #[test]
    fn slugs_take_what_a_dns_label_takes() {
        for text in [
            "qd",
            "qidong-emergency",
            "a1",
            &format!("a{}", "b".repeat(61)),
        ] {
            assert_eq!(
                text.parse::<AgencyId>().map(|a| a.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in [
            "", "q", "1a", "-a", "a-", "a--b", "Qidong", "a_b", "启东", "a b", "a/b",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
        assert!("a".repeat(63).parse::<NodeId>().is_err());
    }

    #[test]
    fn errors_say_what_and_where() {
        assert_eq!(
            error::<NodeId>("q"),
            "a node id must have 2 to 62 characters, not 1"
        );
        assert_eq!(
            error::<RegisterId>("riskS"),
            "a register must be lowercase letters: character 5 is 'S'"
        );
        assert!(
            error::<AgencyId>("a--b").starts_with("an agency id must be a lowercase letter, then")
        );
        let long = "a".repeat(63).parse::<NodeId>().expect_err("too long");
        assert_eq!(long.reason(), FieldReason::TooLong);
        assert_eq!(long.zh(), "节点标识应为 2 至 62 个字符，现为 63 个");
    }

    #[test]
    fn item_numbers_and_trust_domains() {
        for text in ["R-2024-0017", "7", "a.b_c-d", "a.b."] {
            assert!(text.parse::<ItemNumber>().is_ok(), "{text}");
        }
        for text in ["", "-1", ".a", "a..b", "a/b", "风险1", &"a".repeat(65)] {
            assert!(text.parse::<ItemNumber>().is_err(), "{text}");
        }
        for text in ["nantong.gov.cn", "localhost", "a-b.c", "0.a"] {
            assert!(text.parse::<TrustDomain>().is_ok(), "{text}");
        }
        for text in [
            "",
            ".cn",
            "a..b",
            "a.",
            "-a.b",
            "a-.b",
            "A.b",
            "a_b",
            "a:1",
            &"a".repeat(64),
        ] {
            assert!(text.parse::<TrustDomain>().is_err(), "{text}");
        }
    }

    #[test]
    fn configuration_reads_and_refuses_them() {
        #[derive(Debug, serde::Deserialize)]
        struct Config {
            node: NodeId,
        }
        let config: Config = toml::from_str("node = \"qidong\"").expect("a valid id");
        assert_eq!(config.node.as_str(), "qidong");
        let error = toml::from_str::<Config>("node = \"Qidong\"").expect_err("a bad id");
        assert!(error.to_string().contains("character 1 is 'Q'"), "{error}");
    }

    proptest! {
        #[test]
        fn well_formed_ids_survive_the_round_trip(
            slug in "[a-z][a-z0-9](-?[a-z0-9]){0,20}",
            item in "[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
            domain in "[a-z0-9]{1,9}(\\.[a-z0-9](-?[a-z0-9]){0,8}){0,3}",
        ) {
            prop_assert_eq!(slug.parse::<NodeId>().map(String::from), Ok(slug));
            prop_assert_eq!(item.parse::<ItemNumber>().map(String::from), Ok(item));
            prop_assert_eq!(domain.parse::<TrustDomain>().map(String::from), Ok(domain));
        }

        #[test]
        fn whatever_parses_prints_the_same_and_nothing_panics(text in any::<String>()) {
            if let Ok(id) = text.parse::<AgencyId>() {
                prop_assert_eq!(id.to_string(), text.clone());
            }
            let _ = (text.parse::<ItemNumber>(), text.parse::<TrustDomain>());
        }
    }
}
