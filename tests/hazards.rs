//! Hazards from report to closure: the whole loop, what it refuses, and a street's patrol in one stream.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::too_many_lines,
    reason = "a test tells one story from start to end"
)]

mod support;

use hefu::{
    proto::{
        error::v1::ErrorReason,
        hazard::v1::{
            Acceptance, Extension, GetHazardRequest, Hazard, HazardLevel, HazardRevision,
            HazardSource, HazardState, HazardTreatment, ListHazardRevisionsRequest,
            ListHazardsRequest, SubmitHazardRequest, SubmitHazardsRequest, WithdrawHazardRequest,
        },
        measure::v1::SubmitMeasureRequest,
        risk::v1::WithdrawRiskRequest,
        r#type::v1::ListSummary,
    },
    services::status::Decoded,
};
use support::{Clients, Domain, QIDONG, decoded, hazard, measure, risk, stamp};

const HOUSING: &str = "qidong-housing";

async fn submit(clients: &mut Clients, hazard: &Hazard) -> Result<(), Decoded> {
    let request = SubmitHazardRequest {
        hazard: Some(hazard.clone()),
        ..Default::default()
    };
    let answer = clients.hazards.submit_hazard(request).await;
    answer.map(|_| ()).map_err(decoded)
}

async fn get(clients: &mut Clients, name: &str) -> Result<HazardRevision, Decoded> {
    let request = GetHazardRequest { name: name.into() };
    let answer = clients.hazards.get_hazard(request).await.map_err(decoded)?;
    Ok(answer.into_inner().revision.unwrap())
}

async fn list(clients: &mut Clients, filter: &str) -> Vec<String> {
    let request = ListHazardsRequest {
        parent: "agencies/-/hazards".into(),
        filter: filter.into(),
        ..Default::default()
    };
    let answer = clients.hazards.list_hazards(request).await.unwrap();
    let revisions = answer.into_inner().revisions.into_iter();
    let item = |r: HazardRevision| {
        r.hazard
            .unwrap()
            .name
            .rsplit('/')
            .next()
            .unwrap()
            .to_owned()
    };
    revisions.map(item).collect()
}

fn check(passed: bool) -> Option<Acceptance> {
    Some(Acceptance {
        unit: "启东市应急管理局验收组".into(),
        post: "验收组组长".into(),
        time: stamp("2024-03-12T10:00:00+08:00"),
        comment: if passed {
            "整改到位"
        } else {
            "联锁试验未通过"
        }
        .into(),
        passed,
    })
}

fn at(hazard: &Hazard, state: HazardState) -> Hazard {
    Hazard {
        state: state.into(),
        ..hazard.clone()
    }
}

fn allowed(error: &Decoded) -> &str {
    assert_eq!(
        error.reason,
        Some(ErrorReason::TransitionNotAllowed),
        "{error:?}"
    );
    &error.metadata["allowed"]
}

