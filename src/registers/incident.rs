//! Incident reports (事故及自然灾害信息上报).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use prost::Message as _;

use super::{
    About, Context, Part, Register,
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
    proto::incident::v1::{
        AccidentGrade, Casualties, EventClass, Hop, HopKind, HopState, Incident,
        IncidentAssessment, Report, ReportKind,
    },
    types::{
        self, AccidentLosses, DivisionTable, EventType, Fen, FieldReason, LedgerTime, Reason,
        Refusal, RuleTable, Violations, optional_prose, required_prose, required_text,
    },
};

/// The clock of the hop to the next level: on disk, stays.
const FORWARD: u8 = 1;
/// The clock of the next report: on disk, stays.
const FOLLOW_UP: u8 = 2;

/// The register.
pub struct Incidents {
    /// Valid divisions.
    pub divisions: Arc<DivisionTable>,
    /// Dated rules.
    pub rules: Arc<RuleTable>,
}

impl Register for Incidents {
    type Message = Incident;

    const ABOUT: About = About {
        id: "incidents",
        service: "hefu.incident.v1.IncidentService",
        singular: "Incident",
        plural: "Incidents",
        field: "incident",
    };

    const CLOCKS: &'static [clock::Kind] = &[(FORWARD, "FORWARD"), (FOLLOW_UP, "FOLLOW_UP")];
    const EVENT: Option<&'static str> = Some("occurred_time");
    const COUNTS: bool = true;
    const SUMS: &'static [&'static str] =
        &["deaths", "missing", "serious_injuries", "direct_loss_fen"];

    fn name(message: &Incident) -> &str {
        &message.name
    }

    fn validate(&self, incident: &Incident, context: &Context<'_>, v: &mut Violations) {
        required_text(v, "title", &incident.title, 100);
        report(v, incident.report.as_ref());
        let class = EventClass::try_from(incident.event_class).ok();
        let class = parts::required_enum(v, "event_class", incident.event_class, class);
        let accident = class == Some(EventClass::Accident);
        match &incident.event_type {
            Some(event) => {
                EventType::check(&mut v.scope("event_type"), &event.scheme, &event.code);
            }
            None => v.required("event_type"),
        }
        parts::place(
            v,
            "place",
            incident.place.as_ref(),
            &self.divisions,
            context,
        );
        parts::unit(v, "unit", incident.unit.as_ref(), accident);
        times(v, incident, accident, context);
        required_prose(v, "course", &incident.course, 4_000);
        casualties(v, incident.casualties.as_ref());
        if let Some(loss) = incident.direct_loss_fen {
            Fen::check(v, "direct_loss_fen", loss);
        }
        optional_prose(v, "measures_taken", &incident.measures_taken, 4_000);
        optional_prose(v, "note", &incident.note, 2_000);
    }

    fn step(&self, before: Option<&Incident>, after: &Incident) -> Result<(), Refusal> {
        let before = before.and_then(|before| before.report.as_ref());
        let Some(after) = &after.report else {
            return Err(Refusal::new(Reason::TransitionNotAllowed));
        };
        let allowed = allowed(before);
        if allowed.contains(&(after.kind(), after.number, after.after_final)) {
            return Ok(());
        }
        let name = |(kind, number, final_made): &(ReportKind, i32, bool)| {
            let kind = kind.as_str_name();
            if *final_made {
                format!("{kind} number {number} after_final")
            } else {
                format!("{kind} number {number}")
            }
        };
        let names = allowed.iter().map(name).collect::<Vec<_>>().join(", ");
        Err(Refusal::new(Reason::TransitionNotAllowed)
            .because(format!("now due: {names}"), format!("此时可报：{names}"))
            .with("allowed", names))
    }

    fn running(incident: &Incident, taken: LedgerTime) -> Vec<Running> {
        let base = |stamp| parts::instant(stamp);
        if base(incident.occurred_time.as_ref()).is_none() {
            return Vec::new();
        }
        let open = incident.forwarded_time.is_none();
        let received = base(incident.received_time.as_ref()).filter(|_| open);
        let report = incident.report.as_ref();
        let last = report.is_some_and(|r| r.kind() == ReportKind::Final || r.after_final);
        let clock = |kind| move |base| Running { kind, base };
        let follow_up = (!last).then_some(taken.timestamp());
        let forward = received.map(clock(FORWARD));
        forward
            .into_iter()
            .chain(follow_up.map(clock(FOLLOW_UP)))
            .collect()
    }

    fn spread(&self, kind: u8) -> (SignedDuration, SignedDuration) {
        match kind {
            FORWARD => self.rules.forward_spread(),
            _ => self.rules.follow_up_spread(),
        }
    }

    fn due(&self, kind: u8, incident: &Incident, base: Timestamp) -> Option<Due> {
        let occurred = parts::instant(incident.occurred_time.as_ref())?;
        let at = match kind {
            FORWARD => self.rules.clocks(occurred).rules.forward_deadline(base),
            _ => {
                let grade = self.grade(incident, occurred);
                let grave = matches!(grade, AccidentGrade::Major | AccidentGrade::EspeciallyMajor);
                self.rules.follow_ups(occurred).rules.deadline(grave, base)
            }
        };
        let (place, unit) = (incident.place.clone(), incident.unit.clone());
        Some(Due {
            at,
            title: incident.title.clone(),
            division: place.unwrap_or_default().division,
            unit: unit.unwrap_or_default().name,
        })
    }

    fn tally(incident: &Incident, _: LedgerTime) -> Option<Tally> {
        let place = incident.place.as_ref().map(|place| place.division.as_str());
        let people = incident.casualties.unwrap_or_default();
        let count = |n: Option<i32>| n.unwrap_or(0).into();
        let kind = incident.report.as_ref().map(Report::kind);
        Some(Tally {
            level: small(incident.event_class()),
            status: small(kind.unwrap_or_default()),
            approximate: incident.figures_approximate,
            sums: [
                count(people.deaths),
                count(people.missing),
                count(people.serious_injuries),
                incident.direct_loss_fen.unwrap_or(0),
            ],
            ..Tally::new(parts::instant(incident.occurred_time.as_ref())?, place)
        })
    }

    fn label(part: Part, number: i32) -> &'static str {
        match part {
            Part::Level => EventClass::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Status => ReportKind::try_from(number).map_or("", |v| v.as_str_name()),
            Part::Channel => "",
        }
    }

    fn withdrawal() -> Incident {
        // An incident has no state of its own; that it was withdrawn stands in the revision's info.
        Incident::default()
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
                name: "occurred_time",
                kind: Kind::Time,
                index: Some(2),
                get: |seen| time(seen.message.occurred_time.as_ref()),
            },
            Field {
                name: "event_class",
                kind: enum_kind!(EventClass, "EVENT_CLASS"),
                index: None,
                get: |seen| Value::Number(seen.message.event_class.into()),
            },
            Field {
                name: "event_type.code",
                kind: Kind::Text,
                index: None,
                get: |seen| {
                    let event = seen.message.event_type.as_ref();
                    event.map_or(Value::Absent, |event| text(&event.code))
                },
            },
            Field {
                name: "report.kind",
                kind: enum_kind!(ReportKind, "REPORT_KIND"),
                index: None,
                get: |seen| {
                    let report = seen.message.report.as_ref();
                    report.map_or(Value::Absent, |report| Value::Number(report.kind.into()))
                },
            },
            Field {
                name: "grade",
                kind: enum_kind!(AccidentGrade, "ACCIDENT_GRADE"),
                index: None,
                get: |seen| assessed(seen, |a| Value::Number(a.grade.into())),
            },
            Field {
                name: "late",
                kind: Kind::Bool,
                index: None,
                get: |seen| assessed(seen, |a| Value::Bool(a.late)),
            },
            Field {
                name: "due",
                kind: Kind::Bool,
                index: None,
                get: |seen| assessed(seen, |a| Value::Bool(a.due)),
            },
        ]
    }

    fn assess(&self, incident: &Incident, taken: LedgerTime, now: Timestamp) -> Option<Vec<u8>> {
        self.assessment(incident, taken, now)
            .map(|assessment| assessment.encode_to_vec())
    }
}

