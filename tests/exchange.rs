//! The exchange, end to end: three tiers, real TLS, real disks.

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

use futures::StreamExt as _;
use hefu::{
    cli::verify,
    ledger::{
        Intake,
        merkle::{verify_consistency, verify_inclusion},
        note::Note,
    },
    proto::{
        error::v1::ErrorReason,
        incident::v1::{
            AccidentGrade, GetIncidentRequest, HopState, ReportKind, SubmitIncidentRequest,
        },
        ledger::v1::{
            GetCheckpointRequest, GetConsistencyProofRequest, GetCustodyRequest,
            GetInclusionProofRequest,
        },
        measure::v1::{MeasureState, SubmitMeasureRequest, WithdrawMeasureRequest},
        node::v1::{GetStatusRequest, Health, LinkState},
        risk::v1::{
            GetRiskRequest, ListRiskRevisionsRequest, ListRisksRequest, RiskLevel, RiskState,
            SubmitRiskRequest, SubmitRisksRequest, SubmitRisksResponse, WatchRisksRequest,
            WithdrawRiskRequest,
        },
        r#type::v1::{CompleteList, Outcome},
    },
};
use support::{Clients, Domain, QIDONG, RUDONG, decoded, incident, measure, risk};
use tonic::Code;

/// Submits a list and collects every answer.
async fn submit_list(
    clients: &mut Clients,
    messages: Vec<SubmitRisksRequest>,
) -> Result<Vec<SubmitRisksResponse>, tonic::Status> {
    let stream = futures::stream::iter(messages);
    let mut answers = clients.risks.submit_risks(stream).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer);
    }
    Ok(all)
}

