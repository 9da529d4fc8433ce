//! Figures, and who has reported: at a county and at its city, for those who may read them.

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
        hazard::v1::{Hazard, HazardSource, HazardState, SubmitHazardRequest},
        incident::v1::{Casualties, Incident, SubmitIncidentRequest, WithdrawIncidentRequest},
        nilreport::v1::SubmitNilReportRequest,
        statistics::v1::{
            Dimension, GetReportingRequest, GetReportingResponse, GetStatisticsRequest,
            GetStatisticsResponse, ReportingState, StatisticsRow,
        },
    },
    services::status::Decoded,
};
use support::{Clients, Domain, QIDONG, RUDONG, decoded, hazard, incident, nil_report, stamp};

async fn report(clients: &mut Clients, incident: Incident) {
    let request = SubmitIncidentRequest {
        incident: Some(incident),
        ..Default::default()
    };
    clients.incidents.submit_incident(request).await.unwrap();
}

async fn find(clients: &mut Clients, hazard: Hazard) {
    let request = SubmitHazardRequest {
        hazard: Some(hazard),
        ..Default::default()
    };
    clients.hazards.submit_hazard(request).await.unwrap();
}

async fn nil(
    clients: &mut Clients,
    agency: &str,
    register: &str,
    day: &str,
) -> Result<(), Decoded> {
    let name = format!("agencies/{agency}/nilreports/{register}-{day}");
    let request = SubmitNilReportRequest {
        nilreport: Some(nil_report(&name, register, day)),
        ..Default::default()
    };
    let submitted = clients.nil_reports.submit_nil_report(request).await;
    submitted.map(|_| ()).map_err(decoded)
}

fn year(register: &str, group_by: &[Dimension]) -> GetStatisticsRequest {
    GetStatisticsRequest {
        register: register.into(),
        from_date: "2024-01-01".into(),
        to_date: "2024-12-31".into(),
        group_by: group_by.iter().map(|d| i32::from(*d)).collect(),
        ..Default::default()
    }
}

async fn figures(
    clients: &mut Clients,
    request: GetStatisticsRequest,
) -> Result<GetStatisticsResponse, Decoded> {
    let answer = clients.statistics.get_statistics(request).await;
    answer.map(tonic::Response::into_inner).map_err(decoded)
}

async fn reporting(clients: &mut Clients, register: &str, date: &str) -> GetReportingResponse {
    let request = GetReportingRequest {
        register: register.into(),
        date: date.into(),
        ..Default::default()
    };
    let answer = clients.statistics.get_reporting(request).await;
    answer.unwrap().into_inner()
}

fn count(row: &StatisticsRow) -> [i64; 3] {
    [&row.figures, &row.before, &row.year_before].map(|f| f.as_ref().map_or(-1, |f| f.count))
}