fn violates(error: &Decoded, field: &str) {
    assert_eq!(error.reason, Some(ErrorReason::FieldInvalid), "{error:?}");
    let named = error.violations.iter().any(|(path, ..)| path == field);
    assert!(named, "{field}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_major_hazard_goes_from_report_to_closure_and_the_city_has_every_step() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    // It begins as a report, and skips nothing.
    let mut h = hazard("H-1");
    h.rectified_time = stamp("2024-03-11T10:00:00+08:00");
    let error = submit(&mut agency, &at(&h, HazardState::Rectifying))
        .await
        .unwrap_err();
    assert_eq!(allowed(&error), "HAZARD_STATE_REPORTED");
    h.rectified_time = None;
    submit(&mut agency, &h).await.unwrap();
    let error = submit(&mut agency, &at(&h, HazardState::Rectifying))
        .await
        .unwrap_err();
    assert_eq!(allowed(&error), "HAZARD_STATE_CONFIRMED");
    h = at(&h, HazardState::Confirmed);
    submit(&mut agency, &h).await.unwrap();
    // Before it is put right the deadline is still anyone's to set; then only an extension moves it.
    h.rectification.as_mut().unwrap().deadline = stamp("2024-03-19T18:00:00+08:00");
    h = at(&h, HazardState::Rectifying);
    submit(&mut agency, &h).await.unwrap();
    let standing = get(&mut agency, &h.name).await.unwrap().assessment.unwrap();
    assert!(standing.overdue && !standing.late && standing.overdue_days > 365);
    assert_eq!(list(&mut agency, "overdue = true").await, ["H-1"]);
    let mut moved = h.clone();
    moved.rectification.as_mut().unwrap().deadline = stamp("2034-03-19T18:00:00+08:00");
    violates(
        &submit(&mut agency, &moved).await.unwrap_err(),
        "hazard.rectification.deadline",
    );
    let extension = Extension {
        document_number: "启应急延〔2024〕1号".into(),
        approved_by: "启东市应急管理局".into(),
        approved_time: stamp("2024-03-10T09:00:00+08:00"),
        deadline: stamp("2094-04-18T18:00:00+08:00"),
        reason: "备件到货延迟".into(),
    };
    h.extensions.push(extension.clone());
    submit(&mut agency, &h).await.unwrap();
    let standing = get(&mut agency, &h.name).await.unwrap().assessment.unwrap();
    assert_eq!(
        (standing.deadline, standing.overdue),
        (extension.deadline, false)
    );
    assert_eq!(
        list(&mut agency, "overdue = true").await,
        Vec::<String>::new()
    );
    let mut forgotten = h.clone();
    forgotten.extensions.clear();
    violates(
        &submit(&mut agency, &forgotten).await.unwrap_err(),
        "hazard.extensions",
    );
    let mut milder = h.clone();
    milder.level = HazardLevel::General.into();
    violates(
        &submit(&mut agency, &milder).await.unwrap_err(),
        "hazard.level",
    );
    // Acceptance fails, with its reason, and then passes.
    h.rectified_time = stamp("2024-03-11T10:00:00+08:00");
    h = at(&h, HazardState::AcceptanceRequested);
    submit(&mut agency, &h).await.unwrap();
    let back = at(&h, HazardState::Rectifying);
    violates(
        &submit(&mut agency, &back).await.unwrap_err(),
        "hazard.acceptance",
    );
    h = Hazard {
        acceptance: check(false),
        ..back
    };
    submit(&mut agency, &h).await.unwrap();
    h = at(&h, HazardState::AcceptanceRequested);
    submit(&mut agency, &h).await.unwrap();
    let mut h = Hazard {
        acceptance: check(true),
        ..at(&h, HazardState::Passed)
    };
    submit(&mut agency, &h).await.unwrap();
    h.closing_document = "启应急销〔2024〕7号".into();
    h = at(&h, HazardState::Closed);
    submit(&mut agency, &h).await.unwrap();
    let error = submit(&mut agency, &at(&h, HazardState::Passed))
        .await
        .unwrap_err();
    assert_eq!(allowed(&error), "nothing");
    // Every step stands at the city.
    let mut operator = domain.admin(&county).await;
    assert!(operator.sync().await.complete);
    let mut operator = domain.admin(&city).await;
    let request = ListHazardRevisionsRequest {
        name: h.name.clone(),
        ..Default::default()
    };
    let answer = operator
        .hazards
        .list_hazard_revisions(request)
        .await
        .unwrap();
    let states = answer.into_inner().revisions.into_iter();
    let states: Vec<_> = states.map(|r| r.hazard.unwrap().state()).collect();
    use HazardState as S;
    let steps = [
        S::Closed,
        S::Passed,
        S::AcceptanceRequested,
        S::Rectifying,
        S::AcceptanceRequested,
        S::Rectifying,
        S::Rectifying,
        S::Confirmed,
        S::Reported,
    ];
    assert_eq!(states, steps);
    assert_eq!(
        list(&mut operator, "state = CLOSED AND level = MAJOR").await,
        ["H-1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_accept_is_told_how_far_it_may_go() {
    let domain = Domain::new();
    domain.replace(
        "agencies.csv",
        "id,name,divisions,kind,node\nqidong-emergency,启东市应急管理局,320681,enterprise,qidong\n",
    );
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut h = hazard("H-1");
    submit(&mut agency, &h).await.unwrap();
    for state in [HazardState::Confirmed, HazardState::Rectifying] {
        h = at(&h, state);
        submit(&mut agency, &h).await.unwrap();
    }
    h.rectified_time = stamp("2024-03-11T10:00:00+08:00");
    h = at(&h, HazardState::AcceptanceRequested);
    submit(&mut agency, &h).await.unwrap();
    h.acceptance = check(true);
    let error = submit(&mut agency, &at(&h, HazardState::Passed))
        .await
        .unwrap_err();
    let may = allowed(&error);
    assert!(
        may.ends_with("HAZARD_STATE_ACCEPTANCE_REQUESTED") && !may.contains("PASSED"),
        "{may}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hazards_name_risks_measures_and_their_duplicates() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut h = hazard("H-1");
    h.risk = format!("agencies/{QIDONG}/risks/R-1");
    h.measure = format!("agencies/{QIDONG}/measures/M-1");
    h.source = HazardSource::MeasureFailed.into();
    let error = submit(&mut agency, &h).await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::ReferenceMissing));
    assert_eq!(error.metadata["field"], "hazard.risk");
    agency.submit(risk("R-1")).await.unwrap();
    let request = SubmitMeasureRequest {
        measure: Some(measure("M-1", "R-1")),
        ..Default::default()
    };
    agency.measures.submit_measure(request).await.unwrap();
    submit(&mut agency, &h).await.unwrap();
    // A mention does not keep a risk alive, and a hazard outlives it.
    let request = WithdrawRiskRequest {
        name: h.risk.clone(),
        reason: "已拆除".into(),
        cascade: true,
        ..Default::default()
    };
    let withdrawn = agency.risks.withdraw_risk(request).await.unwrap();
    assert_eq!(withdrawn.into_inner().cascaded, [h.measure.clone()]);
    submit(&mut agency, &at(&h, HazardState::Confirmed))
        .await
        .unwrap();
    let mut late = hazard("H-9");
    late.risk.clone_from(&h.risk);
    assert_eq!(
        submit(&mut agency, &late).await.unwrap_err().reason,
        Some(ErrorReason::ReferenceMissing)
    );
    // Duplicates: within an agency the other must be there, of another agency nothing is asked.
    let mut twice = hazard("H-2");
    twice.duplicate_of = format!("agencies/{QIDONG}/hazards/NO-SUCH");
    let error = submit(&mut agency, &twice).await.unwrap_err();
    assert_eq!(error.metadata["field"], "hazard.duplicate_of");
    twice.duplicate_of.clone_from(&h.name);
    submit(&mut agency, &twice).await.unwrap();
    let mut elsewhere = hazard("H-3");
    elsewhere.duplicate_of = "agencies/rudong-emergency/hazards/H-77".into();
    submit(&mut agency, &elsewhere).await.unwrap();
    let filter = format!("duplicate_of = \"{}\"", h.name);
    assert_eq!(list(&mut agency, &filter).await, ["H-2"]);
    // What others name stays the original: no chain can lead back, also not across agencies.
    let mut ring = at(&h, HazardState::Confirmed);
    ring.duplicate_of.clone_from(&twice.name);
    violates(
        &submit(&mut agency, &ring).await.unwrap_err(),
        "hazard.duplicate_of",
    );
    let mut housing = domain.agency(HOUSING, &county).await;
    let mut other = hazard("H-1");
    other.name = format!("agencies/{HOUSING}/hazards/H-1");
    other.duplicate_of = format!("agencies/{QIDONG}/hazards/H-4");
    submit(&mut housing, &other).await.unwrap();
    let mut fourth = hazard("H-4");
    fourth.duplicate_of.clone_from(&other.name);
    violates(
        &submit(&mut agency, &fourth).await.unwrap_err(),
        "hazard.duplicate_of",
    );
    // Withdrawn, it names nothing any more; what was no hazard is withdrawn with its reason.
    let request = WithdrawHazardRequest {
        name: twice.name.clone(),
        reason: "核实后不属隐患".into(),
        ..Default::default()
    };
    agency.hazards.withdraw_hazard(request).await.unwrap();
    let gone = get(&mut agency, &twice.name).await.unwrap();
    assert_eq!(gone.hazard.unwrap().state(), HazardState::Withdrawn);
    ring.duplicate_of = format!("agencies/{QIDONG}/hazards/H-3");
    submit(&mut agency, &ring).await.unwrap();
}

/// A small hazard of a street's patrol.
fn patrolled(number: usize) -> Hazard {
    Hazard {
        level: HazardLevel::General.into(),
        source: HazardSource::PremisesPatrol.into(),
        treatment: HazardTreatment::AtOnce.into(),
        title: format!("沿街商铺 {number} 号安全出口堆物"),
        criterion: String::new(),
        rectification: None,
        ..hazard(&format!("P-{number:05}"))
    }
}

async fn stream(clients: &mut Clients, rows: Vec<Hazard>) -> ListSummary {
    let messages: Vec<_> = rows
        .chunks(500)
        .enumerate()
        .map(|(at, hazards)| SubmitHazardsRequest {
            hazards: hazards.to_vec(),
            parent: match at {
                0 => format!("agencies/{QIDONG}/hazards"),
                _ => String::new(),
            },
            ..Default::default()
        })
        .collect();
    let answers = clients
        .hazards
        .submit_hazards(futures::stream::iter(messages))
        .await;
    let (mut answers, mut summary) = (answers.unwrap().into_inner(), None);
    while let Some(answer) = answers.message().await.unwrap() {
        summary = answer.summary.or(summary);
    }
    summary.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patrol_of_ten_thousand_premises_goes_in_one_stream() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let rows: Vec<_> = (0..10_000).map(patrolled).collect();
    let started = std::time::Instant::now();
    let summary = stream(&mut agency, rows.clone()).await;
    assert_eq!(
        (summary.rows, summary.created, summary.refused),
        (10_000, 10_000, 0)
    );
    println!("10,000 hazards in one stream: {:?}", started.elapsed());
    // The next night the same list says that the first hundred were put right on the spot.
    let mut rows = rows;
    for row in rows.iter_mut().take(100) {
        row.rectified_time = row.found_time;
        row.state = HazardState::AcceptanceRequested.into();
    }
    let summary = stream(&mut agency, rows).await;
    assert_eq!((summary.revised, summary.unchanged), (100, 9_900));
    let shown = list(
        &mut agency,
        "state = ACCEPTANCE_REQUESTED AND source = PREMISES_PATROL",
    )
    .await;
    assert_eq!(shown.len(), 50);
}
