//! Parts that several registers share: places and units.

use prost_types::Timestamp as Stamp;

use super::Context;
use crate::{
    proto::r#type::v1 as pb,
    types::{
        Coordinates, Datum, DivisionTable, FieldReason, RecordName, Uscc, Violations, beijing_date,
        check_division, check_uscc, not_in_future, optional_office_phone, optional_text,
        parse_timestamp, required_text,
    },
};

/// Required: where something is, within the divisions that the agency may write for.
pub fn place(
    v: &mut Violations,
    field: &str,
    place: Option<&pb::Place>,
    divisions: &DivisionTable,
    context: &Context<'_>,
) {
    let Some(place) = place else {
        return v.required(field);
    };
    let mut v = v.scope(field);
    let today = beijing_date(context.now);
    if let Some(code) = check_division(&mut v, "division", divisions, &place.division, today) {
        context.agency.check_division(&mut v, "division", &code);
    }
    required_text(&mut v, "address", &place.address, 200);
    let datum = match place.datum() {
        pb::Datum::Cgcs2000 => Some(Datum::Cgcs2000),
        pb::Datum::Wgs84 => Some(Datum::Wgs84),
        pb::Datum::Gcj02 => Some(Datum::Gcj02),
        pb::Datum::Unspecified => None,
    };
    if place.datum != 0 && datum.is_none() {
        unknown(&mut v, "datum");
    } else {
        Coordinates::check(&mut v, place.latitude, place.longitude, datum);
    }
}

/// An organisation: required, or checked where it is given.
pub fn unit(v: &mut Violations, field: &str, unit: Option<&pb::Unit>, required: bool) {
    let Some(unit) = unit else {
        if required {
            v.required(field);
        }
        return;
    };
    let mut v = v.scope(field);
    required_text(&mut v, "name", &unit.name, 120);
    let reason = optional_text(
        &mut v,
        "uscc_override_reason",
        &unit.uscc_override_reason,
        200,
    );
    if !unit.uscc.is_empty() {
        let code = check_uscc(&mut v, "uscc", &unit.uscc, &unit.uscc_override_reason);
        if code.as_ref().is_some_and(|code| !Uscc::is_overridden(code)) && reason.is_some() {
            let (en, zh) = (
                "the code is right: there is nothing to override",
                "代码无误，无需说明",
            );
            v.field("uscc_override_reason", FieldReason::NotAllowed, en, zh);
        }
    }
    optional_text(&mut v, "post", &unit.post, 60);
    optional_office_phone(&mut v, "office_phone", &unit.office_phone);
}

/// A required enum: `value` is what the field holds, `known` what it means.
pub fn required_enum<E>(
    v: &mut Violations,
    field: &str,
    value: i32,
    known: Option<E>,
) -> Option<E> {
    match (value, known) {
        (0, _) => {
            v.required(field);
            None
        }
        (_, None) => {
            unknown(v, field);
            None
        }
        (_, known) => known,
    }
}

fn unknown(v: &mut Violations, field: &str) {
    let (en, zh) = (
        "is no value of its enum: update the proto",
        "不是该枚举的值，请更新协议文件",
    );
    v.field(field, FieldReason::UnknownEnum, en, zh);
}

/// A state that only a withdrawal sets.
pub fn not_on_input(v: &mut Violations, field: &str, method: &str) {
    let en = format!("is set by {method} alone: call that");
    let zh = format!("只能由 {method} 设置，请调用该方法");
    v.field(field, FieldReason::NotAllowed, en, zh);
}

/// A time, where one is given.
pub fn time(v: &mut Violations, field: &str, time: Option<&Stamp>) -> Option<jiff::Timestamp> {
    let time = time?;
    parse_timestamp(v, field, time.seconds, time.nanos)
}

/// A time that has passed, where one is given.
pub fn past(
    v: &mut Violations,
    field: &str,
    stamp: Option<&Stamp>,
    context: &Context<'_>,
) -> Option<jiff::Timestamp> {
    let time = time(v, field, stamp)?;
    not_in_future(v, field, time, context.now);
    Some(time)
}

/// A required time that has passed.
pub fn required_past(
    v: &mut Violations,
    field: &str,
    stamp: Option<&Stamp>,
    context: &Context<'_>,
) -> Option<jiff::Timestamp> {
    if stamp.is_none() {
        v.required(field);
    }
    past(v, field, stamp, context)
}

/// A time of a message, where it is one.
#[must_use]
pub fn instant(stamp: Option<&Stamp>) -> Option<jiff::Timestamp> {
    stamp.and_then(|stamp| jiff::Timestamp::new(stamp.seconds, stamp.nanos).ok())
}

/// The name of a record of that register, where one is given.
pub fn record(v: &mut Violations, field: &str, text: &str, register: &str) -> Option<RecordName> {
    let name: RecordName = v.parse_optional(field, text)?;
    if name.register().as_str() != register {
        let en = format!("must be agencies/{{agency}}/{register}/{{item}}");
        let zh = format!("应为 agencies/{{单位}}/{register}/{{编号}}");
        v.field(field, FieldReason::UnknownReference, en, zh);
        return None;
    }
    Some(name)
}

/// As [`record`], of the submitting agency.
pub fn own_record(
    v: &mut Violations,
    field: &str,
    text: &str,
    register: &str,
    context: &Context<'_>,
) {
    let name = record(v, field, text, register);
    if name.is_some_and(|name| *name.agency() != context.agency.id) {
        let (en, zh) = ("must name a record of the same agency", "应为本单位的记录");
        v.field(field, FieldReason::UnknownReference, en, zh);
    }
}

/// A number of days, 0 for none.
pub fn days(v: &mut Violations, field: &str, days: i32) {
    if !(0..=3_660).contains(&days) {
        let (en, zh) = (
            "must be 1 to 3,660 days, or 0 for none",
            "应为 1 至 3660 天，0 表示未设定",
        );
        v.field(field, FieldReason::OutOfRange, en, zh);
    }
}
