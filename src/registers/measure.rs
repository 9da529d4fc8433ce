//! The control-measure list (管控措施清单).

use super::{
    About, Context, Link, Part, Register, Tie,
    engine::{
        tally::{self, Tally, small},
        value::{Field, Kind, Value, text, time},
    },
    parts,
};
use crate::{
    enum_kind,
    proto::measure::v1::{Measure, MeasureClass, MeasureState},
    types::{
        Fen, FieldReason, LedgerTime, Reason, RecordName, Refusal, Violations, optional_prose,
        optional_text, required_prose,
    },
};

/// The register.
pub struct Measures;

impl Register for Measures {
    type Message = Measure;

    const ABOUT: About = About {
        id: "measures",
        service: "hefu.measure.v1.MeasureService",
        singular: "Measure",
        plural: "Measures",
        field: "measure",
    };

    const LINKS: &'static [Link<Measure>] = &[Link {
        register: "risks",
        field: "risk",
        tie: Tie::Part,
        get: |measure| &measure.risk,
    }];

    const COUNTS: bool = true;
    const SUMS: &'static [&'static str] = &["funds_fen"];

    fn name(message: &Measure) -> &str {
        &message.name
    }

    fn validate(&self, measure: &Measure, context: &Context<'_>, v: &mut Violations) {
        let risk: Option<RecordName> = v.parse("risk", &measure.risk);
        let own = |risk: &RecordName| {
            risk.register().as_str() == "risks" && *risk.agency() == context.agency.id
        };
        if risk.as_ref().is_some_and(|risk| !own(risk)) {
            let (en, zh) = ("must name a risk of the same agency", "应为本单位的风险");
            v.field("risk", FieldReason::UnknownReference, en, zh);
        }
        let class = MeasureClass::try_from(measure.measure_class).ok();
        parts::required_enum(v, "measure_class", measure.measure_class, class);
        required_prose(v, "description", &measure.description, 4_000);
        parts::unit(
            v,
            "responsible_unit",
            measure.responsible_unit.as_ref(),
            true,
        );
        parts::days(v, "cycle_days", measure.cycle_days);
        parts::time(v, "due_time", measure.due_time.as_ref());
        Fen::check(v, "funds_fen", measure.funds_fen);
        optional_text(v, "evidence", &measure.evidence, 500);
        let state = MeasureState::try_from(measure.state).ok();
        if parts::required_enum(v, "state", measure.state, state) == Some(MeasureState::Retired) {
            parts::not_on_input(v, "state", "WithdrawMeasure");
        }
        optional_prose(v, "note", &measure.note, 1_000);
    }

    fn step(&self, before: Option<&Measure>, after: &Measure) -> Result<(), Refusal> {
        let Some(before) = before else { return Ok(()) };
        let (from, to) = (before.state(), after.state());
        let allowed = next(from);
        if from == to || allowed.contains(&to) {
            return Ok(());
        }
        let names: Vec<_> = allowed.iter().map(MeasureState::as_str_name).collect();
        let (from, names) = (from.as_str_name(), names.join(", "));
        Err(Refusal::new(Reason::TransitionNotAllowed)
            .because(
                format!("{from} leads to {names}"),
                format!("{from} 之后可为 {names}"),
            )
            .with("allowed", names))
    }

    fn tally(measure: &Measure, created: LedgerTime) -> Option<Tally> {
        Some(Tally {
            level: small(measure.measure_class()),
            status: small(measure.state()),
            sums: [measure.funds_fen, 0, 0, 0],
            ..tally::taken(created, None)
        })
    }

    fn label(part: Part, number: i32) -> &'static str {
        match part {
            Part::Level => MeasureClass::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Status => MeasureState::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Channel => "",
        }
    }

    fn withdrawal() -> Measure {
        Measure {
            state: MeasureState::Retired.into(),
            ..Measure::default()
        }
    }

    fn fields() -> &'static [Field<Self>] {
        &[
            Field {
                name: "risk",
                kind: Kind::Text,
                index: Some(1),
                get: |seen| text(&seen.message.risk),
            },
            Field {
                name: "state",
                kind: enum_kind!(MeasureState, "MEASURE_STATE"),
                index: Some(2),
                get: |seen| Value::Number(seen.message.state.into()),
            },
            Field {
                name: "measure_class",
                kind: enum_kind!(MeasureClass, "MEASURE_CLASS"),
                index: None,
                get: |seen| Value::Number(seen.message.measure_class.into()),
            },
            Field {
                name: "due_time",
                kind: Kind::Time,
                index: None,
                get: |seen| time(seen.message.due_time.as_ref()),
            },
        ]
    }
}

/// Where a state may lead; each may also stay.
fn next(state: MeasureState) -> &'static [MeasureState] {
    use MeasureState as S;
    match state {
        S::Planned => &[S::InPlace],
        S::InPlace => &[S::Failed],
        S::Failed => &[S::InPlace, S::Planned],
        S::Retired | S::Unspecified => &[S::Planned, S::InPlace, S::Failed],
    }
}
