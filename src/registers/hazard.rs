//! The hazard register (隐患): from report to closure.

use std::sync::Arc;

use jiff::Timestamp;
use prost::Message as _;

use super::{
    About, Context, Link, Part, Register, Tie,
    engine::{
        clock::{self, Due, Running},
        tally::{Tally, small},
        value::{Field, Kind, Seen, Value, division, text, time},
    },
    parts,
};
use crate::{
    enum_kind,
    ledger::entry::timestamp,
    proto::hazard::v1::{
        Acceptance, Extension, Hazard, HazardAssessment, HazardLevel, HazardSource, HazardState,
        HazardTreatment,
    },
    types::{
        DivisionTable, Fen, FieldReason, LedgerTime, Reason, Refusal, RuleTable, Violations,
        optional_prose, optional_text, required_prose, required_text,
    },
};

/// The clock of a deadline: on disk, stays.
const RECTIFICATION: u8 = 1;
/// Extensions of one deadline.
const MAX_EXTENSIONS: usize = 20;

/// The register.
pub struct Hazards {
    /// Valid divisions.
    pub divisions: Arc<DivisionTable>,
    /// Dated rules.
    pub rules: Arc<RuleTable>,
}

impl Register for Hazards {
    type Message = Hazard;

    const ABOUT: About = About {
        id: "hazards",
        service: "hefu.hazard.v1.HazardService",
        singular: "Hazard",
        plural: "Hazards",
        field: "hazard",
    };

    const LINKS: &'static [Link<Hazard>] = &[
        Link {
            register: "risks",
            field: "risk",
            tie: Tie::Mention,
            get: |hazard| &hazard.risk,
        },
        Link {
            register: "measures",
            field: "measure",
            tie: Tie::Mention,
            get: |hazard| &hazard.measure,
        },
        Link {
            register: "hazards",
            field: "duplicate_of",
            tie: Tie::Same,
            get: |hazard| &hazard.duplicate_of,
        },
    ];

    const CLOCKS: &'static [clock::Kind] = &[(RECTIFICATION, "RECTIFICATION")];
    const EVENT: Option<&'static str> = Some("found_time");
    const COUNTS: bool = true;
    const SUMS: &'static [&'static str] = &["funds_fen"];

    fn name(message: &Hazard) -> &str {
        &message.name
    }

    fn validate(&self, hazard: &Hazard, context: &Context<'_>, v: &mut Violations) {
        required_text(v, "title", &hazard.title, 100);
        parts::place(v, "place", hazard.place.as_ref(), &self.divisions, context);
        required_prose(v, "description", &hazard.description, 4_000);
        parts::unit(v, "unit", hazard.unit.as_ref(), true);
        let state = HazardState::try_from(hazard.state).ok();
        if parts::required_enum(v, "state", hazard.state, state) == Some(HazardState::Withdrawn) {
            parts::not_on_input(v, "state", "WithdrawHazard");
        }
        kind(v, hazard);
        links(v, hazard, context);
        elements(v, hazard);
        extensions(v, hazard, context);
        settled(v, hazard, context);
        optional_prose(v, "note", &hazard.note, 1_000);
    }

    fn permits(&self, hazard: &Hazard, context: &Context<'_>) -> Result<(), Refusal> {
        if hazard.state() < HazardState::Passed {
            return Ok(());
        }
        let decisions = &self.rules.hazard_decisions(context.now).rules;
        let major = hazard.level() == HazardLevel::Major;
        let (kind, may) = (&context.agency.kind, decisions.of(major));
        if may.iter().any(|known| known == kind) {
            return Ok(());
        }
        let reach = |state: &HazardState| *state < HazardState::Passed;
        let states = LIFECYCLE.iter().filter(|state| reach(state));
        let (level, may) = (hazard.level().as_str_name(), may.join(", "));
        Err(refused(
            states.copied(),
            |names| {
                format!(
                    "an agency of kind {kind} brings a {level} hazard to {names}; {may} accept and close it"
                )
            },
            |names| format!("{kind} 类单位对 {level} 可报至 {names}；验收、销号由 {may} 办理"),
        ))
    }

    fn step(&self, before: Option<&Hazard>, after: &Hazard) -> Result<(), Refusal> {
        let to = after.state();
        let from = before.map(Hazard::state);
        let allowed = next(from, after.treatment());
        if from != Some(to) && !allowed.contains(&to) {
            let from = from.map_or("a new hazard", |state| state.as_str_name());
            return Err(refused(
                allowed.iter().copied(),
                |names| format!("{from} leads to {names}"),
                |names| format!("{from} 之后可为 {names}"),
            ));
        }
        let mut v = Violations::new();
        if let Some(before) = before {
            kept(&mut v.scope(Self::ABOUT.field), before, after);
        }
        v.into_result(()).map_err(Refusal::from)
    }

    fn running(hazard: &Hazard, _: LedgerTime) -> Vec<Running> {
        let open = hazard.state() < HazardState::AcceptanceRequested;
        let deadline = deadline(hazard).filter(|_| open);
        let running = deadline.map(|base| Running {
            kind: RECTIFICATION,
            base,
        });
        running.into_iter().collect()
    }

    fn due(&self, _: u8, hazard: &Hazard, base: Timestamp) -> Option<Due> {
        let (place, unit) = (hazard.place.clone(), hazard.unit.clone());
        Some(Due {
            at: base,
            title: hazard.title.clone(),
            division: place.unwrap_or_default().division,
            unit: unit.unwrap_or_default().name,
        })
    }

    fn tally(hazard: &Hazard, _: LedgerTime) -> Option<Tally> {
        let place = hazard.place.as_ref().map(|place| place.division.as_str());
        let plan = hazard.rectification.as_ref();
        let funds = plan.and_then(|plan| plan.funds_fen).unwrap_or(0);
        Some(Tally {
            channel: small(hazard.source()),
            level: small(hazard.level()),
            status: small(hazard.state()),
            duplicate: !hazard.duplicate_of.is_empty(),
            approximate: plan.is_some_and(|plan| plan.funds_approximate),
            sums: [funds, 0, 0, 0],
            ..Tally::new(parts::instant(hazard.found_time.as_ref())?, place)
        })
    }

    fn label(part: Part, number: i32) -> &'static str {
        match part {
            Part::Level => HazardLevel::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Status => HazardState::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Channel => HazardSource::try_from(number).map_or("", |v| v.as_str_name()),
        }
    }

    fn withdrawal() -> Hazard {
        Hazard {
            state: HazardState::Withdrawn.into(),
            ..Hazard::default()
        }
    }

    fn fields() -> &'static [Field<Self>] {
        FIELDS
    }

    fn assess(&self, hazard: &Hazard, _: LedgerTime, now: Timestamp) -> Option<Vec<u8>> {
        Some(assessment(hazard, now).encode_to_vec())
    }
}

