//! Clocks and times.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz};

use super::reason::FieldReason;
use super::violation::Violations;

/// How far a caller's clock may run ahead of ours before a time counts as in the future.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Tells the time. Everything that needs it takes a clock, so that tests can set it.
pub trait Clock: Send + Sync + 'static {
    /// Now. May run backwards: the ledger orders its own times.
    fn now(&self) -> Timestamp;
}

/// The system's clock; nothing else reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Sets the clock, also backwards.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Moves the clock forward; it stops at the end of the representable times.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by).unwrap_or(Timestamp::MAX);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of an entry: microseconds since 1970-01-01T00:00:00Z, within the years -9999 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerTime(i64);

/// A number of microseconds outside the years -9999 to 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} microseconds since 1970 is outside the years -9999 to 9999")]
pub struct LedgerTimeError(pub i64);

impl LedgerTime {
    /// From microseconds since 1970.
    ///
    /// # Errors
    /// When the time has no [`Timestamp`].
    pub fn from_micros(micros: i64) -> Result<Self, LedgerTimeError> {
        Timestamp::from_microsecond(micros)
            .map(|_| Self(micros))
            .map_err(|_| LedgerTimeError(micros))
    }

    /// Microseconds since 1970.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0
    }

    /// The same instant as a timestamp.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        // Every constructor has checked the range, so the fallback is never taken.
        Timestamp::from_microsecond(self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The smallest time after this one; stays at the last representable time.
    #[must_use]
    pub fn next(self) -> Self {
        Self::from_micros(self.0.saturating_add(1)).unwrap_or(self)
    }
}

impl From<Timestamp> for LedgerTime {
    /// Drops what is finer than a microsecond, towards the past.
    fn from(time: Timestamp) -> Self {
        let floor = time.as_nanosecond().div_euclid(1000);
        Self::from_micros(i64::try_from(floor).unwrap_or(i64::MIN))
            .unwrap_or(Self(time.as_microsecond()))
    }
}

impl From<LedgerTime> for Timestamp {
    fn from(time: LedgerTime) -> Self {
        time.timestamp()
    }
}

impl fmt::Display for LedgerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

/// The offset of Beijing time. China has one zone and no summer time since 1991.
const BEIJING: tz::Offset = tz::Offset::constant(8);

/// A time as people in China read it: Beijing's, to the second, with the offset.
#[must_use]
pub fn beijing_time(time: Timestamp) -> String {
    let local = BEIJING.to_datetime(time);
    local.strftime("%Y-%m-%d %H:%M:%S +08:00").to_string()
}

/// The calendar day in Beijing (UTC+8) on which `time` falls.
#[must_use]
pub fn beijing_date(time: Timestamp) -> Date {
    BEIJING.to_datetime(time).date()
}

/// The instant at which `day` begins in Beijing; the last representable instant for a day after it.
#[must_use]
pub fn beijing_midnight(day: Date) -> Timestamp {
    let start = day.to_datetime(jiff::civil::Time::midnight());
    BEIJING.to_timestamp(start).unwrap_or(if day.year() > 0 {
        Timestamp::MAX
    } else {
        Timestamp::MIN
    })
}

/// Checks a `google.protobuf.Timestamp`, given as seconds and nanoseconds: years 1 to 9999,
/// nanoseconds 0 to 999,999,999.
pub fn parse_timestamp(
    v: &mut Violations,
    path: &str,
    seconds: i64,
    nanos: i32,
) -> Option<Timestamp> {
    /// 0001-01-01T00:00:00Z.
    const FIRST_SECOND: i64 = -62_135_596_800;
    let time = (seconds >= FIRST_SECOND && nanos >= 0)
        .then(|| Timestamp::new(seconds, nanos).ok())
        .flatten();
    if time.is_none() {
        v.field(
            path,
            FieldReason::OutOfRange,
            "is no time: give seconds within the years 1 to 9999 and nanos from 0 to 999999999",
            "不是有效时间：seconds 应在公元 1 年至 9999 年之间，nanos 应在 0 至 999999999 之间",
        );
    }
    time
}