fn assessed<'a>(
    seen: &Seen<'a, Incidents>,
    get: impl Fn(&IncidentAssessment) -> Value<'a>,
) -> Value<'a> {
    let assessment = seen.register.assessment(seen.message, seen.taken, seen.now);
    assessment.as_ref().map_or(Value::Absent, get)
}

impl Incidents {
    /// What the rules that held when it happened derive from a report.
    fn assessment(
        &self,
        incident: &Incident,
        taken: LedgerTime,
        now: Timestamp,
    ) -> Option<IncidentAssessment> {
        let occurred = parts::instant(incident.occurred_time.as_ref())?;
        let hops = self.hops(incident, occurred, now);
        let state = |state: HopState| hops.iter().any(|hop| hop.state() == state);
        let event = incident.event_type.as_ref();
        let event =
            event.and_then(|e| EventType::check(&mut Violations::new(), &e.scheme, &e.code));
        let deadline = event.map(|event| self.rules.correction_deadline(&event, occurred));
        let grade = self.grade(incident, occurred);
        Some(IncidentAssessment {
            grade: grade.into(),
            late: state(HopState::Late),
            due: state(HopState::Due),
            hops,
            correction_deadline: deadline.map(|at| timestamp(at.into())),
            after_correction_window: deadline.is_some_and(|at| taken.timestamp() >= at),
            rules: self.rules.grades(occurred).label(),
        })
    }

