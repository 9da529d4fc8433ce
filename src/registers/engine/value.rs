//! Fields that lists can filter by, and their values.

use std::borrow::Cow;

use jiff::Timestamp;

use super::super::Register;
use crate::types::{DivisionCode, LedgerTime};

/// The type of a field: how a filter writes its values.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text; `:` finds it within.
    Text,
    /// A value of an enum, by its short or full name.
    Enum(fn(&str) -> Option<i32>),
    /// An RFC 3339 time.
    Time,
    /// `true` or `false`.
    Bool,
    /// A division, with everything under it.
    Division,
}

/// The value of a field in a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Not set: no comparison holds but `!=`.
    Absent,
    /// Text, and names.
    Text(Cow<'a, str>),
    /// An enum's number.
    Number(i64),
    /// A time.
    Time(Timestamp),
    /// Yes or no.
    Bool(bool),
    /// A division.
    Division(DivisionCode),
}

/// What a getter reads.
pub struct Seen<'a, R: Register> {
    /// The register, with its tables.
    pub register: &'a R,
    /// The record.
    pub message: &'a R::Message,
    /// When this revision was taken.
    pub taken: LedgerTime,
    /// Now.
    pub now: Timestamp,
}

/// A field that lists can filter by.
pub struct Field<R: Register> {
    /// Its name in filters.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its number in index keys, if it is indexed: on disk, stays. An indexed field must follow from the
    /// record's bytes alone.
    pub index: Option<u8>,
    /// Its value.
    pub get: for<'a> fn(&Seen<'a, R>) -> Value<'a>,
}

/// A time of a message, where it is one.
#[must_use]
pub fn time(value: Option<&prost_types::Timestamp>) -> Value<'static> {
    let time = value.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok());
    time.map_or(Value::Absent, Value::Time)
}

/// Text; empty is absent.
#[must_use]
pub fn text(value: &str) -> Value<'_> {
    if value.is_empty() {
        Value::Absent
    } else {
        Value::Text(value.into())
    }
}

/// A division code; anything else is absent.
#[must_use]
pub fn division(value: &str) -> Value<'static> {
    value.parse().map_or(Value::Absent, Value::Division)
}

/// An enum's kind: values by short or full name.
#[macro_export]
macro_rules! enum_kind {
    ($type:ty, $prefix:literal) => {
        $crate::registers::engine::value::Kind::Enum(|name| {
            let full = format!("{}_{}", $prefix, name);
            let value = <$type>::from_str_name(&full).or_else(|| <$type>::from_str_name(name))?;
            Some(i32::from(value))
        })
    };
}
