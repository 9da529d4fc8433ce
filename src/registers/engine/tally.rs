//! Counters of the registers, maintained as entries are applied: what statistics read.
//!
//! A record counts on one day, in one town, under one channel. Its cell (level, status, marks) stands in
//! two values: of the day, and of the month. `a` unit register 0 period agency 0 division 0 channel; the
//! period is days or months since 1970 and year 0, 4 bytes, big-endian, with the sign bit flipped. A value is
//! its cells, each level, status, marks, count u32, and the sums that the register has, i64 each. Both are
//! on disk and stay.
//!
//! They follow from the records' bytes alone, not from rules or tables that can be replaced; agencies stand in
//! the keys, because who may read what is decided when it is asked.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::RangeInclusive,
};

use jiff::{Timestamp, ToSpan as _, civil::Date};

use super::super::AnyRegister;
use crate::{
    ledger::{keys::TALLIES, staged::StateRead},
    storage::{Batch, KeyRange, StorageError},
    types::{AgencyId, DivisionCode, LedgerTime, RecordName, beijing_date},
};

/// Sums that a register may have.
pub const SUMS: usize = 4;
/// Bytes of the month's unit and of the day's.
const UNITS: [u8; 2] = [b'd', b'm'];

/// What a record counts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The day in Beijing.
    pub day: Date,
    /// The code of its town, or of the wider division that it gives; empty for none.
    pub division: String,
    /// Its channel; 0 for none.
    pub channel: u8,
    /// Its level.
    pub level: u8,
    /// Its state.
    pub status: u8,
    /// It is the same as another record.
    pub duplicate: bool,
    /// Its figures are estimates.
    pub approximate: bool,
    /// What is summed up.
    pub sums: [i64; SUMS],
}

impl Tally {
    /// One on a day, in a place, with nothing else.
    #[must_use]
    pub fn new(at: Timestamp, division: Option<&str>) -> Self {
        let code = division.and_then(|code| code.parse::<DivisionCode>().ok());
        let digits = code.as_ref().map_or("", DivisionCode::as_str);
        Self {
            day: beijing_date(at),
            division: digits.get(..9).unwrap_or(digits).to_owned(),
            channel: 0,
            level: 0,
            status: 0,
            duplicate: false,
            approximate: false,
            sums: [0; SUMS],
        }
    }

    fn cell(&self) -> Cell {
        let marks = u8::from(self.duplicate) | (u8::from(self.approximate) << 1);
        Cell(self.level, self.status, marks)
    }
}

/// A small number of an enum; what is none is 0.
#[must_use]
pub fn small(value: impl Into<i32>) -> u8 {
    u8::try_from(value.into()).unwrap_or(0)
}

/// Level, status, marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell(u8, u8, u8);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    count: u32,
    sums: [i64; SUMS],
}

impl Amount {
    fn change(&mut self, tally: &Tally, more: bool) {
        let one = |sum: &mut i64, by: &i64| {
            // Wrapping: whatever a foreign node's records say can be taken back again.
            *sum = match more {
                true => sum.wrapping_add(*by),
                false => sum.wrapping_sub(*by),
            };
        };
        self.sums
            .iter_mut()
            .zip(&tally.sums)
            .for_each(|(s, by)| one(s, by));
        self.count = match more {
            true => self.count.saturating_add(1),
            false => self.count.saturating_sub(1),
        };
    }
}

/// Records that count alike in one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The first day of their period: a day, or a month where the whole of it was asked for.
    pub day: Date,
    /// Whose they are.
    pub agency: AgencyId,
    /// Where; empty for nowhere.
    pub division: String,
    /// Their channel.
    pub channel: u8,
    /// Their level.
    pub level: u8,
    /// Their state.
    pub status: u8,
    /// They are the same as others.
    pub duplicate: bool,
    /// Their figures are estimates.
    pub approximate: bool,
    /// How many.
    pub count: u32,
    /// What they sum up to.
    pub sums: [i64; SUMS],
}

/// Takes a record from what it counted as to what it counts as now.
pub(super) fn change(
    register: &dyn AnyRegister,
    name: &RecordName,
    before: Option<Tally>,
    after: Option<Tally>,
    state: &dyn StateRead,
    batch: &mut Batch,
) -> Result<(), StorageError> {
    if before == after {
        return Ok(());
    }
    let width = register.sums().len();
    let mut values: BTreeMap<Vec<u8>, BTreeMap<Cell, Amount>> = BTreeMap::new();
    for (tally, more) in [(before, false), (after, true)] {
        let Some(tally) = tally else { continue };
        for unit in UNITS {
            let key = key(register.about().id, unit, name.agency(), &tally);
            let cells = match values.entry(key) {
                Entry::Occupied(held) => held.into_mut(),
                Entry::Vacant(free) => {
                    let held = state.get(free.key())?;
                    free.insert(decode(held.as_deref().unwrap_or_default(), width))
                }
            };
            let amount = cells.entry(tally.cell()).or_default();
            amount.change(&tally, more);
            if amount.count == 0 {
                cells.remove(&tally.cell());
            }
        }
    }
    for (key, cells) in values {
        let value = (!cells.is_empty()).then(|| encode(&cells, width));
        batch.changes.insert(key.into(), value.map(Into::into));
    }
    Ok(())
}

