//! Who has which duty, by the kind of agency that the agency table gives.

use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::Date};
use serde::Deserialize;

use super::edition::Wrong;
use crate::types::beijing_midnight;

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

/// Who must report what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duties {
    /// Each of them.
    pub duties: Vec<Duty>,
}

/// A duty to report a register, or to sign that there is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duty {
    /// The register.
    pub register: String,
    /// The kinds of agency that have it.
    pub kinds: Vec<String>,
    /// How often.
    pub every: Every,
    /// Hours from the end of the period until it must be done.
    pub due_hours: u32,
}

/// How often something is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// Every day.
    Day,
    /// Every week, from Monday on.
    Week,
    /// Every month.
    Month,
}

impl Every {
    /// The period in which a day lies.
    #[must_use]
    pub fn period(self, day: Date) -> RangeInclusive<Date> {
        match self {
            Self::Day => day..=day,
            Self::Week => {
                let since = i32::from(day.weekday().to_monday_zero_offset());
                let monday = day.saturating_sub(since.days());
                monday..=monday.saturating_add(6.days())
            }
            Self::Month => day.first_of_month()..=day.last_of_month(),
        }
    }
}

impl Duty {
    /// Until when a period must be reported.
    #[must_use]
    pub fn deadline(&self, period: &RangeInclusive<Date>) -> Timestamp {
        let end = beijing_midnight(period.end().saturating_add(1.day()));
        let hours = SignedDuration::from_hours(i64::from(self.due_hours));
        end.saturating_add(hours).unwrap_or(Timestamp::MAX)
    }
}

pub(super) fn check_duties(duties: &Duties) -> Result<(), Wrong> {
    /// A quarter.
    const MAX_HOURS: u32 = 92 * 24;
    for duty in &duties.duties {
        if duty.register.trim().is_empty() || duty.kinds.is_empty() {
            let cause = "each must name a register and at least one kind of agency";
            return Err(("rules.duties", cause.to_owned()));
        }
        if duty.due_hours > MAX_HOURS {
            let cause = format!("due_hours is {}: at most {MAX_HOURS}", duty.due_hours);
            return Err(("rules.duties", cause));
        }
    }
    Ok(())
}
