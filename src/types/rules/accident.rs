//! The rules of accidents: grades, reporting clocks, correction windows.

use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::Deserialize;

use super::edition::Wrong;
use crate::types::{AccidentGrade, AccidentLosses, EventType, beijing_date, beijing_midnight};

/// What takes an accident into a grade: any one of the three, reached or passed (以上 includes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Deaths from which on the grade applies.
    pub deaths: u32,
    /// Serious injuries from which on the grade applies.
    pub serious_injuries: u32,
    /// Direct economic loss in fen from which on the grade applies.
    pub direct_loss_fen: i64,
    /// Up to whom an accident of the grade is reported.
    pub report_up_to: Authority,
}

impl Threshold {
    fn is_reached(&self, losses: &AccidentLosses) -> bool {
        losses.deaths >= self.deaths
            || losses.serious_injuries >= self.serious_injuries
            || losses.direct_loss.as_i64() >= self.direct_loss_fen
    }

    fn is_below(&self, other: &Self) -> bool {
        self.deaths < other.deaths
            && self.serious_injuries < other.serious_injuries
            && self.direct_loss_fen < other.direct_loss_fen
    }
}

/// The tiers of government that reports go up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// 县级人民政府.
    County,
    /// 设区的市级人民政府.
    City,
    /// 省级人民政府.
    Province,
    /// 国务院.
    StateCouncil,
}

/// The grades of accidents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grades {
    /// What reaches no threshold.
    pub ordinary: Ordinary,
    /// 较大.
    pub larger: Threshold,
    /// 重大.
    pub major: Threshold,
    /// 特别重大.
    pub especially_major: Threshold,
}

/// The grade that needs no threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ordinary {
    /// Up to whom it is reported.
    pub report_up_to: Authority,
}

impl Grades {
    /// The worst grade that any of the three losses reaches.
    #[must_use]
    pub fn grade(&self, losses: &AccidentLosses) -> AccidentGrade {
        [
            (AccidentGrade::EspeciallyMajor, &self.especially_major),
            (AccidentGrade::Major, &self.major),
            (AccidentGrade::Larger, &self.larger),
        ]
        .into_iter()
        .find(|(_, threshold)| threshold.is_reached(losses))
        .map_or(AccidentGrade::Ordinary, |(grade, _)| grade)
    }

    /// Up to whom an accident of a grade is reported.
    #[must_use]
    pub fn report_up_to(&self, grade: AccidentGrade) -> Authority {
        match grade {
            AccidentGrade::Ordinary => self.ordinary.report_up_to,
            AccidentGrade::Larger => self.larger.report_up_to,
            AccidentGrade::Major => self.major.report_up_to,
            AccidentGrade::EspeciallyMajor => self.especially_major.report_up_to,
        }
    }
}

/// How long each hop of a report may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// Minutes for the unit's head, from being told, to report to the authority.
    pub unit_to_authority_minutes: u32,
    /// Minutes for an authority, from receipt, to forward to the next level.
    pub authority_to_next_level_minutes: u32,
}

impl Clocks {
    /// Until when the authority must be told, the unit's head having been told at `informed`.
    #[must_use]
    pub fn authority_deadline(&self, informed: Timestamp) -> Timestamp {
        after_minutes(informed, self.unit_to_authority_minutes)
    }

    /// Until when the report must be forwarded that was received at `received`.
    #[must_use]
    pub fn forward_deadline(&self, received: Timestamp) -> Timestamp {
        after_minutes(received, self.authority_to_next_level_minutes)
    }
}

/// How long until the next report of an accident whose final report is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowUps {
    /// Hours, up to 较大.
    pub ordinary_hours: u32,
    /// Hours, from 重大 on.
    pub grave_hours: u32,
}

impl FollowUps {
    /// Until when the next report must be made, the last one having been taken at `last`.
    #[must_use]
    pub fn deadline(&self, grave: bool, last: Timestamp) -> Timestamp {
        let hours = if grave {
            self.grave_hours
        } else {
            self.ordinary_hours
        };
        after_minutes(last, hours * 60)
    }
}