/// What counts on these days, in whole months where they are whole. Gives up where `each` says no.
///
/// # Errors
/// As the state.
pub fn counted(
    register: &dyn AnyRegister,
    state: &dyn StateRead,
    days: &RangeInclusive<Date>,
    each: &mut dyn FnMut(Counted),
) -> Result<(), StorageError> {
    let id = register.about().id;
    for (unit, first, last) in spans(days) {
        let range = KeyRange {
            start: prefix(id, unit, first),
            end: KeyRange::prefix(&prefix(id, unit, last)).end,
        };
        read(register, state, range, each)?;
    }
    Ok(())
}

/// Records of one agency on these days, duplicates included; days one by one, so that it costs what the
/// agency has.
///
/// # Errors
/// As the state.
pub fn count_of(
    register: &dyn AnyRegister,
    agency: &AgencyId,
    state: &dyn StateRead,
    days: &RangeInclusive<Date>,
) -> Result<u64, StorageError> {
    let (mut count, mut day) = (0, *days.start());
    while day <= *days.end() {
        let mut start = prefix(register.about().id, UNITS[0], number(UNITS[0], day));
        start.extend_from_slice(agency.as_str().as_bytes());
        start.push(0);
        let mut add = |counted: Counted| count += u64::from(counted.count);
        read(register, state, KeyRange::prefix(&start), &mut add)?;
        let Ok(next) = day.tomorrow() else { break };
        day = next;
    }
    Ok(count)
}

fn read(
    register: &dyn AnyRegister,
    state: &dyn StateRead,
    range: KeyRange,
    each: &mut dyn FnMut(Counted),
) -> Result<(), StorageError> {
    let (id, width) = (register.about().id, register.sums().len());
    for pair in state.scan(range) {
        let (key, value) = pair?;
        let Some((day, agency, division, channel)) = parse(id, &key) else {
            continue;
        };
        for (Cell(level, status, marks), amount) in decode(&value, width) {
            each(Counted {
                day,
                agency: agency.clone(),
                division: division.clone(),
                channel,
                level,
                status,
                duplicate: marks & 1 != 0,
                approximate: marks & 2 != 0,
                count: amount.count,
                sums: amount.sums,
            });
        }
    }
    Ok(())
}

/// A range of days as whole months with the days before and behind them: unit, first, last.
fn spans(days: &RangeInclusive<Date>) -> Vec<(u8, i32, i32)> {
    let (from, to) = (*days.start(), *days.end());
    let [day, month] = UNITS;
    let of_days = |from: Date, to: Date| (day, number(day, from), number(day, to));
    let first = match from.day() {
        1 => from,
        _ => from.last_of_month().saturating_add(1.day()),
    };
    let last = match to == to.last_of_month() {
        true => to,
        false => to.first_of_month().saturating_sub(1.day()),
    };
    if first > last {
        return vec![of_days(from, to)];
    }
    let mut spans = vec![(month, number(month, first), number(month, last))];
    if from < first {
        spans.push(of_days(from, first.saturating_sub(1.day())));
    }
    if last < to {
        spans.push(of_days(last.saturating_add(1.day()), to));
    }
    spans
}

/// The number of a day since 1970, or of a month since year 0.
fn number(unit: u8, day: Date) -> i32 {
    if unit == UNITS[1] {
        return i32::from(day.year()) * 12 + i32::from(day.month()) - 1;
    }
    let hours = day.duration_since(Date::constant(1970, 1, 1)).as_hours();
    i32::try_from(hours.div_euclid(24)).unwrap_or(0)
}

/// The first day of a period.
fn first_day(unit: u8, number: i32) -> Option<Date> {
    if unit == UNITS[1] {
        let year = i16::try_from(number.div_euclid(12)).ok()?;
        let month = i8::try_from(number.rem_euclid(12)).ok()? + 1;
        return Date::new(year, month, 1).ok();
    }
    Date::constant(1970, 1, 1)
        .checked_add(i64::from(number).days())
        .ok()
}