    fn grade(&self, incident: &Incident, occurred: Timestamp) -> AccidentGrade {
        if incident.event_class() != EventClass::Accident {
            return AccidentGrade::Unspecified;
        }
        let people = incident.casualties.unwrap_or_default();
        let count = |n: Option<i32>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let loss = incident
            .direct_loss_fen
            .and_then(|fen| Fen::try_from(fen).ok());
        let losses = AccidentLosses {
            deaths: count(people.deaths),
            serious_injuries: count(people.serious_injuries),
            direct_loss: loss.unwrap_or(Fen::ZERO),
        };
        match self.rules.grade(&losses, occurred) {
            types::AccidentGrade::Ordinary => AccidentGrade::Ordinary,
            types::AccidentGrade::Larger => AccidentGrade::Larger,
            types::AccidentGrade::Major => AccidentGrade::Major,
            types::AccidentGrade::EspeciallyMajor => AccidentGrade::EspeciallyMajor,
        }
    }

    /// Each hop against its own deadline: the unit's from being told, the authority's from receipt.
    fn hops(&self, incident: &Incident, occurred: Timestamp, now: Timestamp) -> Vec<Hop> {
        let clocks = &self.rules.clocks(occurred).rules;
        let informed = parts::instant(incident.informed_time.as_ref());
        let received = parts::instant(incident.received_time.as_ref());
        let forwarded = parts::instant(incident.forwarded_time.as_ref());
        let first = informed.map(|start| {
            hop(
                HopKind::UnitToAuthority,
                start,
                clocks.authority_deadline(start),
                received,
                now,
            )
        });
        let second = received.map(|start| {
            let deadline = clocks.forward_deadline(start);
            hop(
                HopKind::AuthorityToNextLevel,
                start,
                deadline,
                forwarded,
                now,
            )
        });
        first.into_iter().chain(second).collect()
    }
}

fn hop(
    kind: HopKind,
    start: Timestamp,
    deadline: Timestamp,
    done: Option<Timestamp>,
    now: Timestamp,
) -> Hop {
    let state = match done {
        Some(done) if done <= deadline => HopState::OnTime,
        None if now <= deadline => HopState::Due,
        _ => HopState::Late,
    };
    Hop {
        kind: kind.into(),
        start_time: Some(timestamp(start.into())),
        deadline: Some(timestamp(deadline.into())),
        done_time: done.map(|at| timestamp(at.into())),
        state: state.into(),
    }
}

