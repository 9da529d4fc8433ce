//! The safety risk list (安全风险清单).

use std::sync::Arc;

use super::{
    About, Context, Part, Register,
    engine::{
        tally::{self, Tally, small},
        value::{Field, Kind, Value, division, text},
    },
    parts,
};
use crate::{
    enum_kind,
    proto::risk::v1::{ConsequenceType, Risk, RiskLevel, RiskState},
    types::{
        DivisionTable, FieldReason, LedgerTime, Reason, Refusal, Sector, Violations,
        optional_prose, optional_text, required_prose, required_text,
    },
};

/// The register.
pub struct Risks {
    /// Valid divisions.
    pub divisions: Arc<DivisionTable>,
}

impl Register for Risks {
    type Message = Risk;

    const ABOUT: About = About {
        id: "risks",
        service: "hefu.risk.v1.RiskService",
        singular: "Risk",
        plural: "Risks",
        field: "risk",
    };

    const COUNTS: bool = true;

    fn name(message: &Risk) -> &str {
        &message.name
    }

    fn validate(&self, risk: &Risk, context: &Context<'_>, v: &mut Violations) {
        required_text(v, "title", &risk.title, 100);
        let _: Option<Sector> = v.parse("sector", &risk.sector);
        parts::place(v, "place", risk.place.as_ref(), &self.divisions, context);
        parts::required_enum(v, "level", risk.level, RiskLevel::try_from(risk.level).ok());
        let state = RiskState::try_from(risk.state).ok();
        if parts::required_enum(v, "state", risk.state, state) == Some(RiskState::Withdrawn) {
            parts::not_on_input(v, "state", "WithdrawRisk");
        }
        required_prose(v, "factor", &risk.factor, 1_000);
        consequences(v, &risk.consequences);
        optional_text(v, "basis", &risk.basis, 200);
        parts::unit(v, "responsible_unit", risk.responsible_unit.as_ref(), true);
        required_text(v, "regulator", &risk.regulator, 120);
        parts::days(v, "review_cycle_days", risk.review_cycle_days);
        optional_prose(v, "note", &risk.note, 1_000);
    }

    fn step(&self, before: Option<&Risk>, after: &Risk) -> Result<(), Refusal> {
        let Some(before) = before else { return Ok(()) };
        let (from, to) = (before.state(), after.state());
        let allowed = next(from);
        if from != to && !allowed.contains(&to) {
            let names: Vec<_> = allowed.iter().map(RiskState::as_str_name).collect();
            let (from, names) = (from.as_str_name(), names.join(", "));
            return Err(Refusal::new(Reason::TransitionNotAllowed)
                .because(
                    format!("{from} leads to {names}"),
                    format!("{from} 之后可为 {names}"),
                )
                .with("allowed", names));
        }
        if from != to && to == RiskState::Downgraded && after.level >= before.level {
            let en = "a risk is DOWNGRADED to a lower level than it had";
            return Err(
                Refusal::new(Reason::TransitionNotAllowed).because(en, "降级后的等级应更低")
            );
        }
        Ok(())
    }

    fn tally(risk: &Risk, created: LedgerTime) -> Option<Tally> {
        let place = risk.place.as_ref().map(|place| place.division.as_str());
        Some(Tally {
            level: small(risk.level()),
            status: small(risk.state()),
            ..tally::taken(created, place)
        })
    }

    fn label(part: Part, number: i32) -> &'static str {
        match part {
            Part::Level => RiskLevel::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Status => RiskState::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Channel => "",
        }
    }

    fn withdrawal() -> Risk {
        Risk {
            state: RiskState::Withdrawn.into(),
            ..Risk::default()
        }
    }

    fn fields() -> &'static [Field<Self>] {
        &[
            Field {
                name: "division",
                kind: Kind::Division,
                index: Some(1),
                get: |seen| {
                    let place = seen.message.place.as_ref();
                    place.map_or(Value::Absent, |place| division(&place.division))
                },
            },
            Field {
                name: "level",
                kind: enum_kind!(RiskLevel, "RISK_LEVEL"),
                index: Some(2),
                get: |seen| Value::Number(seen.message.level.into()),
            },
            Field {
                name: "state",
                kind: enum_kind!(RiskState, "RISK_STATE"),
                index: Some(3),
                get: |seen| Value::Number(seen.message.state.into()),
            },
            Field {
                name: "sector",
                kind: Kind::Text,
                index: None,
                get: |seen| text(&seen.message.sector),
            },
            Field {
                name: "title",
                kind: Kind::Text,
                index: None,
                get: |seen| text(&seen.message.title),
            },
            Field {
                name: "uscc",
                kind: Kind::Text,
                index: None,
                get: |seen| {
                    let unit = seen.message.responsible_unit.as_ref();
                    unit.map_or(Value::Absent, |unit| text(&unit.uscc))
                },
            },
        ]
    }
}

/// Where a state may lead; each may also stay.
fn next(state: RiskState) -> &'static [RiskState] {
    use RiskState as S;
    match state {
        S::Identified => &[S::Reviewed, S::Controlled],
        S::Reviewed => &[S::Identified, S::Controlled],
        S::Controlled => &[S::Reviewed, S::Downgraded],
        S::Downgraded => &[S::Reviewed, S::Controlled],
        S::Withdrawn | S::Unspecified => &[S::Identified, S::Reviewed, S::Controlled],
    }
}

fn consequences(v: &mut Violations, values: &[i32]) {
    if values.is_empty() {
        v.required("consequences");
    }
    if values.len() > 8 {
        let (en, zh) = ("at most 8", "至多 8 项");
        return v.field("consequences", FieldReason::TooMany, en, zh);
    }
    for (at, value) in values.iter().enumerate() {
        let field = format!("consequences[{at}]");
        let known = ConsequenceType::try_from(*value).ok();
        parts::required_enum(v, &field, *value, known);
        if values.iter().take(at).any(|earlier| earlier == value) {
            v.field(&field, FieldReason::NotAllowed, "is there twice", "重复");
        }
    }
}
