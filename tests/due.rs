//! Clocks: what is due and overdue, by dated rules, for those who may see it, also after a restart.

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
        due::v1::{DueChange, DueItem, ListDueRequest, WatchDueRequest, WatchDueResponse},
        error::v1::ErrorReason,
        hazard::v1::{Extension, Hazard, HazardState, SubmitHazardRequest},
        incident::v1::{Incident, ReportKind, SubmitIncidentRequest},
    },
    services::status::Decoded,
};
use prost_types::Timestamp;
use support::{Clients, Domain, QIDONG, RUDONG, Running, decoded, hazard, incident, stamp};
use tonic::Streaming;

async fn find(clients: &mut Clients, hazard: &Hazard) {
    let request = SubmitHazardRequest {
        hazard: Some(hazard.clone()),
        ..Default::default()
    };
    clients.hazards.submit_hazard(request).await.unwrap();
}

async fn report(clients: &mut Clients, incident: &Incident) {
    let request = SubmitIncidentRequest {
        incident: Some(incident.clone()),
        ..Default::default()
    };
    clients.incidents.submit_incident(request).await.unwrap();
}

async fn due(clients: &mut Clients, request: ListDueRequest) -> Result<Vec<DueItem>, Decoded> {
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListDueRequest {
            page_token: token,
            ..request.clone()
        };
        let answer = clients
            .due
            .list_due(request)
            .await
            .map_err(decoded)?
            .into_inner();
        items.extend(answer.items);
        token = answer.next_page_token;
        if token.is_empty() {
            return Ok(items);
        }
    }
}

/// Item number, clock, and whether it is overdue.
fn brief(items: &[DueItem]) -> Vec<(String, String, bool)> {
    let item = |item: &DueItem| {
        let number = item.name.rsplit('/').next().unwrap().to_owned();
        (number, item.clock.clone(), item.overdue)
    };
    let mut brief: Vec<_> = items.iter().map(item).collect();
    brief.sort();
    brief
}

fn row(item: &str, clock: &str, overdue: bool) -> (String, String, bool) {
    (item.to_owned(), clock.to_owned(), overdue)
}

fn in_hours(hours: i64) -> Option<Timestamp> {
    let now = jiff::Timestamp::now().as_second();
    Some(Timestamp {
        seconds: now + hours * 3_600,
        nanos: 0,
    })
}

/// One that must be put right in so many hours.
fn by(item: &str, hours: i64) -> Hazard {
    let mut made = hazard(item);
    made.rectification.as_mut().unwrap().deadline = in_hours(hours);
    made
}

