//! What a node writes to its log: ids, and nothing of what callers sent. Whatever they send, a line stays
//! a line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hefu::proto::{
    ledger::v1::{GetCheckpointRequest, GetCustodyRequest},
    risk::v1::{
        GetRiskRequest, ListRisksRequest, SubmitRiskRequest, SubmitRisksRequest, WatchRisksRequest,
        WithdrawRiskRequest,
    },
};
use support::{
    Domain, QIDONG,
    process::{Process, configure},
    risk,
};
use tonic::{Request, Status};

/// In every text that is sent.
const CANARY: &str = "金丝雀7391";
/// What would look like a line of its own, in either format.
const FORGED: &str =
    "\n{\"level\":\"ERROR\",\"forged\":true}\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\r";

fn bait() -> String {
    format!("{CANARY}{FORGED}")
}

/// Sends the canary in every place that takes a text; returns what the node answered.
#[allow(clippy::too_many_lines, reason = "a list of places")]
async fn send_everywhere(domain: &Domain, node: &Process) -> Vec<Status> {
    let mut clients = node.clients(domain, &format!("agency/{QIDONG}")).await;
    let mut refused = Vec::new();
    let mut good = risk("R-1");
    (good.title, good.factor) = (CANARY.into(), format!("{CANARY}泄漏"));
    clients.submit(good).await.unwrap();
    let bends: [fn(&mut hefu::proto::risk::v1::Risk); 6] = [
        |risk| risk.title = bait(),
        |risk| risk.name = bait(),
        |risk| risk.name = format!("agencies/{QIDONG}/risks/{}", bait()),
        |risk| risk.sector = bait(),
        |risk| risk.note = format!("{CANARY}身份证320681199001010013"),
        |risk| risk.place.as_mut().unwrap().division = bait(),
    ];
    for bend in bends {
        let mut bent = risk("R-2");
        bend(&mut bent);
        let request = SubmitRiskRequest {
            risk: Some(bent.clone()),
            ..Default::default()
        };
        refused.push(clients.risks.submit_risk(request).await.unwrap_err());
        let list = SubmitRisksRequest {
            parent: format!("agencies/{QIDONG}/risks"),
            risks: vec![bent],
            ..Default::default()
        };
        let stream = futures::stream::iter([list]);
        let mut rows = clients
            .risks
            .submit_risks(stream)
            .await
            .unwrap()
            .into_inner();
        while let Ok(Some(_)) = rows.message().await {}
    }
    for (id, etag) in [(bait(), String::new()), (String::new(), bait())] {
        let request = SubmitRiskRequest {
            risk: Some(risk("R-1")),
            request_id: id,
            etag,
            ..Default::default()
        };
        refused.push(clients.risks.submit_risk(request).await.unwrap_err());
    }
    let withdraw = WithdrawRiskRequest {
        name: bait(),
        reason: bait(),
        ..Default::default()
    };
    refused.push(clients.risks.withdraw_risk(withdraw).await.unwrap_err());
    let get = GetRiskRequest { name: bait() };
    refused.push(clients.risks.get_risk(get).await.unwrap_err());
    for (filter, order_by, page_token) in [
        (bait(), String::new(), String::new()),
        (
            format!("title = \"{CANARY}\" AND"),
            String::new(),
            String::new(),
        ),
        (String::new(), bait(), String::new()),
        (String::new(), String::new(), bait()),
    ] {
        let list = ListRisksRequest {
            parent: format!("agencies/{QIDONG}/risks"),
            filter,
            order_by,
            page_token,
            ..Default::default()
        };
        refused.push(clients.risks.list_risks(list).await.unwrap_err());
    }
    let watch = WatchRisksRequest {
        parent: bait(),
        position: bait(),
        ..Default::default()
    };
    refused.push(clients.risks.watch_risks(watch).await.unwrap_err());
    let custody = GetCustodyRequest {
        name: bait(),
        revision: 0,
    };
    refused.push(clients.ledger.get_custody(custody).await.unwrap_err());
    let checkpoint = GetCheckpointRequest { origin: bait() };
    refused.push(clients.ledger.get_checkpoint(checkpoint).await.unwrap_err());
    // In metadata, where a newline cannot be; and in the path.
    let mut request = Request::new(GetRiskRequest {
        name: risk("R-1").name,
    });
    let metadata = request.metadata_mut();
    metadata.insert_bin(
        "canary-bin",
        tonic::metadata::MetadataValue::from_bytes(CANARY.as_bytes()),
    );
    metadata.insert("canary", "7391-forged".parse().unwrap());
    clients.risks.get_risk(request).await.unwrap();
    refused
}

/// Everything that must never be in a log: the canary, key material, as text and encoded.
fn secrets(domain: &Domain, data: &Path) -> Vec<String> {
    let seed = std::fs::read(data.join("log.key")).unwrap();
    let hex: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = std::fs::read_to_string(domain.issue("node/qidong").key).unwrap();
    let pem = key.lines().nth(1).unwrap().to_owned();
    let escaped: String = CANARY
        .chars()
        .map(|c| c.escape_unicode().to_string())
        .collect();
    vec![
        CANARY.into(),
        escaped,
        BASE64.encode(CANARY),
        format!("{:?}", CANARY.as_bytes())
            .trim_matches(['[', ']'])
            .to_owned(),
        "7391".into(),
        hex,
        BASE64.encode(&seed),
        format!("{seed:?}"),
        pem,
        "PRIVATE KEY".into(),
    ]
}

async fn logged(format: &str, level: &str) -> (Vec<String>, Vec<String>) {
    let domain = Domain::new();
    let data = domain.folder.path().join("qidong");
    let config = configure(&domain, "qidong", &data, None);
    let log = domain.folder.path().join("log");
    let env = [
        ("HEFU_LOG_FORMAT", format.to_owned()),
        ("HEFU_LOG_LEVEL", level.to_owned()),
        ("NO_COLOR", "1".to_owned()),
    ];
    let node = Process::logging(&config, &env, &log);
    let secrets = secrets(&domain, &data);
    for status in send_everywhere(&domain, &node).await {
        let text = format!("{status:?}");
        for inner in [data.to_str().unwrap(), "src/", ".rs:", "sled", "panicked"] {
            assert!(!text.contains(inner), "{inner:?} in {text}");
        }
    }
    assert!(node.stop().success());
    let text = std::fs::read_to_string(log).unwrap();
    let leaked = secrets.into_iter().filter(|secret| text.contains(secret));
    (text.lines().map(str::to_owned).collect(), leaked.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_objects_has_nothing_of_what_was_sent() {
    let (lines, leaked) = logged("json", "debug").await;
    assert!(lines.len() > 30, "{}", lines.len());
    for line in &lines {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object.get("forged").is_none(), "{line}");
    }
    assert!(lines.iter().any(|line| line.contains("FIELD_INVALID")));
    assert_eq!(leaked, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_for_people_has_no_line_that_a_caller_wrote() {
    let (lines, leaked) = logged("text", "info,hefu=trace").await;
    for line in &lines {
        let begins = line.split_whitespace().next().unwrap_or_default();
        assert!(begins.parse::<jiff::Timestamp>().is_ok(), "{line:?}");
        assert!(
            !line.contains("forged") && !line.contains('\u{1b}'),
            "{line:?}"
        );
    }
    assert!(lines.iter().any(|line| line.contains("FIELD_INVALID")));
    assert_eq!(leaked, Vec::<String>::new());
}
