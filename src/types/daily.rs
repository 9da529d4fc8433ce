//! Hours of the day, as operators write them: `06:00`, `22:00-05:00`, in a zone of a fixed offset.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * MINUTE;

/// Why a time of day, a window or an offset is not one. The text says how to write it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DailyError(&'static str);

/// A zone: minutes ahead of UTC, such as `+08:00`. No zone that hefu serves has summer time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct UtcOffset(i64);

impl TryFrom<String> for UtcOffset {
    type Error = DailyError;

    fn try_from(text: String) -> Result<Self, DailyError> {
        text.parse()
    }
}

impl Default for UtcOffset {
    /// Beijing time.
    fn default() -> Self {
        Self(8 * 60)
    }
}

impl FromStr for UtcOffset {
    type Err = DailyError;

    fn from_str(text: &str) -> Result<Self, DailyError> {
        let wrong = DailyError("an offset is +HH:MM or -HH:MM, at most 14 hours, such as +08:00");
        let (sign, rest) = match text.split_at_checked(1) {
            Some(("+", rest)) => (1, rest),
            Some(("-", rest)) => (-1, rest),
            _ => return Err(wrong),
        };
        let minutes = clock(rest).filter(|minutes| *minutes <= 14 * 60);
        minutes.map(|m| Self(sign * m)).ok_or(wrong)
    }
}

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = (if self.0 < 0 { '-' } else { '+' }, self.0.abs());
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl UtcOffset {
    /// Seconds since the local midnight.
    fn seconds_of_day(self, at: Timestamp) -> i64 {
        (at.as_second() + self.0 * MINUTE).rem_euclid(DAY)
    }
}

/// A time of day, to the minute: `HH:MM`, 00:00 to 23:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(i64);

impl FromStr for TimeOfDay {
    type Err = DailyError;

    fn from_str(text: &str) -> Result<Self, DailyError> {
        let wrong = DailyError("a time of day is HH:MM, 00:00 to 23:59");
        let minutes = clock(text).filter(|minutes| *minutes < 24 * 60);
        minutes.map(Self).ok_or(wrong)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl TimeOfDay {
    /// The last time that a clock in this zone showed it: `now` itself, or within the day before.
    #[must_use]
    pub fn last(self, now: Timestamp, zone: UtcOffset) -> Timestamp {
        let behind = (zone.seconds_of_day(now) - self.0 * MINUTE).rem_euclid(DAY);
        let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
        whole
            .saturating_sub(SignedDuration::from_secs(behind))
            .unwrap_or(whole)
    }
}

/// A part of every day, `HH:MM-HH:MM`: from the first minute up to the last, which is not in it. It may pass
/// midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct DailyWindow {
    start: TimeOfDay,
    end: TimeOfDay,
}

impl FromStr for DailyWindow {
    type Err = DailyError;

    fn from_str(text: &str) -> Result<Self, DailyError> {
        let wrong = DailyError("a window is HH:MM-HH:MM, such as 22:00-05:00");
        let (start, end) = text.split_once('-').ok_or_else(|| wrong.clone())?;
        let (start, end) = (start.trim().parse()?, end.trim().parse()?);
        if start == end {
            return Err(DailyError(
                "a window begins and ends at different times; the whole day is mode \"continuous\"",
            ));
        }
        Ok(Self { start, end })
    }
}

impl fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl TryFrom<String> for DailyWindow {
    type Error = DailyError;

    fn try_from(text: String) -> Result<Self, DailyError> {
        text.parse()
    }
}

impl DailyWindow {
    /// 22:00 to 05:00.
    pub const NIGHT: Self = Self {
        start: TimeOfDay(22 * 60),
        end: TimeOfDay(5 * 60),
    };

    /// Whether a moment lies in it.
    #[must_use]
    pub fn contains(self, at: Timestamp, zone: UtcOffset) -> bool {
        let since = |time: TimeOfDay| (zone.seconds_of_day(at) - time.0 * MINUTE).rem_euclid(DAY);
        let long = ((self.end.0 - self.start.0) * MINUTE).rem_euclid(DAY);
        since(self.start) < long
    }
}

/// Minutes of `HH:MM`.
fn clock(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| -> Option<i64> {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_window_may_pass_midnight() {
        let window: DailyWindow = "22:00-05:00".parse().expect("a window");
        let zone = UtcOffset::default();
        for (time, within) in [
            ("2026-11-27T21:59:59+08:00", false),
            ("2026-11-27T22:00:00+08:00", true),
            ("2026-11-28T00:00:00+08:00", true),
            ("2026-11-28T04:59:59+08:00", true),
            ("2026-11-28T05:00:00+08:00", false),
        ] {
            assert_eq!(window.contains(at(time), zone), within, "{time}");
        }
        let day: DailyWindow = "08:30-17:00".parse().expect("a window");
        assert!(day.contains(at("2026-11-27T08:30:00Z"), "+00:00".parse().expect("UTC")));
        assert!(!day.contains(at("2026-11-27T09:30:00Z"), zone));
    }

    #[test]
    fn the_last_time_is_today_or_yesterday() {
        let six: TimeOfDay = "06:00".parse().expect("a time");
        let zone = UtcOffset::default();
        let last = |text| six.last(at(text), zone);
        assert_eq!(
            last("2026-11-27T06:00:00+08:00"),
            at("2026-11-27T06:00:00+08:00")
        );
        assert_eq!(
            last("2026-11-27T05:59:59+08:00"),
            at("2026-11-26T06:00:00+08:00")
        );
    }

    #[test]
    fn what_is_no_time_is_told() {
        for text in [
            "", "6:00", "24:00", "06:60", "06-00", "0600", "+6:00", "06:0a",
        ] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
        }
        for text in ["", "08:00", "+8", "+15:00", "+08:0x"] {
            assert!(text.parse::<UtcOffset>().is_err(), "{text}");
        }
        for text in ["", "22:00", "22:00-22:00", "22:00-25:00", "22-05"] {
            assert!(text.parse::<DailyWindow>().is_err(), "{text}");
        }
        let shown = ["-03:30", "+00:00", "+08:00"];
        assert!(
            shown
                .iter()
                .all(|t| t.parse::<UtcOffset>().expect("an offset").to_string() == *t)
        );
    }

    proptest! {
        #[test]
        fn a_window_and_its_rest_share_the_day(
            start in 0_i64..1440, end in 0_i64..1440, second in 0_i64..10_000_000, zone in -840_i64..=840,
        ) {
            prop_assume!(start != end);
            let (start, end, zone) = (TimeOfDay(start), TimeOfDay(end), UtcOffset(zone));
            let at = Timestamp::from_second(second).expect("a time");
            let inside = DailyWindow { start, end }.contains(at, zone);
            let outside = DailyWindow { start: end, end: start }.contains(at, zone);
            prop_assert!(inside != outside);
            prop_assert_eq!(inside, start.last(at, zone) > end.last(at, zone));
        }
    }
}
