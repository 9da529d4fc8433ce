//! Resource names (AIP-122): records and the collections that they are in.

use std::fmt;
use std::str::FromStr;

use super::id::{AgencyId, IdError, ItemNumber, RegisterId};
use super::reason::FieldReason;
use super::violation::Explain;

/// Why a text is no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `agencies/`, then the parts that the kind of name has.
    #[error("must have the form {expected}")]
    Shape {
        /// The form.
        expected: &'static str,
    },
    /// One of its parts is no identifier.
    #[error("must have the form {expected}: {cause}")]
    Part {
        /// The form.
        expected: &'static str,
        /// What is wrong with the part.
        cause: IdError,
    },
}

impl Explain for NameError {
    fn reason(&self) -> FieldReason {
        match self {
            Self::Shape { .. } => FieldReason::BadFormat,
            Self::Part { cause, .. } => cause.reason(),
        }
    }

    fn zh(&self) -> String {
        match self {
            Self::Shape { expected } => format!("应为 {expected} 的形式"),
            Self::Part { expected, cause } => format!("应为 {expected} 的形式：{}", cause.zh()),
        }
    }
}

/// The name of a record, `agencies/{agency}/{register}/{item}`; at most 169 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName {
    agency: AgencyId,
    register: RegisterId,
    item: ItemNumber,
}

impl RecordName {
    const FORM: &'static str = "agencies/{agency}/{register}/{item}";

    /// Joins its parts.
    #[must_use]
    pub fn new(agency: AgencyId, register: RegisterId, item: ItemNumber) -> Self {
        Self {
            agency,
            register,
            item,
        }
    }

    /// The agency that the record belongs to.
    #[must_use]
    pub fn agency(&self) -> &AgencyId {
        &self.agency
    }

    /// The register that it is in.
    #[must_use]
    pub fn register(&self) -> &RegisterId {
        &self.register
    }

    /// The agency's own number for it.
    #[must_use]
    pub fn item(&self) -> &ItemNumber {
        &self.item
    }

    /// The collection that holds it.
    #[must_use]
    pub fn collection(&self) -> Collection {
        Collection {
            agency: Some(self.agency.clone()),
            register: self.register.clone(),
        }
    }
}

impl FromStr for RecordName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let expected = Self::FORM;
        let part = |cause| NameError::Part { expected, cause };
        let mut parts = text.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some("agencies"), Some(agency), Some(register), Some(item), None) => Ok(Self {
                agency: agency.parse().map_err(part)?,
                register: register.parse().map_err(part)?,
                item: item.parse().map_err(part)?,
            }),
            _ => Err(NameError::Shape { expected }),
        }
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "agencies/{}/{}/{}",
            self.agency, self.register, self.item
        )
    }
}

/// The records of one register, of one agency or (`agencies/-/{register}`, AIP-159) of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection {
    agency: Option<AgencyId>,
    register: RegisterId,
}

impl Collection {
    const FORM: &'static str = "agencies/{agency or -}/{register}";

    /// The collection of one agency, or of all for `None`.
    #[must_use]
    pub fn new(agency: Option<AgencyId>, register: RegisterId) -> Self {
        Self { agency, register }
    }

    /// The agency; `None` for all.
    #[must_use]
    pub fn agency(&self) -> Option<&AgencyId> {
        self.agency.as_ref()
    }

    /// The register.
    #[must_use]
    pub fn register(&self) -> &RegisterId {
        &self.register
    }

    /// True when the record is in it.
    #[must_use]
    pub fn contains(&self, name: &RecordName) -> bool {
        self.register == name.register && self.agency.as_ref().is_none_or(|a| *a == name.agency)
    }
}

impl FromStr for Collection {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let expected = Self::FORM;
        let part = |cause| NameError::Part { expected, cause };
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("agencies"), Some(agency), Some(register), None) => Ok(Self {
                agency: if agency == "-" {
                    None
                } else {
                    Some(agency.parse().map_err(part)?)
                },
                register: register.parse().map_err(part)?,
            }),
            _ => Err(NameError::Shape { expected }),
        }
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agency = self.agency.as_ref().map_or("-", AgencyId::as_str);
        write!(f, "agencies/{agency}/{}", self.register)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_name_has_four_parts() {
        let name: RecordName = "agencies/qidong-emergency/risks/R-2024-0017"
            .parse()
            .expect("a name");
        assert_eq!(name.agency().as_str(), "qidong-emergency");
        assert_eq!(name.register().as_str(), "risks");
        assert_eq!(name.item().as_str(), "R-2024-0017");
        assert_eq!(
            name.collection().to_string(),
            "agencies/qidong-emergency/risks"
        );
    }

    #[test]
    fn other_shapes_are_refused_with_the_form() {
        for text in [
            "",
            "agencies",
            "agencies/qd/risks",
            "agencies/qd/risks/R-1/x",
            "agencies/qd/risks/R-1/",
            "/agencies/qd/risks/R-1",
            "agency/qd/risks/R-1",
            "agencies/-/risks/R-1",
            "agencies/qd//R-1",
            "agencies/qd/risks/",
            "agencies/qd/risks/a b",
        ] {
            let error = text.parse::<RecordName>().expect_err(text).to_string();
            assert!(
                error.starts_with("must have the form agencies/{agency}/"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_collection_contains_its_records() {
        let name: RecordName = "agencies/qidong-emergency/risks/R-1"
            .parse()
            .expect("a name");
        let contains = |c: &str| {
            c.parse::<Collection>()
                .expect("a collection")
                .contains(&name)
        };
        assert!(contains("agencies/-/risks"));
        assert!(contains("agencies/qidong-emergency/risks"));
        assert!(!contains("agencies/-/measures"));
        assert!(!contains("agencies/haian-emergency/risks"));
        for text in [
            "agencies/-",
            "agencies/-/risks/R-1",
            "agencies/--/risks",
            "agencies/-/Risks",
        ] {
            assert!(text.parse::<Collection>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_the_round_trip(
            agency in "[a-z]{2,9}", register in "[a-z]{1,9}", item in "[A-Za-z0-9._-]{0,12}",
        ) {
            let text = format!("agencies/{agency}/{register}/{item}");
            if let Ok(name) = text.parse::<RecordName>() {
                prop_assert_eq!(name.to_string(), text);
                let collection = name.collection();
                prop_assert!(collection.contains(&name));
                prop_assert_eq!(collection.to_string().parse(), Ok(collection));
            } else {
                prop_assert!(item.parse::<ItemNumber>().is_err());
            }
        }
    }
}
