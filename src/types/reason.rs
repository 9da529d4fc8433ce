//! The rules that a field can break, by stable names.

use std::fmt;

/// The rule that a field broke. The names from [`FieldReason::as_str`] are part of the API and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldReason {
    /// A required field is missing or blank.
    Required,
    /// A text has too many characters.
    TooLong,
    /// A list has too many elements.
    TooMany,
    /// An enum value is unspecified or not known here.
    UnknownEnum,
    /// A text does not have the form that its field asks for.
    BadFormat,
    /// A code is well formed, but its check digit does not fit.
    BadCheckDigit,
    /// A number or a time is outside its range.
    OutOfRange,
    /// A division code is in no row of the division table.
    UnknownDivision,
    /// A division was abolished.
    RetiredDivision,
    /// A division is outside those of the caller.
    NotPermittedDivision,
    /// A time lies in the future.
    InTheFuture,
    /// A value must not come before another one, and does.
    OutOfOrder,
    /// Personal data, which a log that cannot forget must not hold.
    PersonalData,
    /// A name points at a record that does not exist.
    UnknownReference,
    /// The field must not be set, or not to this value, here.
    NotAllowed,
    /// A control or invisible formatting character.
    ControlCharacter,
}

impl FieldReason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 16] = [
        Self::Required,
        Self::TooLong,
        Self::TooMany,
        Self::UnknownEnum,
        Self::BadFormat,
        Self::BadCheckDigit,
        Self::OutOfRange,
        Self::UnknownDivision,
        Self::RetiredDivision,
        Self::NotPermittedDivision,
        Self::InTheFuture,
        Self::OutOfOrder,
        Self::PersonalData,
        Self::UnknownReference,
        Self::NotAllowed,
        Self::ControlCharacter,
    ];

    /// The stable name, such as `BAD_CHECK_DIGIT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "REQUIRED",
            Self::TooLong => "TOO_LONG",
            Self::TooMany => "TOO_MANY",
            Self::UnknownEnum => "UNKNOWN_ENUM",
            Self::BadFormat => "BAD_FORMAT",
            Self::BadCheckDigit => "BAD_CHECK_DIGIT",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::UnknownDivision => "UNKNOWN_DIVISION",
            Self::RetiredDivision => "RETIRED_DIVISION",
            Self::NotPermittedDivision => "NOT_PERMITTED_DIVISION",
            Self::InTheFuture => "IN_THE_FUTURE",
            Self::OutOfOrder => "OUT_OF_ORDER",
            Self::PersonalData => "PERSONAL_DATA",
            Self::UnknownReference => "UNKNOWN_REFERENCE",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::ControlCharacter => "CONTROL_CHARACTER",
        }
    }
}

impl fmt::Display for FieldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_stable_names() {
        let names: std::collections::BTreeSet<_> =
            FieldReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), FieldReason::ALL.len());
        for name in names {
            assert!(
                name.chars().all(|c| c.is_ascii_uppercase() || c == '_'),
                "{name}"
            );
        }
    }
}
