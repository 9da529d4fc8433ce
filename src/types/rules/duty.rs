//! Who has which duty, by the kind of agency that the agency table gives.

use serde::Deserialize;

use super::edition::Wrong;

/// The kinds of agency that may accept and close hazards. A kind that is not named may report and put
/// right, and request acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decisions {
    /// General hazards.
    pub general: Vec<String>,
    /// Major hazards.
    pub major: Vec<String>,
}

impl Decisions {
    /// The kinds for a level.
    #[must_use]
    pub fn of(&self, major: bool) -> &[String] {
        if major { &self.major } else { &self.general }
    }
}

pub(super) fn check_decisions(decisions: &Decisions) -> Result<(), Wrong> {
    for (key, kinds) in [
        ("rules.general", &decisions.general),
        ("rules.major", &decisions.major),
    ] {
        if kinds.is_empty() || kinds.iter().any(|kind| kind.trim().is_empty()) {
            let cause = "must name at least one kind of agency, as agencies.csv has it";
            return Err((key, cause.to_owned()));
        }
    }
    Ok(())
}
