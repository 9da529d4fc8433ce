//! Bad input: every rule is hit, and answers with its code, its reason and the path of its field.

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
    gateway::client::Dialer,
    proto::{
        error::v1::ErrorReason,
        hazard::v1::{Acceptance, Extension, Hazard, SubmitHazardRequest},
        incident::v1::{Incident, SubmitIncidentRequest},
        measure::v1::{Measure, SubmitMeasureRequest},
        nilreport::v1::{NilReport, SubmitNilReportRequest},
        risk::v1::{Risk, SubmitRiskRequest},
    },
};
use prost::Message as _;
use support::{Clients, Domain, QIDONG, decoded, dial, foreign, hazard, incident, measure, risk};
use tonic::Code;

/// A valid GB 11643 number of nobody: division 320681, born 1980-01-01.
const IDENTITY_NUMBER: &str = "32068119800101001X";

fn identity_number() -> String {
    let body: Vec<u32> = IDENTITY_NUMBER
        .chars()
        .take(17)
        .filter_map(|c| c.to_digit(10))
        .collect();
    let weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = body
        .iter()
        .zip(weights)
        .map(|(digit, weight)| digit * weight)
        .sum();
    let check = "10X98765432".chars().nth(sum as usize % 11).unwrap();
    format!("{}{check}", &IDENTITY_NUMBER[..17])
}

type Case<M> = (&'static str, &'static str, fn(&mut M));

const RISKS: &[Case<Risk>] = &[
    ("risk.name", "REQUIRED", |r| r.name.clear()),
    ("risk.name", "BAD_FORMAT", |r| {
        r.name = "agencies/qidong-emergency/risks/../x".into()
    }),
    ("risk.name", "BAD_FORMAT", |r| {
        r.name = "agencies/qidong-emergency/measures/R-1".into()
    }),
    ("risk.title", "REQUIRED", |r| r.title.clear()),
    ("risk.title", "TOO_LONG", |r| r.title = "长".repeat(101)),
    ("risk.title", "CONTROL_CHARACTER", |r| {
        r.title = "a\u{0}b".into()
    }),
    ("risk.title", "CONTROL_CHARACTER", |r| {
        r.title = "line\nforged".into()
    }),
    ("risk.sector", "BAD_FORMAT", |r| r.sector = "Z99".into()),
    ("risk.place", "REQUIRED", |r| r.place = None),
    ("risk.place.division", "UNKNOWN_DIVISION", |r| {
        place(r).division = "320699".into()
    }),
    ("risk.place.division", "RETIRED_DIVISION", |r| {
        place(r).division = "320684".into()
    }),
    ("risk.place.division", "BAD_FORMAT", |r| {
        place(r).division = "32068".into()
    }),
    ("risk.place.division", "NOT_PERMITTED_DIVISION", |r| {
        place(r).division = "320623".into()
    }),
    ("risk.place.address", "REQUIRED", |r| {
        place(r).address.clear()
    }),
    ("risk.place.datum", "REQUIRED", |r| place(r).datum = 0),
    ("risk.place.datum", "UNKNOWN_ENUM", |r| place(r).datum = 9),
    ("risk.place.latitude", "OUT_OF_RANGE", |r| {
        place(r).latitude = Some(91.0)
    }),
    ("risk.place.latitude", "OUT_OF_RANGE", |r| {
        place(r).latitude = Some(f64::NAN)
    }),
    ("risk.place.longitude", "REQUIRED", |r| {
        place(r).longitude = None
    }),
    ("risk.place.longitude", "OUT_OF_RANGE", |r| {
        place(r).longitude = Some(2.35)
    }),
    ("risk.level", "REQUIRED", |r| r.level = 0),
    ("risk.level", "UNKNOWN_ENUM", |r| r.level = 77),
    ("risk.state", "NOT_ALLOWED", |r| r.state = 5),
    ("risk.factor", "PERSONAL_DATA", |r| {
        r.factor = format!("联系人{}", identity_number())
    }),
    ("risk.note", "PERSONAL_DATA", |r| {
        r.note = format!("证件 {} 。", identity_number())
    }),
    ("risk.consequences", "REQUIRED", |r| r.consequences.clear()),
    ("risk.consequences", "TOO_MANY", |r| {
        r.consequences = vec![1; 9]
    }),
    ("risk.consequences[1]", "NOT_ALLOWED", |r| {
        r.consequences = vec![1, 1]
    }),
    ("risk.consequences[0]", "UNKNOWN_ENUM", |r| {
        r.consequences = vec![99]
    }),
    ("risk.responsible_unit", "REQUIRED", |r| {
        r.responsible_unit = None
    }),
    ("risk.responsible_unit.uscc", "BAD_CHECK_DIGIT", |r| {
        unit(r).uscc = "91350100M000100Y44".into();
    }),
    ("risk.responsible_unit.uscc", "BAD_FORMAT", |r| {
        unit(r).uscc = "91350100M000100Y4".into();
        unit(r).uscc_override_reason = "发证机关误发".into();
    }),
    (
        "risk.responsible_unit.uscc_override_reason",
        "NOT_ALLOWED",
        |r| {
            unit(r).uscc_override_reason = "没有必要".into();
        },
    ),
    ("risk.responsible_unit.office_phone", "PERSONAL_DATA", |r| {
        unit(r).office_phone = "13800138000".into();
    }),
    ("risk.review_cycle_days", "OUT_OF_RANGE", |r| {
        r.review_cycle_days = -1
    }),
];

