//! Rules that change are data: grades, reporting clocks and correction windows, each edition dated
//! and with its source. An operator can replace the table; the code only evaluates it.
//!
//! An edition holds from its `valid_from` until the next one's. The first one also serves events
//! before it, so that every event finds a rule. The day that counts is that of the occurrence, in
//! Beijing.

mod accident;
mod duty;
mod edition;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use toml::Spanned;

pub use self::accident::{
    Authority, Clocks, CorrectionWindow, FollowUps, Grades, Ordinary, Threshold, TypePrefix,
};
use self::accident::{check_clocks, check_follow_ups, check_grades, check_window};
pub use self::duty::{Decisions, Duties, Duty, Every};
use self::duty::{check_decisions, check_duties};
pub use self::edition::Edition;
use self::edition::{Editions, editions, line_of};
use super::grade::{AccidentGrade, AccidentLosses, EventType};

/// Why a rule table could not be loaded. The operator who replaced it reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not TOML, or a key that is missing, unknown, or has the wrong kind of value.
    #[error("line {line}: {cause}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What the reader found.
        cause: String,
    },
    /// A section without an edition.
    #[error("{section} has no edition: give at least one [[{section}]]")]
    NoEdition {
        /// The section.
        section: &'static str,
    },
    /// An edition whose values do not fit together.
    #[error("line {line}, {key}: {cause}")]
    Rule {
        /// The line on which the edition begins, from 1.
        line: usize,
        /// The key, with its section.
        key: String,
        /// What is wrong and what to do.
        cause: String,
    },
}

/// The dated rules that records are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleTable {
    accident_grades: Editions<Grades>,
    reporting_clocks: Editions<Clocks>,
    correction_windows: Editions<CorrectionWindow>,
    hazard_decisions: Editions<Decisions>,
    reporting_duties: Editions<Duties>,
    follow_up_clocks: Editions<FollowUps>,
}

impl RuleTable {
    /// Order 493 of the State Council, as far as it is verified; see `seeds/rules.toml`.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "built in; a test loads it"
    )]
    pub fn builtin() -> Self {
        Self::from_toml(include_str!("../../seeds/rules.toml")).expect("the built-in rules load")
    }

    /// Loads a table in the form of `seeds/rules.toml`.
    ///
    /// # Errors
    /// The first wrong line: unknown or missing keys; editions out of order or with gaps; thresholds
    /// that do not rise; times of 0 or absurdly long.
    pub fn from_toml(text: &str) -> Result<Self, RuleError> {
        let file: File = toml::from_str(text).map_err(|e| RuleError::Syntax {
            line: e.span().map_or(1, |span| line_of(text, span.start)),
            cause: e.message().to_owned(),
        })?;
        Ok(Self {
            accident_grades: editions(text, "accident_grades", file.accident_grades, check_grades)?,
            reporting_clocks: editions(
                text,
                "reporting_clocks",
                file.reporting_clocks,
                check_clocks,
            )?,
            correction_windows: editions(
                text,
                "correction_windows",
                file.correction_windows,
                check_window,
            )?,
            hazard_decisions: editions(
                text,
                "hazard_decisions",
                file.hazard_decisions,
                check_decisions,
            )?,
            reporting_duties: editions(
                text,
                "reporting_duties",
                file.reporting_duties,
                check_duties,
            )?,
            follow_up_clocks: editions(
                text,
                "follow_up_clocks",
                file.follow_up_clocks,
                check_follow_ups,
            )?,
        })
    }

    /// The grades that held when an accident occurred.
    #[must_use]
    pub fn grades(&self, occurred: Timestamp) -> &Edition<Grades> {
        self.accident_grades.at(occurred)
    }

    /// The grade of an accident.
    #[must_use]
    pub fn grade(&self, losses: &AccidentLosses, occurred: Timestamp) -> AccidentGrade {
        self.grades(occurred).rules.grade(losses)
    }

    /// The reporting clocks that held when an accident occurred.
    #[must_use]
    pub fn clocks(&self, occurred: Timestamp) -> &Edition<Clocks> {
        self.reporting_clocks.at(occurred)
    }

    /// The correction window that held when an accident occurred.
    #[must_use]
    pub fn correction_window(&self, occurred: Timestamp) -> &Edition<CorrectionWindow> {
        self.correction_windows.at(occurred)
    }

    /// Who may accept and close hazards at a time.
    #[must_use]
    pub fn hazard_decisions(&self, at: Timestamp) -> &Edition<Decisions> {
        self.hazard_decisions.at(at)
    }

    /// How long until the next report of an accident that occurred then.
    #[must_use]
    pub fn follow_ups(&self, occurred: Timestamp) -> &Edition<FollowUps> {
        self.follow_up_clocks.at(occurred)
    }

    /// The shortest and the longest time that any edition gives for the next report.
    #[must_use]
    pub fn follow_up_spread(&self) -> (SignedDuration, SignedDuration) {
        let hours = |hours: u32| SignedDuration::from_hours(i64::from(hours));
        let least = |rules: &FollowUps| rules.ordinary_hours.min(rules.grave_hours);
        let greatest = |rules: &FollowUps| rules.ordinary_hours.max(rules.grave_hours);
        let (low, high) = self.follow_up_clocks.spread(least, greatest);
        (hours(low), hours(high))
    }

    /// The shortest and the longest time that any edition gives for forwarding a report.
    #[must_use]
    pub fn forward_spread(&self) -> (SignedDuration, SignedDuration) {
        let minutes = |minutes: u32| SignedDuration::from_mins(i64::from(minutes));
        let length = |rules: &Clocks| rules.authority_to_next_level_minutes;
        let (low, high) = self.reporting_clocks.spread(length, length);
        (minutes(low), minutes(high))
    }

    /// Who must report what at a time.
    #[must_use]
    pub fn duties(&self, at: Timestamp) -> &Edition<Duties> {
        self.reporting_duties.at(at)
    }

    /// The first instant at which a change of casualties is no longer part of the report.
    #[must_use]
    pub fn correction_deadline(&self, event_type: &EventType, occurred: Timestamp) -> Timestamp {
        self.correction_window(occurred)
            .rules
            .deadline(event_type, occurred)
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    accident_grades: Vec<Spanned<Edition<Grades>>>,
    #[serde(default)]
    reporting_clocks: Vec<Spanned<Edition<Clocks>>>,
    #[serde(default)]
    correction_windows: Vec<Spanned<Edition<CorrectionWindow>>>,
    #[serde(default)]
    hazard_decisions: Vec<Spanned<Edition<Decisions>>>,
    #[serde(default)]
    reporting_duties: Vec<Spanned<Edition<Duties>>>,
    #[serde(default)]
    follow_up_clocks: Vec<Spanned<Edition<FollowUps>>>,
}