const FIELDS: &[Field<Hazards>] = &[
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
        name: "state",
        kind: enum_kind!(HazardState, "HAZARD_STATE"),
        index: Some(2),
        get: |seen| Value::Number(seen.message.state.into()),
    },
    Field {
        name: "found_time",
        kind: Kind::Time,
        index: Some(3),
        get: |seen| time(seen.message.found_time.as_ref()),
    },
    Field {
        name: "duplicate_of",
        kind: Kind::Text,
        index: Some(4),
        get: |seen| text(&seen.message.duplicate_of),
    },
    Field {
        name: "level",
        kind: enum_kind!(HazardLevel, "HAZARD_LEVEL"),
        index: None,
        get: |seen| Value::Number(seen.message.level.into()),
    },
    Field {
        name: "source",
        kind: enum_kind!(HazardSource, "HAZARD_SOURCE"),
        index: None,
        get: |seen| Value::Number(seen.message.source.into()),
    },
    Field {
        name: "treatment",
        kind: enum_kind!(HazardTreatment, "HAZARD_TREATMENT"),
        index: None,
        get: |seen| Value::Number(seen.message.treatment.into()),
    },
    Field {
        name: "risk",
        kind: Kind::Text,
        index: None,
        get: |seen| text(&seen.message.risk),
    },
    Field {
        name: "measure",
        kind: Kind::Text,
        index: None,
        get: |seen| text(&seen.message.measure),
    },
    Field {
        name: "deadline",
        kind: Kind::Time,
        index: None,
        get: |seen| deadline(seen.message).map_or(Value::Absent, Value::Time),
    },
    Field {
        name: "overdue",
        kind: Kind::Bool,
        index: None,
        get: |seen| Value::Bool(assessed(seen).overdue),
    },
    Field {
        name: "late",
        kind: Kind::Bool,
        index: None,
        get: |seen| Value::Bool(assessed(seen).late),
    },
];