fn place(risk: &mut Risk) -> &mut hefu::proto::r#type::v1::Place {
    risk.place.as_mut().unwrap()
}

fn unit(risk: &mut Risk) -> &mut hefu::proto::r#type::v1::Unit {
    risk.responsible_unit.as_mut().unwrap()
}

const MEASURES: &[Case<Measure>] = &[
    ("measure.risk", "REQUIRED", |m| m.risk.clear()),
    ("measure.risk", "UNKNOWN_REFERENCE", |m| {
        m.risk = "agencies/rudong-emergency/risks/R-1".into();
    }),
    ("measure.measure_class", "REQUIRED", |m| m.measure_class = 0),
    ("measure.description", "TOO_LONG", |m| {
        m.description = "长".repeat(4_001)
    }),
    ("measure.funds_fen", "OUT_OF_RANGE", |m| m.funds_fen = -1),
    ("measure.state", "NOT_ALLOWED", |m| m.state = 4),
    ("measure.due_time", "OUT_OF_RANGE", |m| {
        m.due_time = Some(stamp(i64::MAX))
    }),
];

fn stamp(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn future() -> Option<prost_types::Timestamp> {
    Some(stamp(jiff::Timestamp::now().as_second() + 3_600))
}

const INCIDENTS: &[Case<Incident>] = &[
    ("incident.report", "REQUIRED", |i| i.report = None),
    ("incident.report.kind", "REQUIRED", |i| {
        i.report.as_mut().unwrap().kind = 0
    }),
    ("incident.report.number", "OUT_OF_RANGE", |i| {
        i.report.as_mut().unwrap().number = 3
    }),
    ("incident.report.correction_reason", "REQUIRED", |i| {
        i.report.as_mut().unwrap().kind = 4
    }),
    ("incident.event_class", "UNKNOWN_ENUM", |i| {
        i.event_class = 50
    }),
    ("incident.event_type", "REQUIRED", |i| i.event_type = None),
    ("incident.event_type.code", "BAD_FORMAT", |i| {
        i.event_type.as_mut().unwrap().code = "小火".into();
    }),
    ("incident.unit", "REQUIRED", |i| i.unit = None),
    ("incident.occurred_time", "IN_THE_FUTURE", |i| {
        i.occurred_time = future()
    }),
    ("incident.informed_time", "REQUIRED", |i| {
        i.informed_time = None
    }),
    ("incident.informed_time", "OUT_OF_ORDER", |i| {
        i.informed_time = Some(stamp(0))
    }),
    ("incident.forwarded_time", "OUT_OF_ORDER", |i| {
        i.forwarded_time = Some(stamp(0))
    }),
    ("incident.casualties.deaths", "OUT_OF_RANGE", |i| {
        i.casualties.as_mut().unwrap().deaths = Some(-1);
    }),
    ("incident.direct_loss_fen", "OUT_OF_RANGE", |i| {
        i.direct_loss_fen = Some(-1)
    }),
    ("incident.course", "PERSONAL_DATA", |i| {
        i.course = format!("伤者{}", identity_number())
    }),
];

const HAZARDS: &[Case<Hazard>] = &[
    ("hazard.title", "REQUIRED", |h| h.title.clear()),
    ("hazard.level", "REQUIRED", |h| h.level = 0),
    ("hazard.source", "UNKNOWN_ENUM", |h| h.source = 99),
    ("hazard.treatment", "REQUIRED", |h| h.treatment = 0),
    // A major hazard is not put right on the spot, and has all five elements and its criterion.
    ("hazard.treatment", "NOT_ALLOWED", |h| h.treatment = 1),
    ("hazard.criterion", "REQUIRED", |h| h.criterion.clear()),
    ("hazard.rectification", "REQUIRED", |h| {
        h.rectification = None
    }),
    ("hazard.rectification.responsibility", "REQUIRED", |h| {
        plan(h).responsibility.clear()
    }),
    ("hazard.rectification.measures", "REQUIRED", |h| {
        plan(h).measures.clear()
    }),
    ("hazard.rectification.funds_fen", "REQUIRED", |h| {
        plan(h).funds_fen = None
    }),
    ("hazard.rectification.funds_fen", "OUT_OF_RANGE", |h| {
        plan(h).funds_fen = Some(-1)
    }),
    ("hazard.rectification.deadline", "REQUIRED", |h| {
        plan(h).deadline = None
    }),
    ("hazard.rectification.contingency_plan", "REQUIRED", |h| {
        plan(h).contingency_plan.clear()
    }),
    ("hazard.place.division", "NOT_PERMITTED_DIVISION", |h| {
        h.place.as_mut().unwrap().division = "320623".into()
    }),
    ("hazard.description", "PERSONAL_DATA", |h| {
        h.description = format!("举报人{}", identity_number())
    }),
    ("hazard.unit", "REQUIRED", |h| h.unit = None),
    ("hazard.found_time", "REQUIRED", |h| h.found_time = None),
    ("hazard.found_time", "IN_THE_FUTURE", |h| {
        h.found_time = future()
    }),
    ("hazard.risk", "UNKNOWN_REFERENCE", |h| {
        h.risk = "agencies/rudong-emergency/risks/R-1".into()
    }),
    ("hazard.risk", "UNKNOWN_REFERENCE", |h| {
        h.risk = "agencies/qidong-emergency/measures/M-1".into()
    }),
    ("hazard.measure", "REQUIRED", |h| h.source = 9),
    ("hazard.measure", "NOT_ALLOWED", |h| {
        h.measure = "agencies/qidong-emergency/measures/M-1".into()
    }),
    ("hazard.duplicate_of", "NOT_ALLOWED", |h| {
        h.duplicate_of = h.name.clone()
    }),
    ("hazard.extensions", "NOT_ALLOWED", |h| {
        h.extensions.push(extension())
    }),
    ("hazard.extensions[0].document_number", "REQUIRED", |h| {
        h.state = 3;
        h.extensions.push(Extension::default());
    }),
    ("hazard.extensions[0].approved_by", "REQUIRED", |h| {
        h.state = 3;
        h.extensions.push(Extension::default());
    }),
    ("hazard.extensions[0].deadline", "OUT_OF_ORDER", |h| {
        h.state = 3;
        let deadline = plan(h).deadline;
        h.extensions.push(Extension {
            deadline,
            ..extension()
        });
    }),
    ("hazard.rectified_time", "REQUIRED", |h| h.state = 4),
    ("hazard.rectified_time", "OUT_OF_ORDER", |h| {
        h.rectified_time = Some(stamp(0))
    }),
    ("hazard.acceptance", "REQUIRED", |h| h.state = 5),
    ("hazard.acceptance.unit", "NOT_ALLOWED", |h| {
        h.acceptance = Some(Acceptance {
            unit: h.unit.as_ref().unwrap().name.clone(),
            ..Acceptance::default()
        });
    }),
    ("hazard.acceptance.passed", "NOT_ALLOWED", |h| {
        h.acceptance = Some(Acceptance::default());
    }),
    ("hazard.closing_document", "REQUIRED", |h| h.state = 6),
    ("hazard.state", "NOT_ALLOWED", |h| h.state = 7),
    ("hazard.note", "CONTROL_CHARACTER", |h| {
        h.note = "a\u{7}b".into()
    }),
];

const NIL_REPORTS: &[Case<NilReport>] = &[
    ("nilreport.register", "REQUIRED", |n| n.register.clear()),
    ("nilreport.register", "UNKNOWN_REFERENCE", |n| {
        n.register = "risks".into()
    }),
    ("nilreport.from_date", "REQUIRED", |n| n.from_date.clear()),
    ("nilreport.from_date", "BAD_FORMAT", |n| {
        n.from_date = "2024-02-30".into()
    }),
    ("nilreport.from_date", "BAD_FORMAT", |n| {
        n.from_date = "20240218".into()
    }),
    ("nilreport.to_date", "OUT_OF_ORDER", |n| {
        n.to_date = "2024-02-17".into()
    }),
    ("nilreport.to_date", "OUT_OF_RANGE", |n| {
        n.to_date = "2024-03-20".into()
    }),
    ("nilreport.to_date", "IN_THE_FUTURE", |n| {
        n.to_date = "2999-01-01".into()
    }),
    ("nilreport.statement", "REQUIRED", |n| n.statement.clear()),
    ("nilreport.post", "TOO_LONG", |n| n.post = "长".repeat(61)),
    ("nilreport.note", "PERSONAL_DATA", |n| {
        n.note = format!("证件{}", identity_number())
    }),
];

fn plan(hazard: &mut Hazard) -> &mut hefu::proto::hazard::v1::Rectification {
    hazard.rectification.as_mut().unwrap()
}

fn extension() -> Extension {
    Extension {
        document_number: "启应急延〔2024〕1号".into(),
        approved_by: "启东市应急管理局".into(),
        approved_time: support::stamp("2024-03-10T09:00:00+08:00"),
        deadline: support::stamp("2024-04-18T18:00:00+08:00"),
        reason: "备件到货延迟".into(),
    }
}

fn check(field: &str, reason: &str, error: &hefu::services::status::Decoded) {
    assert_eq!(
        error.code,
        Code::InvalidArgument,
        "{field} {reason}: {error:?}"
    );
    assert_eq!(error.reason, Some(ErrorReason::FieldInvalid), "{field}");
    let found = error
        .violations
        .iter()
        .find(|(path, why, ..)| path == field && why == reason);
    let (_, _, en, zh) = found.unwrap_or_else(|| panic!("{field} {reason}: {error:?}"));
    assert!(
        !en.is_empty() && zh.chars().any(|c| c > '\u{2e7f}'),
        "{field}: {en} {zh}"
    );
    let shown = format!("{error:?}");
    assert!(
        !shown.contains(&identity_number()),
        "personal data is not echoed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_names_its_field() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    for (field, reason, break_it) in RISKS {
        let mut bad = risk("R-1");
        break_it(&mut bad);
        check(field, reason, &agency.submit(bad).await.unwrap_err());
    }
    agency.submit(risk("R-1")).await.unwrap();
    for (field, reason, break_it) in MEASURES {
        let mut bad = measure("M-1", "R-1");
        break_it(&mut bad);
        let request = SubmitMeasureRequest {
            measure: Some(bad),
            ..Default::default()
        };
        let error = agency
            .measures
            .submit_measure(request)
            .await
            .map_err(decoded)
            .unwrap_err();
        check(field, reason, &error);
    }
    for (field, reason, break_it) in INCIDENTS {
        let mut bad = incident("I-1");
        break_it(&mut bad);
        let request = SubmitIncidentRequest {
            incident: Some(bad),
            ..Default::default()
        };
        let error = agency
            .incidents
            .submit_incident(request)
            .await
            .map_err(decoded)
            .unwrap_err();
        check(field, reason, &error);
    }
    for (field, reason, break_it) in HAZARDS {
        let mut bad = hazard("H-1");
        break_it(&mut bad);
        let request = SubmitHazardRequest {
            hazard: Some(bad),
            ..Default::default()
        };
        let error = agency
            .hazards
            .submit_hazard(request)
            .await
            .map_err(decoded)
            .unwrap_err();
        check(field, reason, &error);
    }
    for (field, reason, break_it) in NIL_REPORTS {
        let name = format!("agencies/{QIDONG}/nilreports/N-1");
        let mut bad = support::nil_report(&name, "incidents", "2024-02-18");
        break_it(&mut bad);
        let request = SubmitNilReportRequest {
            nilreport: Some(bad),
            ..Default::default()
        };
        let submitted = agency.nil_reports.submit_nil_report(request).await;
        check(field, reason, &submitted.map_err(decoded).unwrap_err());
    }
    // All violations at once, not the first.
    let mut bad = risk("R-1");
    (bad.level, bad.title, bad.place) = (0, String::new(), None);
    let error = agency.submit(bad).await.unwrap_err();
    assert_eq!(error.violations.len(), 3, "{error:?}");
    // A misissued code is taken with a reason, and the reason is recorded.
    let mut vouched = risk("R-2");
    unit(&mut vouched).uscc = "91350100M000100Y44".into();
    unit(&mut vouched).uscc_override_reason = "发证机关误发，已核实".into();
    agency.submit(vouched).await.unwrap();
    let bad = SubmitRiskRequest {
        risk: Some(risk("R-3")),
        request_id: "not-a-uuid".into(),
        ..Default::default()
    };
    let error = agency
        .risks
        .submit_risk(bad)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.violations[0].0, "request_id");
}

