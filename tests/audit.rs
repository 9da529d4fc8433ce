//! The audit trail of real nodes: what is in it, what never is, and that nothing answered is missing.

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

use std::process::Command;

use hefu::{
    audit::{verify, verify_chain},
    proto::{
        audit::v1::{
            AuditRecord, ExportAuditRecordsRequest, GetAuditHeadRequest, ListAuditRecordsRequest,
            audit_service_client::AuditServiceClient,
        },
        error::v1::ErrorReason,
        risk::v1::{
            GetRiskRequest, ListRisksRequest, SubmitRiskRequest, SubmitRisksRequest,
            WatchRisksRequest,
        },
    },
};
use support::{
    Domain, QIDONG, RUDONG, Running, decoded, dial,
    process::{Process, configure},
    risk,
};
use tonic::transport::Channel;

const CANARY: &str = "金丝雀7391";

async fn auditor(domain: &Domain, node: &Running) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(domain.channel("auditor/one", node).await)
}

async fn list(
    client: &mut AuditServiceClient<Channel>,
    request: ListAuditRecordsRequest,
) -> Vec<AuditRecord> {
    let answer = client.list_audit_records(request).await.unwrap();
    answer.into_inner().records
}

/// Records of calls of a method, oldest first.
fn of<'a>(records: &'a [AuditRecord], method: &str) -> Vec<&'a AuditRecord> {
    let ends = |record: &&AuditRecord| record.method.ends_with(&format!("/{method}"));
    records.iter().rev().filter(ends).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_refused_or_crosses_is_on_record() {
    let domain = Domain::new();
    let node = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &node).await;
    let mut housing = domain.agency("qidong-housing", &node).await;
    let mut rudong = domain.agency(RUDONG, &node).await;
    let mut submitted = risk("R-1");
    submitted.note = CANARY.into();
    agency.submit(submitted).await.unwrap();
    let mut bad = risk("R-2");
    bad.title.clear();
    agency.submit(bad.clone()).await.unwrap_err();
    let rows = SubmitRisksRequest {
        parent: format!("agencies/{QIDONG}/risks"),
        risks: vec![risk("R-3"), bad, risk("R-4")],
        ..Default::default()
    };
    let rows = futures::stream::iter([rows]);
    let mut answers = agency.risks.submit_risks(rows).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let dry = SubmitRiskRequest {
        risk: Some(risk("R-5")),
        validate_only: true,
        ..Default::default()
    };
    agency.risks.submit_risk(dry).await.unwrap();
    let get = || GetRiskRequest {
        name: risk("R-1").name,
    };
    agency.risks.get_risk(get()).await.unwrap();
    housing.risks.get_risk(get()).await.unwrap();
    rudong.risks.get_risk(get()).await.unwrap_err();
    let all = ListRisksRequest {
        parent: "agencies/-/risks".into(),
        ..Default::default()
    };
    agency.risks.list_risks(all.clone()).await.unwrap();
    housing.risks.list_risks(all).await.unwrap();
    // A watch is on record as soon as it shows something of another agency, not when it ends.
    let watch = WatchRisksRequest {
        parent: "agencies/-/risks".into(),
        from_start: true,
        ..Default::default()
    };
    let mut watching = housing.risks.watch_risks(watch).await.unwrap().into_inner();
    watching.message().await.unwrap().unwrap();

    let mut client = auditor(&domain, &node).await;
    let records = list(&mut client, ListAuditRecordsRequest::default()).await;
    let submits = of(&records, "SubmitRisk");
    assert_eq!(submits.len(), 3, "{submits:#?}");
    let (taken, refused, dry) = (submits[0], submits[1], submits[2]);
    assert!(taken.caller.ends_with("/agency/qidong-emergency") && taken.address.contains(':'));
    assert_eq!(
        (taken.resource.as_str(), taken.code),
        (risk("R-1").name.as_str(), 0)
    );
    assert_eq!(
        (taken.rows.unwrap().created, taken.first_index),
        (1, Some(0))
    );
    assert!(!taken.call_id.is_empty() && taken.duration.is_some());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (3, "FIELD_INVALID")
    );
    assert_eq!(refused.resource, risk("R-2").name);
    assert_eq!((dry.rows, dry.first_index), (None, None));
    let lists = of(&records, "SubmitRisks");
    let rows = lists[0].rows.unwrap();
    assert_eq!((rows.created, rows.refused), (2, 1));
    assert_eq!(
        (lists[0].first_index, lists[0].last_index),
        (Some(1), Some(2))
    );
    assert_eq!(lists[0].resource, format!("agencies/{QIDONG}/risks"));
    let gets = of(&records, "GetRisk");
    assert_eq!(gets.len(), 2, "one's own reads are not recorded");
    assert!(gets[0].cross_agency && gets[0].caller.ends_with("/agency/qidong-housing"));
    assert_eq!(
        (gets[1].cross_agency, gets[1].reason.as_str()),
        (false, "RECORD_NOT_FOUND")
    );
    assert_eq!(of(&records, "ListRisks").len(), 1);
    assert_eq!(of(&records, "WatchRisks")[0].event, "begins");
    assert!(records.last().unwrap().event.starts_with("started"));
    let look = list(&mut client, ListAuditRecordsRequest::default()).await;
    assert_eq!(
        of(&look, "ListAuditRecords").len(),
        1,
        "looking is recorded"
    );

    let folder = node.config.node.data.join("audit");
    drop((watching, client));
    node.stop().await;
    let checked = verify(&folder).unwrap();
    assert!(checked.records > 10);
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let found = bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes());
        assert!(!found, "a body is in the trail");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_pages_and_export() {
    let domain = Domain::new();
    let node = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &node).await;
    for n in 0..25 {
        agency.submit(risk(&format!("R-{n}"))).await.unwrap();
    }
    let absent = GetRiskRequest {
        name: risk("R-99").name,
    };
    agency.risks.get_risk(absent).await.unwrap_err();
    let mut client = auditor(&domain, &node).await;
    let submits = ListAuditRecordsRequest {
        method: "SubmitRisk".into(),
        caller: format!("agency/{QIDONG}"),
        page_size: 10,
        ..Default::default()
    };
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let request = ListAuditRecordsRequest {
            page_token: token,
            ..submits.clone()
        };
        let page = client
            .list_audit_records(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.records.len() <= 10);
        seen.extend(page.records.into_iter().map(|record| record.resource));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
        // It opens for the same question only.
        let other = ListAuditRecordsRequest {
            page_token: token.clone(),
            reason: "X".into(),
            ..submits.clone()
        };
        let error = decoded(client.list_audit_records(other).await.unwrap_err());
        assert_eq!(error.reason, Some(ErrorReason::PageTokenInvalid));
    }
    let due: Vec<_> = (0..25)
        .rev()
        .map(|n| risk(&format!("R-{n}")).name)
        .collect();
    assert_eq!(seen, due, "newest first, no gap, no duplicate");
    let refused = ListAuditRecordsRequest {
        refused_only: true,
        reason: "RECORD_NOT_FOUND".into(),
        resource_prefix: format!("agencies/{QIDONG}/"),
        ..Default::default()
    };
    assert_eq!(list(&mut client, refused).await.len(), 1);
    let none = ListAuditRecordsRequest {
        caller: "agency/somebody".into(),
        ..Default::default()
    };
    assert!(list(&mut client, none).await.is_empty());
    for wrong in [
        ListAuditRecordsRequest {
            page_size: -1,
            ..Default::default()
        },
        ListAuditRecordsRequest {
            caller: "x".repeat(501),
            ..Default::default()
        },
    ] {
        let error = decoded(client.list_audit_records(wrong).await.unwrap_err());
        assert_eq!(error.reason, Some(ErrorReason::FieldInvalid));
    }

    // Two exports, the second from where the first ended, chain up to the head.
    let mut hash: Option<[u8; 32]> = None;
    let mut start = 0;
    for _ in 0..2 {
        let request = ExportAuditRecordsRequest { start };
        let mut parts = client
            .export_audit_records(request)
            .await
            .unwrap()
            .into_inner();
        while let Some(part) = parts.message().await.unwrap() {
            let before: [u8; 32] = part.hash_before.unwrap().value.try_into().unwrap();
            assert!(hash.is_none_or(|hash| hash == before));
            let records = part.records.iter().map(|chained| {
                let after = chained.hash.as_ref().unwrap().value.clone();
                (chained.record_bytes.as_slice(), after.try_into().unwrap())
            });
            hash = Some(verify_chain(before, records).unwrap());
            start = part
                .records
                .last()
                .unwrap()
                .record
                .as_ref()
                .unwrap()
                .sequence
                + 1;
        }
        agency.submit(risk("R-26")).await.unwrap();
    }
    let head = client.get_audit_head(GetAuditHeadRequest {}).await.unwrap();
    assert!(head.into_inner().size > start);
}

