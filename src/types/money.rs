//! Money.

use std::fmt;

use super::reason::FieldReason;
use super::violation::Violations;

/// An amount of renminbi in fen (分, a hundredth of a yuan), 0 or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fen(i64);

/// A negative amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an amount must be 0 fen or more, not {0}")]
pub struct FenError(pub i64);

impl Fen {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The number of fen.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// Checks an amount in a field.
    pub fn check(v: &mut Violations, path: &str, fen: i64) -> Option<Self> {
        let amount = Self::try_from(fen).ok();
        if amount.is_none() {
            v.field(
                path,
                FieldReason::OutOfRange,
                format!("is {fen} fen: must be 0 or more"),
                format!("为 {fen} 分：不得小于 0"),
            );
        }
        amount
    }
}

impl TryFrom<i64> for Fen {
    type Error = FenError;

    fn try_from(fen: i64) -> Result<Self, FenError> {
        if fen < 0 {
            Err(FenError(fen))
        } else {
            Ok(Self(fen))
        }
    }
}

impl From<Fen> for i64 {
    fn from(amount: Fen) -> Self {
        amount.0
    }
}

/// In yuan, with two decimals.
impl fmt::Display for Fen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn amounts_are_not_negative(fen in any::<i64>()) {
            let mut v = Violations::new();
            let amount = Fen::check(&mut v, "direct_loss_fen", fen);
            prop_assert_eq!(amount.map(Fen::as_i64), (fen >= 0).then_some(fen));
            prop_assert_eq!(v.is_empty(), fen >= 0);
        }
    }

    #[test]
    fn amounts_print_in_yuan() {
        assert_eq!(Fen(123_405).to_string(), "1234.05");
        assert_eq!(Fen::ZERO.to_string(), "0.00");
        assert_eq!(Fen::try_from(-1), Err(FenError(-1)));
    }
}