fn assessed(seen: &Seen<'_, Hazards>) -> HazardAssessment {
    assessment(seen.message, seen.now)
}

/// The states in their order.
const LIFECYCLE: [HazardState; 6] = [
    HazardState::Reported,
    HazardState::Confirmed,
    HazardState::Rectifying,
    HazardState::AcceptanceRequested,
    HazardState::Passed,
    HazardState::Closed,
];

/// Where a state may lead; each may also stay.
fn next(from: Option<HazardState>, treatment: HazardTreatment) -> &'static [HazardState] {
    use HazardState as S;
    match (from, treatment) {
        (None | Some(S::Unspecified | S::Withdrawn), _) => &[S::Reported],
        (Some(S::Reported), HazardTreatment::AtOnce) => &[S::Confirmed, S::AcceptanceRequested],
        (Some(S::Reported), _) => &[S::Confirmed],
        (Some(S::Confirmed), _) => &[S::Rectifying],
        (Some(S::Rectifying), _) => &[S::AcceptanceRequested],
        (Some(S::AcceptanceRequested), _) => &[S::Passed, S::Rectifying],
        (Some(S::Passed), _) => &[S::Closed],
        (Some(S::Closed), _) => &[],
    }
}

fn refused(
    allowed: impl Iterator<Item = HazardState>,
    en: impl FnOnce(&str) -> String,
    zh: impl FnOnce(&str) -> String,
) -> Refusal {
    let names: Vec<_> = allowed.map(|state| state.as_str_name()).collect();
    let names = match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    };
    Refusal::new(Reason::TransitionNotAllowed)
        .because(en(&names), zh(&names))
        .with("allowed", names)
}

/// The deadline in force.
fn deadline(hazard: &Hazard) -> Option<Timestamp> {
    let extended = hazard.extensions.last().and_then(|e| e.deadline.as_ref());
    let first = || hazard.rectification.as_ref()?.deadline.as_ref();
    parts::instant(extended.or_else(first))
}

fn assessment(hazard: &Hazard, now: Timestamp) -> HazardAssessment {
    let deadline = deadline(hazard);
    let open = hazard.state() < HazardState::AcceptanceRequested;
    let past = deadline.filter(|at| open && now > *at);
    let rectified = parts::instant(hazard.rectified_time.as_ref());
    let late = rectified.zip(deadline).is_some_and(|(at, due)| at > due);
    let days = past.map_or(0, |at| now.duration_since(at).as_secs() / 86_400);
    HazardAssessment {
        deadline: deadline.map(|at| timestamp(at.into())),
        overdue: past.is_some(),
        late,
        overdue_days: i32::try_from(days).unwrap_or(i32::MAX),
    }
}

fn kind(v: &mut Violations, hazard: &Hazard) {
    let level = HazardLevel::try_from(hazard.level).ok();
    let level = parts::required_enum(v, "level", hazard.level, level);
    let source = HazardSource::try_from(hazard.source).ok();
    parts::required_enum(v, "source", hazard.source, source);
    let treatment = HazardTreatment::try_from(hazard.treatment).ok();
    let treatment = parts::required_enum(v, "treatment", hazard.treatment, treatment);
    if level == Some(HazardLevel::Major) {
        required_prose(v, "criterion", &hazard.criterion, 500);
        if treatment == Some(HazardTreatment::AtOnce) {
            let (en, zh) = (
                "is BY_DEADLINE for a major hazard",
                "重大隐患应为限期整改 BY_DEADLINE",
            );
            v.field("treatment", FieldReason::NotAllowed, en, zh);
        }
    } else {
        optional_prose(v, "criterion", &hazard.criterion, 500);
    }
}