/// The reports that may follow: a first one; then follow-ups in order, a final one, corrections, which keep
/// the number of the last follow-up; after the final one, corrections alone.
fn allowed(before: Option<&Report>) -> Vec<(ReportKind, i32, bool)> {
    let Some(before) = before else {
        return vec![(ReportKind::First, 0, false)];
    };
    let number = before.number;
    if before.kind() == ReportKind::Final || before.after_final {
        return vec![(ReportKind::Correction, number, true)];
    }
    vec![
        (ReportKind::FollowUp, number.saturating_add(1), false),
        (ReportKind::Final, number, false),
        (ReportKind::Correction, number, false),
    ]
}

fn report(v: &mut Violations, report: Option<&Report>) {
    let Some(report) = report else {
        return v.required("report");
    };
    let mut v = v.scope("report");
    let kind = ReportKind::try_from(report.kind).ok();
    let kind = parts::required_enum(&mut v, "kind", report.kind, kind);
    let numbered = kind == Some(ReportKind::FollowUp);
    let low = i32::from(numbered);
    if !(low..=9_999).contains(&report.number)
        || (kind == Some(ReportKind::First) && report.number != 0)
    {
        let (en, zh) = (
            "must be 0 for a first report, 1 or more for a follow-up",
            "初报为 0，续报从 1 起",
        );
        v.field("number", FieldReason::OutOfRange, en, zh);
    }
    required_text(&mut v, "signed_off_by", &report.signed_off_by, 60);
    if kind == Some(ReportKind::Correction) {
        required_prose(&mut v, "correction_reason", &report.correction_reason, 500);
    } else if !report.correction_reason.is_empty() {
        let (en, zh) = ("is for a correction alone", "仅更正报告填写");
        v.field("correction_reason", FieldReason::NotAllowed, en, zh);
    }
    if report.after_final && kind != Some(ReportKind::Correction) {
        let (en, zh) = ("is for a correction alone", "仅更正报告填写");
        v.field("after_final", FieldReason::NotAllowed, en, zh);
    }
}

fn times(v: &mut Violations, incident: &Incident, accident: bool, context: &Context<'_>) {
    if incident.occurred_time.is_none() {
        v.required("occurred_time");
    }
    if accident && incident.informed_time.is_none() {
        v.required("informed_time");
    }
    if incident.received_time.is_none() {
        v.required("received_time");
    }
    let occurred = parts::past(v, "occurred_time", incident.occurred_time.as_ref(), context);
    let informed = parts::past(v, "informed_time", incident.informed_time.as_ref(), context);
    let received = parts::past(v, "received_time", incident.received_time.as_ref(), context);
    let forwarded = parts::past(
        v,
        "forwarded_time",
        incident.forwarded_time.as_ref(),
        context,
    );
    let mut order =
        |field: &str, earlier: Option<Timestamp>, later: Option<Timestamp>, name: &str| {
            if let (Some(earlier), Some(later)) = (earlier, later)
                && later < earlier
            {
                let (en, zh) = (format!("is before {name}"), format!("早于 {name}"));
                v.field(field, FieldReason::OutOfOrder, en, zh);
            }
        };
    order("informed_time", occurred, informed, "occurred_time");
    order("received_time", occurred, received, "occurred_time");
    order("received_time", informed, received, "informed_time");
    order("forwarded_time", received, forwarded, "received_time");
}

fn casualties(v: &mut Violations, casualties: Option<&Casualties>) {
    let Some(people) = casualties else { return };
    let counts = [
        ("deaths", people.deaths),
        ("missing", people.missing),
        ("serious_injuries", people.serious_injuries),
        ("slight_injuries", people.slight_injuries),
        ("evacuated", people.evacuated),
    ];
    for (field, count) in counts {
        if count.is_some_and(|count| count < 0) {
            let field = format!("casualties.{field}");
            v.field(
                &field,
                FieldReason::OutOfRange,
                "must be 0 or more",
                "不得为负数",
            );
        }
    }
}