/// Checks a required calendar day, written as `2024-02-18`, of the years 1900 to 2999.
pub fn parse_date(v: &mut Violations, path: &str, text: &str) -> Option<Date> {
    if text.is_empty() {
        v.required(path);
        return None;
    }
    let date = text
        .parse::<Date>()
        .ok()
        .filter(|date| date.to_string() == text);
    if date.is_none_or(|date| !(1900..=2999).contains(&date.year())) {
        let en = "is no day: write it as 2024-02-18, in the years 1900 to 2999";
        let zh = "不是有效日期：请写作 2024-02-18，年份 1900 至 2999";
        v.field(path, FieldReason::BadFormat, en, zh);
        return None;
    }
    date
}

/// Records a violation when `time` is later than `now` by more than [`CLOCK_SKEW`].
pub fn not_in_future(v: &mut Violations, path: &str, time: Timestamp, now: Timestamp) {
    if time.duration_since(now) > CLOCK_SKEW {
        v.field(
            path,
            FieldReason::InTheFuture,
            format!("is in the future: {time} is after {now}; check the time and your clock"),
            format!("时间在未来：{time} 晚于当前时间 {now}；请核对时间及本机时钟"),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    #[test]
    fn times_are_shown_as_those_of_beijing() {
        let time: Timestamp = "2024-02-18T16:03:07.9Z".parse().unwrap();
        assert_eq!(beijing_time(time), "2024-02-19 00:03:07 +08:00");
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(at("2024-02-18T08:00:00Z"));
        clock.advance(Duration::from_secs(60));
        assert_eq!(clock.now(), at("2024-02-18T08:01:00Z"));
        clock.set(at("2020-01-01T00:00:00Z"));
        assert_eq!(clock.now(), at("2020-01-01T00:00:00Z"));
        clock.set(Timestamp::MAX);
        clock.advance(Duration::from_secs(60));
        assert_eq!(clock.now(), Timestamp::MAX);
    }

    #[test]
    fn days_change_at_midnight_in_beijing() {
        assert_eq!(
            beijing_date(at("2024-02-18T15:59:59Z")),
            jiff::civil::date(2024, 2, 18)
        );
        assert_eq!(
            beijing_date(at("2024-02-18T16:00:00Z")),
            jiff::civil::date(2024, 2, 19)
        );
        assert_eq!(
            beijing_midnight(jiff::civil::date(2024, 2, 19)),
            at("2024-02-18T16:00:00Z")
        );
        assert_eq!(beijing_midnight(Date::MAX), at("9999-12-30T16:00:00Z"));
        assert_eq!(beijing_midnight(Date::MIN), Timestamp::MIN);
    }

    #[test]
    fn the_future_begins_after_the_skew() {
        let now = at("2024-02-18T08:00:00Z");
        let mut v = Violations::new();
        not_in_future(&mut v, "occurred_time", at("2024-02-18T08:05:00Z"), now);
        assert!(v.is_empty());
        not_in_future(
            &mut v,
            "occurred_time",
            at("2024-02-18T08:05:00.000000001Z"),
            now,
        );
        assert_eq!(v.as_slice()[0].reason, FieldReason::InTheFuture);
    }

    #[test]
    fn wire_times_are_checked() {
        let mut v = Violations::new();
        let mut parse = |s, n| parse_timestamp(&mut v, "t", s, n);
        assert_eq!(
            parse(1_708_243_200, 5),
            Some(at("2024-02-18T08:00:00.000000005Z"))
        );
        assert_eq!(parse(-62_135_596_800, 0), Some(at("0001-01-01T00:00:00Z")));
        assert_eq!(parse(-62_135_596_801, 0), None);
        assert_eq!(parse(0, -1), None);
        assert_eq!(parse(0, 1_000_000_000), None);
        assert_eq!(parse(i64::MAX, 0), None);
        assert_eq!(v.len(), 4);
    }

    proptest! {
        #[test]
        fn ledger_times_survive_the_round_trip(micros in any::<i64>()) {
            match LedgerTime::from_micros(micros) {
                Ok(time) => {
                    prop_assert_eq!(time.as_micros(), micros);
                    prop_assert_eq!(LedgerTime::from(time.timestamp()), time);
                    prop_assert!(time.next() >= time);
                }
                Err(error) => prop_assert_eq!(error, LedgerTimeError(micros)),
            }
        }

        #[test]
        fn ledger_time_never_lies_after_its_timestamp(s in -9_000_000_000_i64..9_000_000_000, n in 0..1_000_000_000) {
            let time = Timestamp::new(s, n).expect("in range");
            let ledger = LedgerTime::from(time);
            prop_assert!(ledger.timestamp() <= time && time < ledger.next().timestamp());
        }
    }
}