fn links(v: &mut Violations, hazard: &Hazard, context: &Context<'_>) {
    parts::own_record(v, "risk", &hazard.risk, "risks", context);
    parts::own_record(v, "measure", &hazard.measure, "measures", context);
    let failed = hazard.source() == HazardSource::MeasureFailed;
    if failed && hazard.measure.is_empty() {
        v.required("measure");
    }
    if !failed && !hazard.measure.is_empty() {
        let (en, zh) = (
            "is for a hazard whose source is MEASURE_FAILED",
            "仅来源为管控措施失效 MEASURE_FAILED 时填写",
        );
        v.field("measure", FieldReason::NotAllowed, en, zh);
    }
    parts::record(v, "duplicate_of", &hazard.duplicate_of, "hazards");
    if !hazard.duplicate_of.is_empty() && hazard.duplicate_of == hazard.name {
        let (en, zh) = ("must name another hazard", "应指向另一条隐患");
        v.field("duplicate_of", FieldReason::NotAllowed, en, zh);
    }
}

/// The five elements: all of them for a major hazard.
fn elements(v: &mut Violations, hazard: &Hazard) {
    let major = hazard.level() == HazardLevel::Major;
    let Some(plan) = &hazard.rectification else {
        if major {
            return v.required("rectification");
        }
        if by_deadline(hazard) {
            v.required("rectification.deadline");
        }
        return;
    };
    let mut v = v.scope("rectification");
    type Check = for<'a> fn(&mut Violations, &str, &'a str, usize) -> Option<&'a str>;
    let prose: Check = if major {
        required_prose
    } else {
        optional_prose
    };
    prose(&mut v, "responsibility", &plan.responsibility, 500);
    prose(&mut v, "measures", &plan.measures, 4_000);
    prose(&mut v, "contingency_plan", &plan.contingency_plan, 2_000);
    match plan.funds_fen {
        Some(fen) => drop(Fen::check(&mut v, "funds_fen", fen)),
        None if major => v.required("funds_fen"),
        None => {}
    }
    let deadline = parts::time(&mut v, "deadline", plan.deadline.as_ref());
    if deadline.is_none() && plan.deadline.is_none() && (major || by_deadline(hazard)) {
        v.required("deadline");
    }
}

/// Whether a deadline must be set: it is being put right by one, or was.
fn by_deadline(hazard: &Hazard) -> bool {
    hazard.treatment() == HazardTreatment::ByDeadline && hazard.state() >= HazardState::Rectifying
}

fn extensions(v: &mut Violations, hazard: &Hazard, context: &Context<'_>) {
    let (count, most) = (hazard.extensions.len(), MAX_EXTENSIONS);
    if count > most {
        let (en, zh) = (format!("at most {most}"), format!("至多 {most} 次"));
        return v.field("extensions", FieldReason::TooMany, en, zh);
    }
    if count > 0 && hazard.state() < HazardState::Rectifying {
        let (en, zh) = (
            "are for a hazard that is RECTIFYING: set the deadline itself",
            "整改中 RECTIFYING 才可延期；此前请直接填写期限",
        );
        return v.field("extensions", FieldReason::NotAllowed, en, zh);
    }
    let plan = hazard.rectification.as_ref();
    let mut before = parts::instant(plan.and_then(|plan| plan.deadline.as_ref()));
    for (at, extension) in hazard.extensions.iter().enumerate() {
        let due = one_extension(&mut v.element("extensions", at), extension, context);
        if let (Some(due), Some(before)) = (due, before)
            && due <= before
        {
            let (en, zh) = ("must be after the deadline before", "应晚于原期限");
            let field = format!("extensions[{at}].deadline");
            v.field(&field, FieldReason::OutOfOrder, en, zh);
        }
        before = due.or(before);
    }
}

fn one_extension(
    v: &mut Violations,
    extension: &Extension,
    context: &Context<'_>,
) -> Option<Timestamp> {
    required_text(v, "document_number", &extension.document_number, 100);
    required_text(v, "approved_by", &extension.approved_by, 120);
    required_prose(v, "reason", &extension.reason, 500);
    parts::required_past(
        v,
        "approved_time",
        extension.approved_time.as_ref(),
        context,
    );
    if extension.deadline.is_none() {
        v.required("deadline");
    }
    parts::time(v, "deadline", extension.deadline.as_ref())
}