fn parent() -> String {
    format!("agencies/{QIDONG}/risks")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_travel_up_three_tiers_and_both_sides_can_prove_it() {
    let domain = Domain::new();
    domain.grant("[[grant]]\nwho = [\"node/nantong\"]\nmay = [\"replicate\"]\nbrings = [\"*\"]\n");
    let province = domain.start("jiangsu", None).await;
    let city = domain.start("nantong", Some(("jiangsu", &province))).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let receipt = agency.submit(risk("R-1")).await.unwrap().receipt.unwrap();
    agency
        .measures
        .submit_measure(SubmitMeasureRequest {
            measure: Some(measure("M-1", "R-1")),
            ..Default::default()
        })
        .await
        .unwrap();
    let report = SubmitIncidentRequest {
        incident: Some(incident("I-1")),
        ..Default::default()
    };
    agency.incidents.submit_incident(report).await.unwrap();

    let mut operator = domain.admin(&county).await;
    let synced = operator.sync().await;
    assert!(synced.complete, "{synced:?}");
    assert_eq!(synced.logs[0].cosigned_after, 3);
    let synced = domain.admin(&city).await.sync().await;
    assert!(synced.complete, "{synced:?}");
    assert_eq!(
        synced.logs.len(),
        2,
        "the city carries its own log and the county's"
    );

    let mut above = domain.admin(&province).await;
    let name = risk("R-1").name;
    let request = GetRiskRequest { name: name.clone() };
    let held = above
        .risks
        .get_risk(request)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    assert_eq!(held.risk.unwrap(), risk("R-1"));
    assert_eq!(held.info.unwrap().log, receipt.log);
    let get = GetIncidentRequest {
        name: incident("I-1").name,
    };
    let revision = above
        .incidents
        .get_incident(get)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    let assessment = revision.assessment.unwrap();
    assert_eq!(assessment.grade(), AccidentGrade::Ordinary);
    assert!(
        assessment.late,
        "85 minutes from being told to the authority"
    );
    let states: Vec<_> = assessment.hops.iter().map(|hop| hop.state()).collect();
    assert_eq!(
        states,
        [HopState::Late, HopState::OnTime],
        "each hop is judged by itself"
    );

    // The county learns of both tiers above it; wait for the province's cosignature to come down.
    let mut follow = county.ledger.follow();
    let custody = loop {
        let request = GetCustodyRequest {
            name: name.clone(),
            revision: 0,
        };
        let custody = agency
            .ledger
            .get_custody(request)
            .await
            .unwrap()
            .into_inner();
        if custody.cosignatures.len() == 2 {
            break custody;
        }
        follow.changed().await.unwrap();
    };
    let (_, ladder) = verify::custody(&custody).unwrap();
    let nodes: Vec<_> = ladder.rungs.iter().map(|rung| rung.node.as_str()).collect();
    assert_eq!(nodes[0], "qidong");
    assert!(
        nodes.contains(&"nantong") && nodes.contains(&"jiangsu"),
        "{nodes:?}"
    );

    let status = above
        .node
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.health(), Health::Serving);
    let child = status
        .children
        .iter()
        .find(|child| child.node == "qidong")
        .unwrap();
    assert_eq!((child.size, child.lag), (3, 0));
    assert_eq!(child.state(), LinkState::Current);
    for node in [county, city, province] {
        let folder = node.stop().await.node.data;
        let verified = verify::folder(&folder).unwrap();
        assert_eq!(
            verified.defects,
            Vec::<String>::new(),
            "{}",
            folder.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_row_among_ten_thousand_is_refused_alone() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut rows: Vec<_> = (0..10_000).map(|n| risk(&format!("R-{n}"))).collect();
    rows[6_789].level = 0;
    rows[6_789].place.as_mut().unwrap().division = "999999".into();
    let messages = |rows: &[hefu::proto::risk::v1::Risk]| {
        let mut messages: Vec<_> = rows
            .chunks(500)
            .map(|rows| SubmitRisksRequest {
                risks: rows.to_vec(),
                ..Default::default()
            })
            .collect();
        messages[0].parent = parent();
        messages
    };
    let answers = submit_list(&mut agency, messages(&rows)).await.unwrap();
    let summary = answers.last().unwrap().summary.unwrap();
    assert_eq!(
        (summary.rows, summary.created, summary.refused),
        (10_000, 9_999, 1)
    );
    let results: Vec<_> = answers.iter().flat_map(|answer| &answer.rows).collect();
    assert_eq!(results.len(), 10_000);
    let refused = results[6_789];
    assert_eq!((refused.row, refused.outcome()), (6_790, Outcome::Refused));
    assert_eq!(refused.reason(), ErrorReason::FieldInvalid);
    let fields: Vec<_> = refused
        .violations
        .iter()
        .map(|v| (v.field.as_str(), v.reason.as_str()))
        .collect();
    assert_eq!(
        fields,
        [
            ("risk.place.division", "UNKNOWN_DIVISION"),
            ("risk.level", "REQUIRED"),
        ]
    );
    assert!(
        refused
            .violations
            .iter()
            .all(|v| !v.description_zh.is_empty())
    );
    let taken = results[0].receipt.as_ref().unwrap();
    assert_eq!(
        (taken.index, results[9_999].outcome()),
        (0, Outcome::Created)
    );

    // The same list again changes nothing; with one row mended and one gone, only those move.
    rows[6_789] = risk("R-6789");
    rows.pop();
    let mut again = messages(&rows);
    again.last_mut().unwrap().complete = Some(CompleteList {
        row_count: 9_999,
        ..Default::default()
    });
    let answers = submit_list(&mut agency, again).await.unwrap();
    let summary = answers.last().unwrap().summary.unwrap();
    assert_eq!(
        (summary.created, summary.unchanged, summary.withdrawn),
        (1, 9_998, 1)
    );
    let gone = GetRiskRequest {
        name: risk("R-9999").name,
    };
    let gone = agency
        .risks
        .get_risk(gone)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    assert!(gone.info.unwrap().withdrawn);
    assert_eq!(gone.risk.unwrap().state(), RiskState::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_what_it_says_withdraws_nothing() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("KEPT")).await.unwrap();
    let message = |complete| SubmitRisksRequest {
        risks: vec![risk("R-1")],
        parent: parent(),
        complete,
        ..Default::default()
    };
    let wrong = Some(CompleteList {
        row_count: 2,
        ..Default::default()
    });
    let error = submit_list(&mut agency, vec![message(wrong)])
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.reason, Some(ErrorReason::ListIncomplete));
    // A stream that is cut in the middle: what was answered stays, nothing is withdrawn.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(message(None)).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = agency
        .risks
        .submit_risks(stream)
        .await
        .unwrap()
        .into_inner();
    let first = answers.message().await.unwrap().unwrap();
    assert_eq!(first.rows[0].outcome(), Outcome::Unchanged);
    drop((answers, sender));
    let kept = GetRiskRequest {
        name: risk("KEPT").name,
    };
    let kept = agency
        .risks
        .get_risk(kept)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    assert!(!kept.info.unwrap().withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_dry_runs_and_preconditions_are_safe() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let id = uuid::Uuid::new_v4().to_string();
    let request = SubmitRiskRequest {
        risk: Some(risk("R-1")),
        request_id: id.clone(),
        ..Default::default()
    };
    let dry = SubmitRiskRequest {
        validate_only: true,
        ..request.clone()
    };
    let dry = agency.risks.submit_risk(dry).await.unwrap().into_inner();
    assert_eq!((dry.outcome(), dry.receipt), (Outcome::Created, None));
    let first = agency
        .risks
        .submit_risk(request.clone())
        .await
        .unwrap()
        .into_inner();
    let mut changed = risk("R-1");
    changed.title = "改名".into();
    agency.submit(changed.clone()).await.unwrap();
    let config = county.stop().await;
    let county = support::Running::start(config).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let again = agency
        .risks
        .submit_risk(request.clone())
        .await
        .unwrap()
        .into_inner();
    let (a, b) = (first.receipt.unwrap(), again.receipt.unwrap());
    assert_eq!(
        (a.index, a.leaf_hash),
        (b.index, b.leaf_hash),
        "the first receipt, for ever"
    );
    let reused = SubmitRiskRequest {
        risk: Some(risk("R-2")),
        ..request
    };
    let error = agency
        .risks
        .submit_risk(reused)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::AlreadyExists, Some(ErrorReason::RequestIdReused))
    );
    let stale = SubmitRiskRequest {
        risk: Some(risk("R-1")),
        etag: first.info.unwrap().etag,
        ..Default::default()
    };
    let error = agency
        .risks
        .submit_risk(stale)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::Aborted, Some(ErrorReason::EtagStale))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_filter_and_order() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    for n in 0..60 {
        let mut row = risk(&format!("R-{n:02}"));
        row.level = 1 + n % 4;
        row.place.as_mut().unwrap().division =
            if n % 2 == 0 { "320681110" } else { "320681" }.into();
        agency.submit(row).await.unwrap();
    }
    let list = |filter: &str, order_by: &str, page_token: &str| ListRisksRequest {
        parent: "agencies/-/risks".into(),
        page_size: 7,
        filter: filter.into(),
        order_by: order_by.into(),
        page_token: page_token.into(),
        ..Default::default()
    };
    for (filter, order_by, due) in [
        ("", "name", 60),
        ("level = MAJOR", "", 15),
        ("level >= LARGER AND division = \"320681110\"", "", 15),
        ("division = \"320681110\"", "level desc", 30),
        ("title:\"泄漏\" AND NOT level = LOW", "name desc", 45),
        ("division = \"320623\"", "", 0),
    ] {
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let page = agency
                .risks
                .list_risks(list(filter, order_by, &token))
                .await
                .unwrap();
            let page = page.into_inner();
            assert!(page.revisions.len() <= 7);
            names.extend(page.revisions.into_iter().map(|r| r.risk.unwrap().name));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(names.len(), due, "{filter}");
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), due, "no gap, no duplicate: {filter}");
        if order_by == "name desc" {
            unique.reverse();
            assert_eq!(names, unique);
        }
    }
    let page = agency
        .risks
        .list_risks(list("", "", ""))
        .await
        .unwrap()
        .into_inner();
    let token = page.next_page_token;
    let long = (0..10_000)
        .map(|n| format!("level = {n}"))
        .collect::<Vec<_>>()
        .join(" OR ");
    let many = vec!["late = x"; 65]
        .join(" OR ")
        .replace("late = x", "level = LOW");
    for (request, reason) in [
        (
            list("level = LOW", "", &token),
            ErrorReason::PageTokenInvalid,
        ),
        (list("", "", "AAAA"), ErrorReason::PageTokenInvalid),
        (list("colour = RED", "", ""), ErrorReason::FilterInvalid),
        (list("level = PURPLE", "", ""), ErrorReason::FilterInvalid),
        (list("level = ", "", ""), ErrorReason::FilterInvalid),
        (list("storage tank", "", ""), ErrorReason::FilterInvalid),
        (list(&long, "", ""), ErrorReason::FilterTooComplex),
        (list(&many, "", ""), ErrorReason::FilterTooComplex),
        (list("", "factor", ""), ErrorReason::OrderInvalid),
        (list("", "name sideways", ""), ErrorReason::OrderInvalid),
        (
            ListRisksRequest {
                page_size: -1,
                ..list("", "", "")
            },
            ErrorReason::FieldInvalid,
        ),
    ] {
        let error = agency
            .risks
            .list_risks(request)
            .await
            .map_err(decoded)
            .unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::InvalidArgument, Some(reason))
        );
    }
    // Another caller's token, and another node's.
    let mut operator = domain.admin(&county).await;
    let error = operator
        .risks
        .list_risks(list("", "", &token))
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::PageTokenInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_watch_tell_every_revision_once() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut changing = risk("R-1");
    for n in 0..10 {
        changing.note = format!("第{n}版");
        agency.submit(changing.clone()).await.unwrap();
    }
    let mut notes = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListRiskRevisionsRequest {
            name: changing.name.clone(),
            page_size: 3,
            page_token: token,
        };
        let page = agency
            .risks
            .list_risk_revisions(request)
            .await
            .unwrap()
            .into_inner();
        notes.extend(page.revisions.into_iter().map(|r| r.risk.unwrap().note));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let due: Vec<_> = (0..10).rev().map(|n| format!("第{n}版")).collect();
    assert_eq!(notes, due, "newest first");

    let watch = |position: &str| WatchRisksRequest {
        parent: parent(),
        position: position.into(),
        from_start: position.is_empty(),
        ..Default::default()
    };
    let mut changes = agency
        .risks
        .watch_risks(watch(""))
        .await
        .unwrap()
        .into_inner();
    let mut position = String::new();
    for n in 0..4 {
        let change = changes.message().await.unwrap().unwrap();
        assert_eq!(
            change.revision.unwrap().risk.unwrap().note,
            format!("第{n}版")
        );
        position = change.position;
    }
    drop(changes);
    // The cut: a restart, and a change meanwhile.
    let county = support::Running::start(county.stop().await).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    changing.note = "第10版".into();
    agency.submit(changing.clone()).await.unwrap();
    let changes = agency
        .risks
        .watch_risks(watch(&position))
        .await
        .unwrap()
        .into_inner();
    let rest: Vec<_> = changes
        .take(7)
        .map(|c| c.unwrap().revision.unwrap().risk.unwrap().note)
        .collect()
        .await;
    let due: Vec<_> = (4..11).map(|n| format!("第{n}版")).collect();
    assert_eq!(rest, due, "no gap, no duplicate");
    let foreign = WatchRisksRequest {
        position: "AAAA".into(),
        ..watch("x")
    };
    let error = agency
        .risks
        .watch_risks(foreign)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::PositionInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_do_is_refused_and_what_one_may_not_see_is_absent() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut housing = domain.agency("qidong-housing", &county).await;
    let mut rudong = domain.agency(RUDONG, &county).await;
    let mut operator = domain.admin(&county).await;
    qidong.submit(risk("R-1")).await.unwrap();

    let error = housing.submit(risk("R-2")).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::PermissionDenied, Some(ErrorReason::AgencyMismatch))
    );
    let mut own = risk("R-2");
    own.name = format!("agencies/{RUDONG}/risks/R-2");
    let error = rudong.submit(own).await.unwrap_err();
    assert_eq!(
        error.reason,
        Some(ErrorReason::AgencyUnknown),
        "not at this node"
    );
    let mut elsewhere = risk("R-2");
    elsewhere.place.as_mut().unwrap().division = "320623".into();
    let error = qidong.submit(elsewhere).await.unwrap_err();
    assert_eq!(error.violations[0].1, "NOT_PERMITTED_DIVISION");
    let error = operator.submit(risk("R-2")).await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::MethodNotAllowed));
    let error = qidong
        .node
        .get_status(GetStatusRequest {})
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::MethodNotAllowed));

    // A bureau of the same county sees it; one of another county cannot tell it from nothing.
    let get = |item: &str| GetRiskRequest {
        name: risk(item).name,
    };
    housing.risks.get_risk(get("R-1")).await.unwrap();
    let there = rudong
        .risks
        .get_risk(get("R-1"))
        .await
        .map_err(decoded)
        .unwrap_err();
    let absent = rudong
        .risks
        .get_risk(get("R-9"))
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(there, absent);
    assert_eq!(there.code, Code::NotFound);
    let request = ListRisksRequest {
        parent: "agencies/-/risks".into(),
        ..Default::default()
    };
    let page = rudong.risks.list_risks(request).await.unwrap().into_inner();
    assert_eq!(
        (page.revisions.len(), page.next_page_token.as_str()),
        (0, "")
    );
    let custody = GetCustodyRequest {
        name: risk("R-1").name,
        revision: 0,
    };
    let error = rudong
        .ledger
        .get_custody(custody)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    let entries = hefu::proto::ledger::v1::ListEntriesRequest::default();
    let page = rudong.ledger.list_entries(entries.clone()).await.unwrap();
    let page = page.into_inner();
    assert!(page.entries.is_empty(), "{page:?}");
    assert_eq!((page.size, page.next_start), (1, 1));
    let auditor = domain.channel("auditor/one", &county).await;
    let mut auditor = Clients::new(auditor);
    let page = auditor.ledger.list_entries(entries).await.unwrap();
    let entries = page.into_inner().entries;
    assert!(entries[0].entry_bytes.is_empty() && entries[0].entry.is_none());
    assert!(entries[0].leaf_hash.is_some(), "hashes are for auditors");
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycles_and_links_hold() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    let mut down = risk("R-1");
    down.state = RiskState::Downgraded.into();
    let error = agency.submit(down.clone()).await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::TransitionNotAllowed));
    assert!(
        error.en.contains("RISK_STATE_REVIEWED"),
        "the allowed ones are named: {}",
        error.en
    );
    let mut controlled = risk("R-1");
    controlled.state = RiskState::Controlled.into();
    agency.submit(controlled).await.unwrap();
    let error = agency.submit(down.clone()).await.unwrap_err();
    assert_eq!(
        error.reason,
        Some(ErrorReason::TransitionNotAllowed),
        "the level did not fall"
    );
    down.level = RiskLevel::General.into();
    agency.submit(down).await.unwrap();

    let mut submit = async |item: &str, risk: &str| {
        let request = SubmitMeasureRequest {
            measure: Some(measure(item, risk)),
            ..Default::default()
        };
        agency
            .measures
            .submit_measure(request)
            .await
            .map_err(decoded)
    };
    let error = submit("M-0", "NO-SUCH").await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::ReferenceMissing));
    submit("M-1", "R-1").await.unwrap();
    submit("M-2", "R-1").await.unwrap();
    let withdraw = |cascade| WithdrawRiskRequest {
        name: risk("R-1").name,
        reason: "装置拆除".into(),
        cascade,
        ..Default::default()
    };
    let error = agency
        .risks
        .withdraw_risk(withdraw(false))
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::LiveDependents));
    assert!(error.en.contains("measures/M-1"), "{}", error.en);
    let done = agency
        .risks
        .withdraw_risk(withdraw(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (done.outcome(), done.cascaded.len()),
        (Outcome::Withdrawn, 2)
    );
    let get = hefu::proto::measure::v1::GetMeasureRequest {
        name: measure("M-1", "R-1").name,
    };
    let gone = agency
        .measures
        .get_measure(get)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    assert!(gone.info.unwrap().withdrawn);
    assert_eq!(gone.measure.unwrap().state(), MeasureState::Retired);
    let again = WithdrawMeasureRequest {
        name: measure("M-1", "R-1").name,
        reason: "重复".into(),
        ..Default::default()
    };
    let again = agency
        .measures
        .withdraw_measure(again)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.outcome(), Outcome::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_follow_one_another() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut report = async |kind: ReportKind, number, after_final, deaths| {
        let mut next = incident("I-1");
        let heading = next.report.as_mut().unwrap();
        heading.kind = kind.into();
        heading.number = number;
        heading.after_final = after_final;
        if kind == ReportKind::Correction {
            heading.correction_reason = "核实".into();
        }
        next.casualties.as_mut().unwrap().deaths = Some(deaths);
        let request = SubmitIncidentRequest {
            incident: Some(next),
            ..Default::default()
        };
        agency
            .incidents
            .submit_incident(request)
            .await
            .map_err(decoded)
            .map_err(|e| e.reason)
    };
    let refused = Some(ErrorReason::TransitionNotAllowed);
    assert_eq!(
        report(ReportKind::FollowUp, 1, false, 1).await.unwrap_err(),
        refused
    );
    report(ReportKind::First, 0, false, 1).await.unwrap();
    assert_eq!(
        report(ReportKind::FollowUp, 2, false, 1).await.unwrap_err(),
        refused,
        "a gap"
    );
    report(ReportKind::FollowUp, 1, false, 3).await.unwrap();
    report(ReportKind::Correction, 1, false, 2).await.unwrap();
    report(ReportKind::FollowUp, 2, false, 3).await.unwrap();
    report(ReportKind::Final, 2, false, 3).await.unwrap();
    assert_eq!(
        report(ReportKind::FollowUp, 3, false, 3).await.unwrap_err(),
        refused
    );
    assert_eq!(
        report(ReportKind::Correction, 2, false, 3)
            .await
            .unwrap_err(),
        refused
    );
    report(ReportKind::Correction, 2, true, 10).await.unwrap();
    let get = GetIncidentRequest {
        name: incident("I-1").name,
    };
    let held = agency
        .incidents
        .get_incident(get)
        .await
        .unwrap()
        .into_inner()
        .revision
        .unwrap();
    let assessment = held.assessment.unwrap();
    assert_eq!(
        assessment.grade(),
        AccidentGrade::Major,
        "derived anew on every revision"
    );
    assert!(assessment.after_correction_window, "flagged, not refused");
    assert_eq!(held.info.unwrap().revision, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_are_served_and_hold() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let mut old = None;
    for n in 0..150 {
        let receipt = agency
            .submit(risk(&format!("R-{n}")))
            .await
            .unwrap()
            .receipt
            .unwrap();
        let note: Note = receipt.checkpoint.parse().unwrap();
        let checkpoint = note.checkpoint().clone();
        assert_eq!(checkpoint.size, receipt.index as u64 + 1);
        if n == 70 {
            old = Some(checkpoint);
        }
    }
    let old = old.unwrap();
    let answer = agency
        .ledger
        .get_checkpoint(GetCheckpointRequest::default())
        .await
        .unwrap();
    let answer = answer.into_inner();
    let note: Note = answer.checkpoint.parse().unwrap();
    let newest = note
        .verify_log(&answer.log.unwrap().verifier_key.parse().unwrap())
        .unwrap();
    let hash = |d: &hefu::proto::r#type::v1::Digest| <[u8; 32]>::try_from(d.value.clone()).unwrap();
    for index in [0, 63, 64, 70, 149] {
        let request = GetInclusionProofRequest {
            index,
            ..Default::default()
        };
        let proof = agency
            .ledger
            .get_inclusion_proof(request)
            .await
            .unwrap()
            .into_inner();
        let path: Vec<_> = proof.hashes.iter().map(hash).collect();
        let leaf = hash(&proof.leaf_hash.unwrap());
        assert!(verify_inclusion(
            &leaf,
            index as u64,
            newest.size,
            &path,
            &newest.root
        ));
    }
    let request = GetConsistencyProofRequest {
        old_size: old.size as i64,
        ..Default::default()
    };
    let proof = agency
        .ledger
        .get_consistency_proof(request)
        .await
        .unwrap()
        .into_inner();
    let path: Vec<_> = proof.hashes.iter().map(hash).collect();
    assert!(verify_consistency(
        old.size,
        &old.root,
        newest.size,
        &newest.root,
        &path
    ));
    for (index, size) in [(150, 0), (10, 10), (0, 151)] {
        let request = GetInclusionProofRequest {
            index,
            size,
            ..Default::default()
        };
        let error = agency
            .ledger
            .get_inclusion_proof(request)
            .await
            .map_err(decoded)
            .unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::OutOfRange, Some(ErrorReason::IndexOutOfRange))
        );
    }
    let unknown = GetCheckpointRequest {
        origin: "nantong.gov.cn/nobody/00000000".into(),
    };
    let error = agency
        .ledger
        .get_checkpoint(unknown)
        .await
        .map_err(decoded)
        .unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::LogNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_intake_and_goes_on_reading() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    county.ledger.set_intake(Intake::Full);
    let error = agency.submit(risk("R-2")).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::ResourceExhausted, Some(ErrorReason::StorageFull))
    );
    assert!(error.retry_after.is_some());
    let get = GetRiskRequest {
        name: risk("R-1").name,
    };
    agency.risks.get_risk(get).await.unwrap();
    let status = domain
        .admin(&county)
        .await
        .node
        .get_status(GetStatusRequest {})
        .await
        .unwrap();
    assert_eq!(status.into_inner().health(), Health::ReadOnly);
}