fn ahead(hours: i64) -> ListDueRequest {
    ListDueRequest {
        within: Some(prost_types::Duration {
            seconds: hours * 3_600,
            nanos: 0,
        }),
        page_size: 2,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_and_overdue_is_told_to_whose_it_is_and_above() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let other = domain.start("rudong", Some(("nantong", &city))).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut rudong = domain.agency(RUDONG, &other).await;
    for (item, hours) in [("H-1", -30), ("H-2", 2), ("H-3", 50), ("H-4", -1)] {
        find(&mut qidong, &by(item, hours)).await;
    }
    let mut elsewhere = by("H-1", -2);
    elsewhere.name = format!("agencies/{RUDONG}/hazards/H-1");
    elsewhere.place.as_mut().unwrap().division = "320623".into();
    find(&mut rudong, &elsewhere).await;
    // An incident that was not forwarded, whose next report is due a day after the ledger took this one.
    let mut open = incident("I-1");
    open.forwarded_time = None;
    report(&mut qidong, &open).await;
    let all = [
        row("H-1", "RECTIFICATION", true),
        row("H-2", "RECTIFICATION", false),
        row("H-4", "RECTIFICATION", true),
        row("I-1", "FOLLOW_UP", false),
        row("I-1", "FORWARD", true),
    ];
    let found = due(&mut qidong, ahead(25)).await.unwrap();
    assert_eq!(brief(&found), all);
    let hazards: Vec<_> = found.iter().filter(|i| i.register == "hazards").collect();
    assert!(hazards.is_sorted_by_key(|item| item.due_time.unwrap().seconds));
    let forward = found.iter().find(|item| item.clock == "FORWARD").unwrap();
    let received = open.received_time.unwrap().seconds;
    assert_eq!(forward.start_time.unwrap().seconds, received);
    assert_eq!(forward.due_time.unwrap().seconds, received + 2 * 3_600);
    assert_eq!(
        (forward.agency.as_str(), forward.division.as_str()),
        (QIDONG, "320681")
    );
    // Ahead of now alone; one hour is what is meant by default.
    let skip = ListDueRequest {
        skip_overdue: true,
        ..ahead(25)
    };
    let found = due(&mut qidong, skip).await.unwrap();
    assert_eq!(
        brief(&found),
        [
            row("H-2", "RECTIFICATION", false),
            row("I-1", "FOLLOW_UP", false)
        ]
    );
    let found = due(&mut qidong, ListDueRequest::default()).await.unwrap();
    assert_eq!(found.len(), 3);
    // The city has both counties, the county its own; division, agency and register narrow it.
    for node in [&county, &other] {
        let mut operator = domain.admin(node).await;
        assert!(operator.sync().await.complete);
    }
    let mut operator = domain.admin(&city).await;
    assert_eq!(due(&mut operator, ahead(25)).await.unwrap().len(), 6);
    type Narrow = fn(&mut ListDueRequest);
    let cases: [(Narrow, usize); 4] = [
        (|r| r.division = "320623".into(), 1),
        (|r| r.agency = QIDONG.into(), 5),
        (|r| r.register = "incidents".into(), 2),
        (|r| r.division = "320681100".into(), 0),
    ];
    for (narrow, count) in cases {
        let mut request = ahead(25);
        narrow(&mut request);
        assert_eq!(due(&mut operator, request).await.unwrap().len(), count);
    }
    // What is done is due no more: forwarded and final, put right, moved, withdrawn; also after a restart.
    open.forwarded_time = in_hours(0);
    let report_of = open.report.as_mut().unwrap();
    report_of.kind = ReportKind::Final.into();
    report(&mut qidong, &open).await;
    let mut moved = by("H-4", -1);
    moved.rectification = by("H-4", -1).rectification;
    let standing = due(&mut qidong, ahead(25)).await.unwrap();
    let deadline = standing
        .iter()
        .find(|i| i.name == moved.name)
        .unwrap()
        .due_time;
    moved.rectification.as_mut().unwrap().deadline = deadline;
    for state in [HazardState::Confirmed, HazardState::Rectifying] {
        moved.state = state.into();
        find(&mut qidong, &moved).await;
    }
    moved.extensions.push(Extension {
        document_number: "启应急延〔2024〕1号".into(),
        approved_by: "启东市应急管理局".into(),
        approved_time: stamp("2024-03-10T09:00:00+08:00"),
        deadline: in_hours(100),
        reason: "备件到货延迟".into(),
    });
    find(&mut qidong, &moved).await;
    let county = Running::start(county.stop().await).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let found = due(&mut qidong, ahead(25)).await.unwrap();
    assert_eq!(
        brief(&found),
        [
            row("H-1", "RECTIFICATION", true),
            row("H-2", "RECTIFICATION", false)
        ]
    );
    // What cannot be asked; a token is for its own question and caller.
    type Break = fn(&mut ListDueRequest);
    let cases: [(&str, Break); 4] = [
        ("register", |r| r.register = "risks".into()),
        ("division", |r| r.division = "x".into()),
        ("within", |r| r.within.as_mut().unwrap().seconds = -1),
        ("page_size", |r| r.page_size = -1),
    ];
    for (field, break_it) in cases {
        let mut request = ahead(25);
        break_it(&mut request);
        let error = due(&mut operator, request).await.unwrap_err();
        assert_eq!(error.reason, Some(ErrorReason::FieldInvalid), "{field}");
        assert_eq!(error.violations[0].0, field);
    }
    let first = operator.due.list_due(ahead(25)).await.unwrap().into_inner();
    let stolen = ListDueRequest {
        page_token: first.next_page_token,
        ..ahead(26)
    };
    let refused = operator.due.list_due(stolen).await.map_err(decoded);
    assert_eq!(
        refused.unwrap_err().reason,
        Some(ErrorReason::PageTokenInvalid)
    );
}

/// The next change that has an item.
async fn next(changes: &mut Streaming<WatchDueResponse>) -> (DueChange, String) {
    loop {
        let change = changes.message().await.unwrap().unwrap();
        if let Some(item) = &change.item {
            let number = item.name.rsplit('/').next().unwrap().to_owned();
            return (change.change(), number);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_becomes_due_overdue_and_done() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let overdue = by("H-1", -1);
    find(&mut agency, &overdue).await;
    let request = WatchDueRequest {
        register: "hazards".into(),
        ..Default::default()
    };
    let mut changes = agency
        .due
        .watch_due(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut changes).await, (DueChange::Overdue, "H-1".into()));
    let end = changes.message().await.unwrap().unwrap();
    assert_eq!((end.change(), end.item), (DueChange::Unspecified, None));
    // One that leaves out what is overdue begins with nothing.
    let later = WatchDueRequest {
        skip_overdue: true,
        ..request
    };
    let mut ahead = agency.due.watch_due(later).await.unwrap().into_inner();
    assert!(ahead.message().await.unwrap().unwrap().item.is_none());
    // Due within the hour; in three seconds, and then overdue by itself; then done.
    let mut hourly = by("H-3", 0);
    let deadline = hourly.rectification.as_mut().unwrap();
    deadline.deadline.as_mut().unwrap().seconds += 1_800;
    find(&mut agency, &hourly).await;
    for changes in [&mut changes, &mut ahead] {
        assert_eq!(next(changes).await, (DueChange::Due, "H-3".into()));
    }
    let mut soon = hazard("H-2");
    let now = jiff::Timestamp::now().as_second();
    soon.rectification.as_mut().unwrap().deadline = Some(Timestamp {
        seconds: now + 3,
        nanos: 0,
    });
    find(&mut agency, &soon).await;
    for changes in [&mut changes, &mut ahead] {
        // A slow machine may be past it before it looks.
        let mut told = next(changes).await;
        if told.0 == DueChange::Due {
            told = next(changes).await;
        }
        assert_eq!(told, (DueChange::Overdue, "H-2".into()));
    }
    let mut fixed = soon;
    for state in [
        HazardState::Confirmed,
        HazardState::Rectifying,
        HazardState::AcceptanceRequested,
    ] {
        fixed.state = state.into();
        fixed.rectified_time = fixed.found_time;
        find(&mut agency, &fixed).await;
    }
    for changes in [&mut changes, &mut ahead] {
        assert_eq!(next(changes).await, (DueChange::Met, "H-2".into()));
    }
}