/// What belongs to a hazard that was put right: when, by whom it was accepted, and its closure.
fn settled(v: &mut Violations, hazard: &Hazard, context: &Context<'_>) {
    let state = hazard.state();
    let found = parts::required_past(v, "found_time", hazard.found_time.as_ref(), context);
    let stamp = hazard.rectified_time.as_ref();
    let rectified = parts::past(v, "rectified_time", stamp, context);
    if state >= HazardState::AcceptanceRequested && stamp.is_none() {
        v.required("rectified_time");
    }
    if let (Some(found), Some(rectified)) = (found, rectified)
        && rectified < found
    {
        let (en, zh) = ("is before found_time", "早于 found_time");
        v.field("rectified_time", FieldReason::OutOfOrder, en, zh);
    }
    let accepted = state >= HazardState::Passed;
    match &hazard.acceptance {
        Some(check) => acceptance(&mut v.scope("acceptance"), check, hazard, context),
        None if accepted => v.required("acceptance"),
        None => {}
    }
    let document = &hazard.closing_document;
    if state == HazardState::Closed && hazard.level() == HazardLevel::Major {
        required_text(v, "closing_document", document, 100);
    } else {
        optional_text(v, "closing_document", document, 100);
    }
}

fn acceptance(v: &mut Violations, check: &Acceptance, hazard: &Hazard, context: &Context<'_>) {
    let unit = required_text(v, "unit", &check.unit, 120);
    let rectifies = hazard.unit.as_ref().map(|unit| unit.name.trim());
    if unit.is_some_and(|unit| Some(unit.trim()) == rectifies) {
        let (en, zh) = (
            "must not be the unit that puts the hazard right",
            "验收单位不得为整改单位自身",
        );
        v.field("unit", FieldReason::NotAllowed, en, zh);
    }
    required_text(v, "post", &check.post, 60);
    parts::required_past(v, "time", check.time.as_ref(), context);
    required_prose(v, "comment", &check.comment, 1_000);
    let state = hazard.state();
    let (en, zh) = match (state, check.passed) {
        (HazardState::Passed | HazardState::Closed, false) => (
            "must be true for PASSED and CLOSED",
            "已验收、已销号时应为 true",
        ),
        (HazardState::Rectifying | HazardState::AcceptanceRequested, true) => (
            "must be false until the hazard is PASSED",
            "验收通过前应为 false",
        ),
        (HazardState::Reported | HazardState::Confirmed, _) => (
            "is for a hazard whose acceptance was requested",
            "申请验收后方可填写验收意见",
        ),
        _ => return,
    };
    v.field("passed", FieldReason::NotAllowed, en, zh);
}

/// What a revision must leave as it was, once the hazard is being put right.
fn kept(v: &mut Violations, before: &Hazard, after: &Hazard) {
    if before.state() < HazardState::Rectifying {
        return;
    }
    let returned = before.state() == HazardState::AcceptanceRequested
        && after.state() == HazardState::Rectifying;
    let failed = after.acceptance.as_ref();
    if returned && failed.is_none_or(|check| Some(check) == before.acceptance.as_ref()) {
        let (en, zh) = (
            "must say why the hazard goes back to RECTIFYING",
            "退回整改应填写验收意见",
        );
        v.field("acceptance", FieldReason::Required, en, zh);
    }
    let plan = |hazard: &Hazard| hazard.rectification.as_ref().and_then(|plan| plan.deadline);
    if plan(before) != plan(after) {
        let (en, zh) = (
            "stands since the hazard is RECTIFYING: add an extension",
            "整改期限已定，请以 extensions 增加延期",
        );
        v.field("rectification.deadline", FieldReason::NotAllowed, en, zh);
    }
    if before.level != after.level {
        let (en, zh) = (
            "stands since the hazard is RECTIFYING",
            "进入整改后不得变更等级",
        );
        v.field("level", FieldReason::NotAllowed, en, zh);
    }
    let (held, now) = (&before.extensions, &after.extensions);
    let more = now.len().saturating_sub(held.len());
    let rectifying = after.state() == HazardState::Rectifying;
    if !now.starts_with(held) || more > 1 || (more == 1 && !rectifying) {
        let (en, zh) = (
            "are only added, one in a revision, while the hazard is RECTIFYING",
            "延期只能在整改中逐次增加，不得更改既有延期",
        );
        v.field("extensions", FieldReason::NotAllowed, en, zh);
    }
}