fn at(item: &str, day: &str) -> Incident {
    let mut made = incident(item);
    let time = |clock: &str| stamp(&format!("{day}T{clock}:00+08:00"));
    made.occurred_time = time("08:00");
    made.informed_time = time("08:05");
    made.received_time = time("08:30");
    made.forwarded_time = time("09:00");
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_compared_split_marked_and_shown_to_those_who_may_read() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let other = domain.start("rudong", Some(("nantong", &city))).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut rudong = domain.agency(RUDONG, &other).await;
    for (item, day) in [
        ("I-1", "2024-02-18"),
        ("I-2", "2024-03-31"),
        ("I-3", "2023-02-18"),
    ] {
        report(&mut qidong, at(item, day)).await;
    }
    let mut estimated = at("I-4", "2024-12-31");
    estimated.figures_approximate = true;
    estimated.casualties = Some(Casualties {
        serious_injuries: Some(2),
        ..Casualties::default()
    });
    estimated.direct_loss_fen = Some(12_000_000);
    report(&mut qidong, estimated).await;
    let mut elsewhere = at("I-1", "2024-02-18");
    elsewhere.name = format!("agencies/{RUDONG}/incidents/I-1");
    elsewhere.place.as_mut().unwrap().division = "320623".into();
    report(&mut rudong, elsewhere).await;
    // What is withdrawn counts no more.
    report(&mut qidong, at("I-5", "2024-02-19")).await;
    let request = WithdrawIncidentRequest {
        name: format!("agencies/{QIDONG}/incidents/I-5"),
        reason: "误报".into(),
        ..Default::default()
    };
    qidong.incidents.withdraw_incident(request).await.unwrap();
    // A hazard twice, through two channels.
    find(&mut qidong, hazard("H-1")).await;
    let mut again = hazard("H-2");
    again.source = HazardSource::Public.into();
    again.duplicate_of = hazard("H-1").name;
    find(&mut qidong, again).await;
    let mut confirmed = hazard("H-1");
    confirmed.state = HazardState::Confirmed.into();
    find(&mut qidong, confirmed).await;
    for node in [&county, &other] {
        let mut operator = domain.admin(node).await;
        assert!(operator.sync().await.complete);
    }
    let mut operator = domain.admin(&city).await;
    let answer = figures(&mut operator, year("incidents", &[]))
        .await
        .unwrap();
    let total = answer.total.unwrap();
    assert_eq!(count(&total), [4, 1, 1]);
    assert_eq!(answer.agencies, 2);
    let sums = total.figures.unwrap().sums;
    let sum = |name: &str| {
        let sum = sums.iter().find(|sum| sum.name == name).unwrap();
        (sum.value, sum.approximate)
    };
    assert_eq!(sum("deaths"), (3, false));
    assert_eq!(sum("serious_injuries"), (2, true));
    assert_eq!(sum("direct_loss_fen"), (12_000_000, true));
    // By division and by month; a month is compared with the one before and with that of the year before.
    let request = year("incidents", &[Dimension::Division]);
    let answer = figures(&mut operator, request).await.unwrap();
    let rows: Vec<_> = answer
        .rows
        .iter()
        .map(|r| (r.group[0].as_str(), count(r)))
        .collect();
    assert_eq!(rows, [("320623", [1, 0, 0]), ("320681", [3, 1, 1])]);
    let february = GetStatisticsRequest {
        from_date: "2024-02-01".into(),
        to_date: "2024-02-29".into(),
        division: "320681".into(),
        ..year("incidents", &[])
    };
    let answer = figures(&mut operator, february).await.unwrap();
    assert_eq!(count(&answer.total.unwrap()), [1, 0, 1]);
    assert_eq!(answer.before_from_date, "2024-01-01");
    let request = year("incidents", &[Dimension::Month, Dimension::Level]);
    let answer = figures(&mut operator, request).await.unwrap();
    let rows: Vec<_> = answer.rows.iter().map(|r| r.group.join(" ")).collect();
    assert_eq!(
        rows,
        [
            "2024-02 EVENT_CLASS_ACCIDENT",
            "2024-03 EVENT_CLASS_ACCIDENT",
            "2024-12 EVENT_CLASS_ACCIDENT"
        ]
    );
    // Channels overlap: the one that says so is left out of the total, and the answer says that.
    let request = year("hazards", &[Dimension::Channel, Dimension::Status]);
    let answer = figures(&mut operator, request).await.unwrap();
    let rows: Vec<_> = answer
        .rows
        .iter()
        .map(|r| {
            let figures = r.figures.as_ref().unwrap();
            (r.group.join(" "), figures.count, figures.duplicates)
        })
        .collect();
    assert_eq!(
        rows,
        [
            (
                "HAZARD_SOURCE_ENFORCEMENT HAZARD_STATE_CONFIRMED".to_owned(),
                1,
                0
            ),
            (
                "HAZARD_SOURCE_PUBLIC HAZARD_STATE_REPORTED".to_owned(),
                0,
                1
            )
        ]
    );
    let total = answer.total.unwrap().figures.unwrap();
    assert_eq!(
        (total.count, total.duplicates, total.sums[0].value),
        (1, 1, 20_000_000)
    );
    assert!(answer.remark.contains("1 records") && !answer.remark_zh.is_empty());
    // An agency counts what it may read, whatever it asks for.
    domain.replace(
        "agencies.csv",
        "id,name,divisions,kind,node\nqidong-emergency,启东市应急管理局,320681,county-department,nantong;qidong\n\
         rudong-emergency,如东县应急管理局,320623,county-department,rudong\n",
    );
    let mut visitor = domain.agency(QIDONG, &city).await;
    let answer = figures(&mut visitor, year("incidents", &[])).await.unwrap();
    assert_eq!(count(&answer.total.unwrap())[0], 3);
    let prying = GetStatisticsRequest {
        agency: RUDONG.into(),
        ..year("incidents", &[])
    };
    let answer = figures(&mut visitor, prying).await.unwrap();
    assert_eq!(
        (count(&answer.total.unwrap()), answer.agencies),
        ([0, 0, 0], 0)
    );
    // What cannot be asked.
    type Break = fn(&mut GetStatisticsRequest);
    let cases: [(&str, Break); 7] = [
        ("register", |r| r.register = "nilreports".into()),
        ("register", |r| r.register = "Hazards!".into()),
        ("division", |r| r.division = "320681110200".into()),
        ("to_date", |r| r.to_date = "2023-01-01".into()),
        ("to_date", |r| r.to_date = "2500-01-01".into()),
        ("group_by[0]", |r| r.group_by = vec![99]),
        ("group_by[1]", |r| r.group_by = vec![1, 1]),
    ];
    for (field, break_it) in cases {
        let mut request = year("incidents", &[]);
        break_it(&mut request);
        let error = figures(&mut operator, request).await.unwrap_err();
        assert_eq!(error.reason, Some(ErrorReason::FieldInvalid), "{field}");
        assert_eq!(error.violations[0].0, field, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_report_and_not_reported_are_different_answers() {
    use ReportingState as S;
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut housing = domain.agency("qidong-housing", &county).await;
    report(&mut qidong, at("I-1", "2024-02-18")).await;
    // Whoever has something cannot say that there is nothing; the day after it can.
    let error = nil(&mut qidong, QIDONG, "incidents", "2024-02-18")
        .await
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::NilContradicted));
    assert_eq!(error.metadata["count"], "1");
    nil(&mut qidong, QIDONG, "incidents", "2024-02-19")
        .await
        .unwrap();
    nil(&mut housing, "qidong-housing", "incidents", "2024-02-18")
        .await
        .unwrap();
    let mut operator = domain.admin(&county).await;
    assert!(operator.sync().await.complete);
    // At the county: its own agencies alone. At the city: all whom its table names.
    let answer = reporting(&mut operator, "incidents", "2024-02-18").await;
    let rows: Vec<_> = answer
        .reporters
        .iter()
        .map(|r| (r.agency.as_str(), r.state()))
        .collect();
    assert_eq!(rows, [(QIDONG, S::Reported), ("qidong-housing", S::Nil)]);
    let mut operator = domain.admin(&city).await;
    let answer = reporting(&mut operator, "incidents", "2024-02-18").await;
    let rows: Vec<_> = answer
        .reporters
        .iter()
        .map(|r| (r.agency.as_str(), r.state()))
        .collect();
    assert_eq!(
        rows,
        [
            (QIDONG, S::Reported),
            ("qidong-housing", S::Nil),
            (RUDONG, S::Missing)
        ]
    );
    assert_eq!(answer.missing, 1);
    let signed = &answer.reporters[1];
    assert_eq!(
        signed.nil_report,
        "agencies/qidong-housing/nilreports/incidents-2024-02-18"
    );
    let receipt = signed.receipt.as_ref().unwrap();
    assert!(receipt.log.contains("/qidong/") && receipt.index > 0);
    // Told long after the deadline by the county's own ledger time; held here at the time of the cosignature.
    assert!(signed.late && !signed.held_late);
    assert!(signed.held_time.unwrap().seconds >= signed.reported_time.unwrap().seconds);
    // A record that comes later contradicts what was signed: it is taken, and told.
    let mut late = at("I-2", "2024-02-19");
    late.title = "迟报事故".into();
    report(&mut qidong, late).await;
    let mut child = domain.admin(&county).await;
    assert!(child.sync().await.complete);
    let answer = reporting(&mut operator, "incidents", "2024-02-19").await;
    let row = answer
        .reporters
        .iter()
        .find(|r| r.agency == QIDONG)
        .unwrap();
    assert_eq!((row.state(), row.records), (S::NilContradicted, 1));
    // A period that is not over yet is due, not missing; hazards are due by the month.
    let today = jiff::Timestamp::now();
    let today = hefu::types::beijing_date(today).to_string();
    let answer = reporting(&mut operator, "hazards", &today).await;
    assert!(
        answer
            .reporters
            .iter()
            .all(|r| r.state() == S::Due && r.from_date.ends_with("-01"))
    );
    assert_eq!((answer.reporters.len(), answer.missing), (4, 0));
    // An agency sees itself.
    let answer = reporting(&mut housing, "incidents", "2024-02-18").await;
    let rows: Vec<_> = answer.reporters.iter().map(|r| r.agency.as_str()).collect();
    assert_eq!(rows, [QIDONG, "qidong-housing"], "both lie in 320681");
    let request = GetReportingRequest {
        register: "risks".into(),
        date: "2024-02-30".into(),
        ..Default::default()
    };
    let error = operator
        .statistics
        .get_reporting(request)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.violations[0].0, "date");
}