/// Sends raw bytes as the message of a method.
async fn raw(
    clients: &Clients,
    path: &'static str,
    message: Vec<u8>,
) -> hefu::services::status::Decoded {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Bytes {
        #[prost(bytes, tag = "1")]
        record: Vec<u8>,
    }
    let mut grpc = tonic::client::Grpc::new(clients.channel.clone())
        .max_encoding_message_size(64 * 1024 * 1024);
    grpc.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<Bytes, Bytes> = tonic_prost::ProstCodec::default();
    let request = tonic::Request::new(Bytes { record: message });
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(request, path, codec)
        .await
        .map(|_| ())
        .map_err(decoded)
        .unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_large_and_unknown_calls_get_clear_errors() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let agency = domain.agency(QIDONG, &county).await;
    let submit = "/hefu.risk.v1.RiskService/SubmitRisk";
    let mut bytes = risk("R-1").encode_to_vec();
    let at = bytes.windows(3).position(|w| w == "储".as_bytes()).unwrap();
    bytes[at] = 0xff;
    let error = raw(&agency, submit, bytes).await;
    assert_eq!(
        (error.code, error.reason),
        (Code::InvalidArgument, Some(ErrorReason::RequestMalformed))
    );
    let error = raw(&agency, submit, vec![0; 5 * 1024 * 1024]).await;
    assert_eq!(
        (error.code, error.reason),
        (Code::ResourceExhausted, Some(ErrorReason::MessageTooLarge))
    );
    for path in ["/hefu.risk.v1.RiskService/Drop", "/hefu.x.v1.X/Y"] {
        let error = raw(&agency, path, vec![]).await;
        assert_eq!(
            (error.code, error.reason),
            (Code::Unimplemented, Some(ErrorReason::MethodUnknown))
        );
    }
    let replicate = "/hefu.replication.v1.ReplicationService/Replicate";
    let error = raw(&agency, replicate, vec![]).await;
    assert_eq!(error.reason, Some(ErrorReason::MethodNotAllowed));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_name_nobody_here_do_not_get_in() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    // Another authority.
    let stranger = foreign(&format!("agency/{QIDONG}"), &domain.folder);
    let mixed = hefu::gateway::pki::Issued {
        root: domain.issue("agency/qidong-housing").root,
        ..stranger
    };
    assert!(reaches(&mixed, &county).await.is_err());
    // Another trust domain, from the right authority.
    let authority = hefu::gateway::pki::Authority::open(&domain.folder.path().join("pki")).unwrap();
    let elsewhere = "spiffe://example.org/agency/qidong-emergency"
        .parse()
        .unwrap();
    let elsewhere = authority.issue(&elsewhere, &[], 1).unwrap();
    assert!(reaches(&elsewhere, &county).await.is_err());
    // One that has ended.
    let ended = format!("spiffe://{}/agency/{QIDONG}", support::DOMAIN)
        .parse()
        .unwrap();
    let ended = authority.issue(&ended, &[], 0).unwrap();
    assert!(reaches(&ended, &county).await.is_err());
    // A good one, to see that the others failed for the right reason.
    reaches(&domain.issue(&format!("agency/{QIDONG}")), &county)
        .await
        .unwrap();
    // A server that is not the node that was meant.
    let issued = domain.issue("node/rudong");
    let files = hefu::gateway::client::ClientFiles {
        certificate: issued.certificate,
        key: issued.key,
        roots: vec![issued.root],
    };
    let expected = (support::DOMAIN.parse().unwrap(), "nantong".parse().unwrap());
    let server = format!("https://{}", county.address);
    let refused = Dialer::from_files(&files)
        .unwrap()
        .connect(&server, Some(expected))
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("the server is node/qidong, not node/nantong")
    );
}

/// Whether a call gets through: TLS 1.3 tells a client of a refused certificate with its first read.
async fn reaches(
    issued: &hefu::gateway::pki::Issued,
    node: &support::Running,
) -> Result<(), String> {
    let channel = dial(issued, node.address)
        .await
        .map_err(|e| e.to_string())?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest::default();
    health
        .check(request)
        .await
        .map(|_| ())
        .map_err(|e| e.to_string())
}

#[test]
fn keys_that_others_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let domain = Domain::new();
    let issued = domain.issue("node/qidong");
    std::fs::set_permissions(&issued.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let roots = [issued.root];
    let loaded = hefu::gateway::tls::Credentials::load(&issued.certificate, &issued.key, &roots);
    assert!(loaded.unwrap_err().to_string().contains("chmod 600"));
}
