//! Request ids.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::id::{IdError, Words};

/// What makes a retry safe (AIP-155): a UUID that is not all zero, in its canonical lowercase form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    const KIND: Words = Words {
        en: "a request id",
        zh: "请求标识",
    };
    const RULE: Words = Words {
        en: "a UUID of 8-4-4-4-12 hexadecimal digits that is not all zero",
        zh: "8-4-4-4-12 位十六进制的 UUID，且不得全为零",
    };

    /// A new random one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Its 16 bytes, in the order of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl FromStr for RequestId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (kind, rule) = (Self::KIND, Self::RULE);
        let found = text.chars().count();
        if found != 36 {
            return Err(IdError::Length {
                kind,
                min: 36,
                max: 36,
                found,
            });
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if !uuid.is_nil() => Ok(Self(uuid)),
            _ => Err(IdError::Form { kind, rule }),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn request_ids_are_canonical() {
        let id: RequestId = "67E55044-10B1-426F-9247-BB680E5FE0C8"
            .parse()
            .expect("a UUID");
        assert_eq!(id.to_string(), "67e55044-10b1-426f-9247-bb680e5fe0c8");
        for text in [
            "",
            "67e5504410b1426f9247bb680e5fe0c8",
            "{67e55044-10b1-426f-9247-bb680e5fe0c}",
            "00000000-0000-0000-0000-000000000000",
            "67e55044-10b1-426f-9247-bb680e5fe0cg",
        ] {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
        assert_ne!(RequestId::random(), RequestId::random());
    }

    proptest! {
        #[test]
        fn ids_survive_the_round_trip(uuid in 1_u128..) {
            let id = RequestId(Uuid::from_u128(uuid));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.as_bytes(), &uuid.to_be_bytes());
        }

        #[test]
        fn nothing_panics(text in any::<String>(), long in "\\PC{36}") {
            let _ = (text.parse::<RequestId>(), long.parse::<RequestId>());
        }
    }
}