/// Every call that was answered is on record, whenever the process is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_has_recorded_what_it_answered() {
    let domain = Domain::new();
    let data = domain.folder.path().join("qidong");
    let config = configure(&domain, "qidong", &data, None);
    let mut answered = Vec::new();
    for round in 0..5 {
        let node = Process::start(&config);
        let mut clients = node.clients(&domain, &format!("agency/{QIDONG}")).await;
        for n in 0..20 {
            let name = format!("R-{round}-{n}");
            clients.submit(risk(&name)).await.unwrap();
            answered.push(risk(&name).name);
        }
        node.kill();
    }
    let node = Process::start(&config);
    let issued = domain.issue("auditor/one");
    let channel = dial(&issued, node.address).await.unwrap();
    let mut client = AuditServiceClient::new(channel);
    let request = ListAuditRecordsRequest {
        method: "SubmitRisk".into(),
        page_size: 1_000,
        ..Default::default()
    };
    let mut recorded: Vec<_> = list(&mut client, request)
        .await
        .into_iter()
        .map(|r| r.resource)
        .collect();
    recorded.reverse();
    assert_eq!(recorded, answered);

    // And the commands show it, export it, and prove it.
    let file = domain.folder.path().join("trail.jsonl");
    let server = format!("https://{}", node.address);
    let hefu = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hefu"))
            .args(arguments)
            .env("HEFU_SERVER", &server)
            .env("HEFU_CERT", &issued.certificate)
            .env("HEFU_KEY", &issued.key)
            .env("HEFU_ROOTS", &issued.root)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.code().unwrap(),
            text + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let path = file.to_str().unwrap().to_owned();
    let (code, said) = hefu(&["audit", "list", "--caller", "agency/qidong-emergency"]);
    assert!(
        code == 0 && said.contains("SubmitRisk") && said.contains("1 created"),
        "{said}"
    );
    let (code, said) = hefu(&["audit", "export", &path]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = hefu(&["audit", "verify", &path]);
    assert_eq!(code, 0, "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to) in [("R-0-3", "R-0-4"), ("\"hash\":\"A", "\"hash\":\"B")] {
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let (code, said) = hefu(&["audit", "verify", &path]);
        assert!(code == 7 || !text.contains(from), "{code} {said}");
    }
    assert!(node.stop().success());
    let folder = data.join("audit").to_str().unwrap().to_owned();
    let (code, said) = hefu(&["audit", "verify", &folder]);
    assert_eq!(code, 0, "{said}");
}
