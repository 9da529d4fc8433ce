//! Access over real nodes: what a policy grants, what its change takes away, and what cannot be told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::time::Duration;

use futures::StreamExt as _;
use hefu::{
    node::RULES_CHECK,
    proto::{
        error::v1::ErrorReason,
        ledger::v1::{GetCheckpointRequest, GetCustodyRequest, ListLogsRequest},
        node::v1::{GetStatusRequest, LinkState},
        risk::v1::{GetRiskRequest, ListRiskRevisionsRequest, ListRisksRequest, WatchRisksRequest},
    },
};
use support::{Clients, Domain, QIDONG, RUDONG, decoded, risk};
use tonic::Code;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// A change of the policy is in force within this time; the rest is for a machine that is busy.
const IN_FORCE: Duration = Duration::from_secs(20);

const DUTY_ROOM: &str = "[[grant]]\nwho = [\"agency/duty-room\"]\nmay = [\"read\"]\n\
    registers = [\"risks\"]\ndivisions = [\"320681\"]\n";

/// Waits until the node's policy is another one than `before`.
async fn changed(operator: &mut Clients, before: &str) -> String {
    let waiting = async {
        loop {
            let status = operator.node.get_status(GetStatusRequest {}).await.unwrap();
            let now = status.into_inner().policy_digest;
            if now != before {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(IN_FORCE, waiting).await.unwrap()
}

async fn digest(operator: &mut Clients) -> String {
    let status = operator.node.get_status(GetStatusRequest {}).await.unwrap();
    status.into_inner().policy_digest
}

fn get(item: &str) -> GetRiskRequest {
    GetRiskRequest {
        name: risk(item).name,
    }
}

fn everything() -> WatchRisksRequest {
    WatchRisksRequest {
        parent: "agencies/-/risks".into(),
        from_start: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_added_or_taken_is_in_force_without_a_restart() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut operator = domain.admin(&county).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    let mut duty = domain.agency("duty-room", &county).await;
    let error = duty.risks.get_risk(get("R-1")).await.map_err(decoded);
    assert_eq!(error.unwrap_err().code, Code::NotFound);

    let first = digest(&mut operator).await;
    domain.grant(DUTY_ROOM);
    let second = changed(&mut operator, &first).await;
    duty.risks.get_risk(get("R-1")).await.unwrap();
    let mut watch = duty
        .risks
        .watch_risks(everything())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.next().await.unwrap().unwrap().revision.is_some());
    // The agency's own watch must live on through all of this.
    let mut own = agency
        .risks
        .watch_risks(everything())
        .await
        .unwrap()
        .into_inner();
    assert!(own.next().await.unwrap().unwrap().revision.is_some());

    // Without any grant that lets it read, the duty room's watch ends; nobody else's does.
    let agencies = "who = [\"agency/qidong-emergency\"]";
    domain.replace(
        "policy.toml",
        &support::POLICY.replace("who = [\"agency/*\"]", agencies),
    );
    changed(&mut operator, &second).await;
    let ended = tokio::time::timeout(IN_FORCE, watch.next()).await.unwrap();
    let error = decoded(ended.unwrap().unwrap_err());
    assert_eq!(error.reason, Some(ErrorReason::MethodNotAllowed));
    let error = duty.risks.get_risk(get("R-1")).await.map_err(decoded);
    assert_eq!(
        error.unwrap_err().reason,
        Some(ErrorReason::MethodNotAllowed)
    );
    agency.submit(risk("R-2")).await.unwrap();
    let next = own.next().await.unwrap().unwrap();
    assert_eq!(next.revision.unwrap().risk.unwrap().name, risk("R-2").name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_wrong_changes_nothing_and_the_status_says_so() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut operator = domain.admin(&county).await;
    let before = digest(&mut operator).await;
    domain.replace(
        "policy.toml",
        "[[grant]]\nwho = [\"everyone\"]\nmay = [\"read\"]\n",
    );
    let waiting = async {
        loop {
            let status = operator
                .node
                .get_status(GetStatusRequest {})
                .await
                .unwrap()
                .into_inner();
            if let Some(warning) = status.warnings.first() {
                return (status.policy_digest, warning.clone());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (digest, warning) = tokio::time::timeout(IN_FORCE, waiting).await.unwrap();
    assert_eq!(digest, before);
    assert!(warning.contains("grant 1: "), "{warning}");
    domain
        .agency(QIDONG, &county)
        .await
        .submit(risk("R-1"))
        .await
        .unwrap();
    assert!(RULES_CHECK < IN_FORCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agency_that_is_registered_later_needs_no_restart() {
    let domain = Domain::new();
    let agencies = domain.folder.path().join("agencies.csv");
    let all = std::fs::read_to_string(agencies).unwrap();
    let without: Vec<_> = all
        .lines()
        .filter(|line| !line.starts_with(QIDONG))
        .collect();
    domain.replace("agencies.csv", &(without.join("\n") + "\n"));
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    let error = agency.submit(risk("R-1")).await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::AgencyUnknown));
    domain.replace("agencies.csv", &all);
    let waiting = async {
        while agency.submit(risk("R-1")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(IN_FORCE, waiting).await.unwrap();
}

/// The services that reflection lists, or why it does not.
async fn reflected(clients: &Clients) -> Result<Vec<String>, ErrorReason> {
    let mut client = ServerReflectionClient::new(clients.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    let mut answers = answers
        .map_err(|e| decoded(e).reason.unwrap())?
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}")
    };
    Ok(list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect())
}

async fn described(clients: &Clients, symbol: &str) -> bool {
    let mut client = ServerReflectionClient::new(clients.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
    };
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    match answers.unwrap().into_inner().message().await {
        Ok(Some(answer)) => matches!(
            answer.message_response,
            Some(MessageResponse::FileDescriptorResponse(_))
        ),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_shows_what_one_may_call() {
    let domain = Domain::new();
    domain.replace(
        "policy.toml",
        &support::POLICY.replace("admin/*", "admin/operator"),
    );
    let county = domain.start("qidong", None).await;
    let agency = domain.agency(QIDONG, &county).await;
    let operator = domain.admin(&county).await;
    let auditor = Clients::new(domain.channel("auditor/one", &county).await);
    let stranger = Clients::new(domain.channel("admin/stranger", &county).await);
    let has = |services: &[String], name: &str| services.iter().any(|s| s == name);
    let (risks, node) = ("hefu.risk.v1.RiskService", "hefu.node.v1.NodeService");
    let shown = reflected(&agency).await.unwrap();
    assert!(has(&shown, risks) && !has(&shown, node), "{shown:?}");
    let shown = reflected(&operator).await.unwrap();
    assert!(has(&shown, risks) && has(&shown, node), "{shown:?}");
    let shown = reflected(&auditor).await.unwrap();
    assert!(!has(&shown, risks) && !has(&shown, node), "{shown:?}");
    assert_eq!(
        reflected(&stranger).await,
        Err(ErrorReason::MethodNotAllowed)
    );
    assert!(described(&operator, "hefu.node.v1.NodeService.GetStatus").await);
    assert!(!described(&agency, "hefu.node.v1.NodeService.GetStatus").await);
    assert!(described(&agency, "hefu.risk.v1.RiskService.SubmitRisk").await);
    assert!(!described(&operator, "hefu.risk.v1.RiskService.SubmitRisk").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_be_bent() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut rudong = domain.agency(RUDONG, &county).await;
    qidong.submit(risk("R-1")).await.unwrap();
    for name in [
        "agencies/-/risks/R-1",
        "agencies/*/risks/R-1",
        "agencies/rudong-emergency/../qidong-emergency/risks/R-1",
        "agencies/qidong-emergency/risks/R-1/",
        "/agencies/qidong-emergency/risks/R-1",
        "agencies//risks/R-1",
        "agencies/qidong-emergency/risks/../risks/R-1",
        "agencies/qidong-emergency/risks/%52-1",
        "agencies/qidong-emergency/risks/R-1\0",
        "agencies/qidong-emergency\n/risks/R-1",
        "agencies/qidong\u{2010}emergency/risks/R-1",
        "agencies/ＱＩＤＯＮＧ-emergency/risks/R-1",
        "agencies/QIDONG-EMERGENCY/risks/R-1",
    ] {
        let error = rudong
            .risks
            .get_risk(GetRiskRequest { name: name.into() })
            .await;
        let error = decoded(error.unwrap_err());
        assert!(
            matches!(error.code, Code::InvalidArgument | Code::NotFound),
            "{name}: {error:?}"
        );
        let history = ListRiskRevisionsRequest {
            name: name.into(),
            ..Default::default()
        };
        rudong.risks.list_risk_revisions(history).await.unwrap_err();
        let mut bent = risk("R-1");
        bent.name = name.into();
        qidong.submit(bent).await.unwrap_err();
        let custody = GetCustodyRequest {
            name: name.into(),
            revision: 0,
        };
        rudong.ledger.get_custody(custody).await.unwrap_err();
    }
    for parent in [
        "agencies/../risks",
        "agencies/*/risks",
        "-/risks",
        "agencies/-",
        "",
    ] {
        let request = ListRisksRequest {
            parent: parent.into(),
            ..Default::default()
        };
        let error = decoded(rudong.risks.list_risks(request).await.unwrap_err());
        assert_eq!(error.code, Code::InvalidArgument, "{parent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_of_its_caller() {
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let mut qidong = domain.agency(QIDONG, &county).await;
    let mut housing = domain.agency("qidong-housing", &county).await;
    for item in ["R-1", "R-2", "R-3"] {
        qidong.submit(risk(item)).await.unwrap();
    }
    let list = |token: &str| ListRisksRequest {
        parent: "agencies/-/risks".into(),
        page_size: 1,
        page_token: token.into(),
        ..Default::default()
    };
    let page = qidong
        .risks
        .list_risks(list(""))
        .await
        .unwrap()
        .into_inner();
    let token = page.next_page_token;
    qidong.risks.list_risks(list(&token)).await.unwrap();
    let error = decoded(housing.risks.list_risks(list(&token)).await.unwrap_err());
    assert_eq!(error.reason, Some(ErrorReason::PageTokenInvalid));
}

/// At the city, an agency of one county does not learn that the other county's log is there.
#[tokio::test(flavor = "multi_thread")]
async fn logs_of_others_are_as_absent() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let qidong = domain.start("qidong", Some(("nantong", &city))).await;
    let rudong = domain.start("rudong", Some(("nantong", &city))).await;
    assert!(domain.admin(&qidong).await.sync().await.complete);
    assert!(domain.admin(&rudong).await.sync().await.complete);
    let mut operator = domain.admin(&city).await;
    let mut agency = domain.agency(QIDONG, &city).await;
    let all = operator.ledger.list_logs(ListLogsRequest {}).await.unwrap();
    let all = all.into_inner().logs;
    assert_eq!(all.len(), 3);
    let seen = agency.ledger.list_logs(ListLogsRequest {}).await.unwrap();
    let seen: Vec<_> = seen
        .into_inner()
        .logs
        .into_iter()
        .map(|l| l.origin)
        .collect();
    assert_eq!(seen.len(), 2, "the city's own and its county's: {seen:?}");
    let hidden = all
        .into_iter()
        .map(|l| l.origin)
        .find(|o| !seen.contains(o))
        .unwrap();
    assert!(hidden.contains("/rudong/"), "{hidden}");
    let ask = |origin: String| GetCheckpointRequest { origin };
    let there = agency
        .ledger
        .get_checkpoint(ask(hidden))
        .await
        .map_err(decoded);
    let absent = agency
        .ledger
        .get_checkpoint(ask("nantong.gov.cn/x/00000000".into()));
    assert_eq!(
        there.unwrap_err(),
        absent.await.map_err(decoded).unwrap_err()
    );
}

/// A county that writes in the name of another county's agency is refused by the city, which says so;
/// once its table is mended, the log goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_county_cannot_write_for_the_agencies_of_another() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let agencies = std::fs::read_to_string(domain.folder.path().join("agencies.csv")).unwrap();
    // What the dishonest county tells itself.
    let forged = domain.folder.path().join("forged.csv");
    std::fs::write(
        &forged,
        agencies.replace("county-department,rudong", "county-department,qidong"),
    )
    .unwrap();
    let mut config = domain.config("qidong", Some(("nantong", city.address)));
    config.reference.agencies = Some(forged);
    let county = support::Running::start(config).await;
    let mut forger = domain.agency(RUDONG, &county).await;
    let mut record = risk("R-1");
    record.name = format!("agencies/{RUDONG}/risks/R-1");
    record.place.as_mut().unwrap().division = "320623".into();
    forger.submit(record.clone()).await.unwrap();
    let synced = domain.admin(&county).await.sync().await;
    assert!(!synced.complete, "{synced:?}");
    let mut operator = domain.admin(&city).await;
    let status = operator
        .node
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let child = &status.children[0];
    assert_eq!(
        (child.state(), child.size),
        (LinkState::Refused, 0),
        "{child:?}"
    );
    assert!(child.reason.contains(RUDONG), "{child:?}");
    let request = GetRiskRequest { name: record.name };
    let error = decoded(operator.risks.get_risk(request.clone()).await.unwrap_err());
    assert_eq!(error.code, Code::NotFound);

    // It was the city's table that was wrong, after all: the agency had moved.
    let moved = agencies.replace(
        "county-department,rudong",
        "county-department,qidong;rudong",
    );
    domain.replace("agencies.csv", &moved);
    let waiting = async {
        while !domain.admin(&county).await.sync().await.complete {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(IN_FORCE * 2, waiting).await.unwrap();
    operator.risks.get_risk(request).await.unwrap();
}
