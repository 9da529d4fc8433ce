//! Nil reports (零报告): nothing to report, signed.

use jiff::{ToSpan as _, civil::Date};

use super::{
    About, Context, PERIODIC, Register, Silence,
    engine::value::{Field, Kind, Value, text},
};
use crate::{
    proto::nilreport::v1::NilReport,
    types::{
        FieldReason, Refusal, Violations, beijing_date, beijing_midnight, optional_prose,
        parse_date, required_text,
    },
};

/// Days that one statement may cover.
pub const MAX_DAYS: i32 = 31;

/// The register.
pub struct NilReports;

impl Register for NilReports {
    type Message = NilReport;

    const ABOUT: About = About {
        id: "nilreports",
        service: "hefu.nilreport.v1.NilReportService",
        singular: "NilReport",
        plural: "NilReports",
        field: "nilreport",
    };

    const EVENT: Option<&'static str> = Some("from_date");

    fn name(message: &NilReport) -> &str {
        &message.name
    }

    fn validate(&self, nil: &NilReport, context: &Context<'_>, v: &mut Violations) {
        let register = nil.register.as_str();
        if register.is_empty() {
            v.required("register");
        } else if !PERIODIC.contains(&register) {
            let known = PERIODIC.join(", ");
            let (en, zh) = (
                format!("must be one of {known}"),
                format!("应为 {known} 之一"),
            );
            v.field("register", FieldReason::UnknownReference, en, zh);
        }
        let from = parse_date(v, "from_date", &nil.from_date);
        let to = parse_date(v, "to_date", &nil.to_date);
        if let (Some(from), Some(to)) = (from, to) {
            if to < from {
                let (en, zh) = ("is before from_date", "早于 from_date");
                v.field("to_date", FieldReason::OutOfOrder, en, zh);
            } else if to > from.saturating_add((MAX_DAYS - 1).days()) {
                let (en, zh) = (
                    format!("must be within {MAX_DAYS} days: sign for each period by itself"),
                    format!("至多 {MAX_DAYS} 天，请分期零报告"),
                );
                v.field("to_date", FieldReason::OutOfRange, en, zh);
            }
        }
        if to.is_some_and(|to| to >= beijing_date(context.now)) {
            let (en, zh) = (
                "is not over in Beijing: sign for it when it has ended",
                "该日尚未结束，请在结束后零报告",
            );
            v.field("to_date", FieldReason::InTheFuture, en, zh);
        }
        required_text(v, "statement", &nil.statement, 500);
        required_text(v, "post", &nil.post, 60);
        optional_prose(v, "note", &nil.note, 1_000);
    }

    fn step(&self, _: Option<&NilReport>, _: &NilReport) -> Result<(), Refusal> {
        Ok(())
    }

    fn withdrawal() -> NilReport {
        // It has no state of its own; that it was withdrawn stands in the revision's info.
        NilReport::default()
    }

    fn silence(nil: &NilReport) -> Option<Silence> {
        Some(Silence {
            register: nil.register.parse().ok()?,
            days: nil.from_date.parse().ok()?..=nil.to_date.parse().ok()?,
        })
    }

    fn fields() -> &'static [Field<Self>] {
        &[
            Field {
                name: "register",
                kind: Kind::Text,
                index: Some(1),
                get: |seen| text(&seen.message.register),
            },
            Field {
                name: "from_date",
                kind: Kind::Time,
                index: Some(2),
                get: |seen| {
                    let day = seen.message.from_date.parse::<Date>();
                    day.map_or(Value::Absent, |day| Value::Time(beijing_midnight(day)))
                },
            },
        ]
    }
}
