//! Index keys: `i` register 0 field value agency 0 item, with no value of their own.
//!
//! Values are encoded so that key order is value order: text and divisions end in 0, numbers and
//! times are 8 bytes, big-endian, with the sign bit flipped. Both are on disk and stay.

use super::value::Value;
use crate::{ledger::keys::INDEX, types::RecordName};

/// The prefix of one field's keys.
#[must_use]
pub fn field(register: &str, field: u8) -> Vec<u8> {
    let mut key = vec![INDEX];
    key.extend_from_slice(register.as_bytes());
    key.extend_from_slice(&[0, field]);
    key
}

/// The prefix of the keys with exactly this value.
#[must_use]
pub fn exact(register: &str, number: u8, value: &Value<'_>) -> Vec<u8> {
    let mut key = field(register, number);
    key.extend_from_slice(&encode(value));
    key
}

/// The prefix of the keys of a division and of everything under it.
#[must_use]
pub fn under(register: &str, number: u8, prefix: &str) -> Vec<u8> {
    let mut key = field(register, number);
    key.extend_from_slice(prefix.as_bytes());
    key
}

/// The key of a record.
#[must_use]
pub fn key(register: &str, number: u8, value: &Value<'_>, name: &RecordName) -> Vec<u8> {
    let mut key = exact(register, number, value);
    key.extend_from_slice(name.agency().as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(name.item().as_str().as_bytes());
    key
}

/// The record that a key of this register belongs to.
#[must_use]
pub fn name(register: &str, key: &[u8]) -> Option<RecordName> {
    // Agency and item are the last two parts behind a 0 each; neither holds one.
    let item_at = key.iter().rposition(|b| *b == 0)?;
    let (rest, item) = key.split_at_checked(item_at)?;
    let item = std::str::from_utf8(item.get(1..)?).ok()?;
    let start = rest.iter().rposition(|b| *b == 0).map_or(0, |at| at + 1);
    let agency = std::str::from_utf8(rest.get(start..)?).ok()?;
    format!("agencies/{agency}/{register}/{item}").parse().ok()
}

/// A value as bytes whose order is the values' order.
#[must_use]
pub fn encode(value: &Value<'_>) -> Vec<u8> {
    let number = |n: i64| (n.cast_unsigned() ^ (1 << 63)).to_be_bytes().to_vec();
    let mut bytes = match value {
        Value::Absent => Vec::new(),
        Value::Text(text) => text.as_bytes().to_vec(),
        Value::Division(code) => code.prefix().as_bytes().to_vec(),
        Value::Number(n) => number(*n),
        Value::Time(time) => number(time.as_microsecond()),
        Value::Bool(b) => number(i64::from(*b)),
    };
    // The 0 ends a text, and parts every value from the agency behind it.
    bytes.retain(|b| *b != 0 || !matches!(value, Value::Text(_)));
    bytes.push(0);
    bytes
}