pub(super) fn check_follow_ups(follow_ups: &FollowUps) -> Result<(), Wrong> {
    /// A month.
    const MAX_HOURS: u32 = 31 * 24;
    for (key, hours) in [
        ("rules.ordinary_hours", follow_ups.ordinary_hours),
        ("rules.grave_hours", follow_ups.grave_hours),
    ] {
        if !(1..=MAX_HOURS).contains(&hours) {
            return Err((key, format!("is {hours}: must be 1 to {MAX_HOURS}")));
        }
    }
    Ok(())
}

/// How long a change of casualties is part of the report.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectionWindow {
    /// Days for accidents in general.
    pub days: u16,
    /// Days for the event types of `short_types`.
    pub short_days: u16,
    /// The event types with the short window.
    pub short_types: Vec<TypePrefix>,
    /// True when the day of the accident is day 1, false when the day after it is.
    pub day_of_accident_counts: bool,
}

/// All event types of a scheme whose code begins so.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypePrefix {
    /// The code system.
    pub scheme: String,
    /// How the code begins.
    pub prefix: String,
}

impl CorrectionWindow {
    /// The first instant after the window: midnight in Beijing behind its last day.
    #[must_use]
    pub fn deadline(&self, event_type: &EventType, occurred: Timestamp) -> Timestamp {
        let short = self
            .short_types
            .iter()
            .any(|t| t.scheme == event_type.scheme() && event_type.code().starts_with(&t.prefix));
        let days = if short { self.short_days } else { self.days };
        let after_last = i32::from(days) + i32::from(!self.day_of_accident_counts);
        beijing_midnight(beijing_date(occurred).saturating_add(after_last.days()))
    }
}

pub(super) fn check_grades(grades: &Grades) -> Result<(), Wrong> {
    let rises = "must be above the grade below it in deaths, injuries and loss";
    let Grades {
        larger,
        major,
        especially_major,
        ..
    } = grades;
    if larger.deaths == 0 || larger.serious_injuries == 0 || larger.direct_loss_fen <= 0 {
        return Err(("rules.larger", "must have no threshold of 0".to_owned()));
    }
    if !larger.is_below(major) {
        return Err(("rules.major", rises.to_owned()));
    }
    if !major.is_below(especially_major) {
        return Err(("rules.especially_major", rises.to_owned()));
    }
    Ok(())
}

pub(super) fn check_clocks(clocks: &Clocks) -> Result<(), Wrong> {
    /// A week.
    const MAX_MINUTES: u32 = 7 * 24 * 60;
    for (key, minutes) in [
        (
            "rules.unit_to_authority_minutes",
            clocks.unit_to_authority_minutes,
        ),
        (
            "rules.authority_to_next_level_minutes",
            clocks.authority_to_next_level_minutes,
        ),
    ] {
        if !(1..=MAX_MINUTES).contains(&minutes) {
            return Err((key, format!("is {minutes}: must be 1 to {MAX_MINUTES}")));
        }
    }
    Ok(())
}

pub(super) fn check_window(window: &CorrectionWindow) -> Result<(), Wrong> {
    for (key, days) in [
        ("rules.days", window.days),
        ("rules.short_days", window.short_days),
    ] {
        if !(1..=366).contains(&days) {
            return Err((key, format!("is {days}: must be 1 to 366")));
        }
    }
    if window
        .short_types
        .iter()
        .any(|t| t.scheme.is_empty() || t.prefix.is_empty())
    {
        return Err((
            "rules.short_types",
            "must have a scheme and a prefix each".to_owned(),
        ));
    }
    Ok(())
}

fn after_minutes(start: Timestamp, minutes: u32) -> Timestamp {
    start
        .saturating_add(SignedDuration::from_mins(minutes.into()))
        .unwrap_or(Timestamp::MAX)
}