fn prefix(register: &str, unit: u8, number: i32) -> Vec<u8> {
    let mut key = vec![TALLIES, unit];
    key.extend_from_slice(register.as_bytes());
    key.push(0);
    key.extend_from_slice(&(number.cast_unsigned() ^ (1 << 31)).to_be_bytes());
    key
}

fn key(register: &str, unit: u8, agency: &AgencyId, tally: &Tally) -> Vec<u8> {
    let mut key = prefix(register, unit, number(unit, tally.day));
    key.extend_from_slice(agency.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(tally.division.as_bytes());
    key.extend_from_slice(&[0, tally.channel]);
    key
}

fn parse(register: &str, key: &[u8]) -> Option<(Date, AgencyId, String, u8)> {
    let (unit, rest) = key.strip_prefix(&[TALLIES])?.split_first()?;
    let rest = rest.strip_prefix(register.as_bytes())?.strip_prefix(&[0])?;
    let (period, rest) = rest.split_first_chunk::<4>()?;
    let period = (u32::from_be_bytes(*period) ^ (1 << 31)).cast_signed();
    let (channel, rest) = rest.split_last()?;
    let text = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    let (agency, division) = text.split_once('\0')?;
    let day = first_day(*unit, period)?;
    Some((day, agency.parse().ok()?, division.to_owned(), *channel))
}

fn encode(cells: &BTreeMap<Cell, Amount>, width: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(cells.len() * (7 + 8 * width));
    for (Cell(level, status, marks), amount) in cells {
        bytes.extend_from_slice(&[*level, *status, *marks]);
        bytes.extend_from_slice(&amount.count.to_be_bytes());
        for sum in amount.sums.iter().take(width) {
            bytes.extend_from_slice(&sum.to_be_bytes());
        }
    }
    bytes
}

fn decode(bytes: &[u8], width: usize) -> BTreeMap<Cell, Amount> {
    let cell = |bytes: &[u8]| {
        let ([level, status, marks], rest) = bytes.split_first_chunk::<3>()?;
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let mut amount = Amount {
            count: u32::from_be_bytes(*count),
            sums: [0; SUMS],
        };
        for sum in amount.sums.iter_mut().take(width) {
            let (value, behind) = rest.split_first_chunk::<8>()?;
            (*sum, rest) = (i64::from_be_bytes(*value), behind);
        }
        Some((Cell(*level, *status, *marks), amount))
    };
    bytes.chunks_exact(7 + 8 * width).filter_map(cell).collect()
}

/// What a record that the ledger first took then counts as, where it has no day of its own.
#[must_use]
pub fn taken(created: LedgerTime, division: Option<&str>) -> Tally {
    Tally::new(created.timestamp(), division)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_become_months_where_they_are_whole() {
        let spans = |from: &str, to: &str| {
            let unit = |(unit, first, last): (u8, i32, i32)| {
                let text = |n| first_day(unit, n).unwrap().to_string();
                (char::from(unit), text(first), text(last))
            };
            let found = spans(&(day(from)..=day(to))).into_iter().map(unit);
            found.collect::<Vec<_>>()
        };
        let span = |unit, a: &str, b: &str| (unit, a.to_owned(), b.to_owned());
        assert_eq!(
            spans("2024-01-01", "2024-12-31"),
            [span('m', "2024-01-01", "2024-12-01")]
        );
        assert_eq!(
            spans("2023-12-30", "2024-02-10"),
            [
                span('m', "2024-01-01", "2024-01-01"),
                span('d', "2023-12-30", "2023-12-31"),
                span('d', "2024-02-01", "2024-02-10"),
            ]
        );
        assert_eq!(
            spans("2024-02-02", "2024-02-29"),
            [span('d', "2024-02-02", "2024-02-29")]
        );
        assert_eq!(
            spans("2024-02-10", "2024-03-05"),
            [span('d', "2024-02-10", "2024-03-05")]
        );
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        for (date, division) in [
            ("1969-12-31", ""),
            ("2024-02-29", "320681110"),
            ("-0044-03-15", "32"),
        ] {
            let date: Date = date.parse().unwrap_or(Date::constant(-44, 3, 15));
            let tally = Tally {
                day: date,
                channel: 9,
                division: division.to_owned(),
                ..Tally::new(Timestamp::UNIX_EPOCH, None)
            };
            let agency: AgencyId = "qidong-emergency".parse().unwrap();
            for (unit, first) in [(UNITS[0], date), (UNITS[1], date.first_of_month())] {
                let key = key("hazards", unit, &agency, &tally);
                let read = parse("hazards", &key).unwrap();
                assert_eq!(read, (first, agency.clone(), division.to_owned(), 9));
            }
        }
    }
}
