//! Custody, offline: a file from a node, checked by the command with public keys alone.

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

use std::{
    path::Path,
    process::{Command, Output},
};

use hefu::{
    ledger::{custody::Custody, note::NodeKey},
    proto::ledger::v1::{Cosignature, GetCustodyRequest, GetCustodyResponse, ListLogsRequest},
};
use support::{Clients, Domain, QIDONG, Running, risk};

async fn custody(clients: &mut Clients, name: &str) -> GetCustodyResponse {
    let request = GetCustodyRequest {
        name: name.to_owned(),
        revision: 0,
    };
    let answer = clients.ledger.get_custody(request).await.unwrap();
    answer.into_inner()
}

/// The custody once both tiers above have cosigned the record.
async fn cosigned(node: &Running, clients: &mut Clients, name: &str) -> GetCustodyResponse {
    let mut follow = node.ledger.follow();
    loop {
        let custody = custody(clients, name).await;
        if custody.cosignatures.len() == 2 {
            return custody;
        }
        follow.changed().await.unwrap();
    }
}

fn of(custody: &GetCustodyResponse, node: &str) -> Cosignature {
    let mut cosignatures = custody.cosignatures.iter();
    let found = cosignatures.find(|cosignature| cosignature.node == node);
    found.unwrap().clone()
}

async fn hefu(arguments: Vec<String>) -> Output {
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
        command.args(arguments).output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agency_proves_offline_since_when_each_tier_has_held_its_record() {
    let domain = Domain::new();
    domain.grant("[[grant]]\nwho = [\"node/nantong\"]\nmay = [\"replicate\"]\nbrings = [\"*\"]\n");
    let province = domain.start("jiangsu", None).await;
    let city = domain.start("nantong", Some(("jiangsu", &province))).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    for item in ["R-1", "R-2", "R-3"] {
        agency.submit(risk(item)).await.unwrap();
    }
    let name = risk("R-2").name;
    let before = cosigned(&county, &mut agency, &name).await;
    // The log grows, and everybody cosigns more of it: the record's receipts stay what they were.
    for item in ["R-4", "R-5"] {
        agency.submit(risk(item)).await.unwrap();
    }
    cosigned(&county, &mut agency, &risk("R-5").name).await;
    let after = custody(&mut agency, &name).await;
    assert_eq!(after.log.as_ref().unwrap().size, 5);
    for node in ["nantong", "jiangsu"] {
        assert!(of(&after, node).size <= of(&before, node).size, "{after:?}");
        assert!(of(&after, node).size < 5, "{after:?}");
    }
    // The city says of itself what it has said to the county, or better.
    let at_city = custody(&mut domain.admin(&city).await, &name).await;
    assert!(of(&at_city, "nantong").size <= of(&after, "nantong").size);

    let shown = |path: &Path| path.display().to_string();
    let file = shown(&domain.folder.path().join("R-2.custody.json"));
    let issued = domain.issue(&format!("agency/{QIDONG}"));
    let options = [
        ("--server", format!("https://{}", county.address)),
        ("--cert", shown(&issued.certificate)),
        ("--key", shown(&issued.key)),
        ("--roots", shown(&issued.root)),
        ("--out", file.clone()),
    ];
    let mut arguments = vec!["custody".to_owned(), name.clone()];
    arguments.extend(options.into_iter().flat_map(|(k, v)| [k.to_owned(), v]));
    let written = hefu(arguments).await;
    assert!(written.status.success(), "{}", said(&written));
    // What comes now is offline: nobody is there to be asked.
    let logs = agency.ledger.list_logs(ListLogsRequest {}).await.unwrap();
    let origin = logs.into_inner().logs[0].verifier_key.clone();
    let cosigner = |node: &Running| node.ledger.key().cosigner_key().to_string();
    let (above, top) = (cosigner(&city), cosigner(&province));
    for node in [county, city, province] {
        node.stop().await;
    }

    let verify = |keys: &[&String]| {
        let mut arguments = vec!["verify".to_owned(), "--custody".to_owned(), file.clone()];
        let keys = keys.iter();
        arguments.extend(keys.flat_map(|key| ["--vkey".to_owned(), (*key).clone()]));
        arguments
    };
    let proven = hefu(verify(&[&origin, &above, &top])).await;
    assert!(proven.status.success(), "{}", said(&proven));
    for text in [name.as_str(), "nantong", "jiangsu", "cosigned", "+08:00"] {
        assert!(said(&proven).contains(text), "{}", said(&proven));
    }
    println!("{}", said(&proven));
    let keyless = hefu(verify(&[])).await;
    assert_eq!(keyless.status.code(), Some(7));
    for key in [&origin, &above, &top] {
        assert!(said(&keyless).contains(key.as_str()), "{}", said(&keyless));
    }
    // The same keys in a file.
    let keys = shown(&domain.folder.path().join("keys.txt"));
    std::fs::write(&keys, format!("# told by telephone\n{origin}\n\n{above}\n")).unwrap();
    let mut arguments = verify(&[]);
    arguments.extend(["--vkeys".to_owned(), keys]);
    let two = hefu(arguments).await;
    assert!(two.status.success(), "{}", said(&two));
    // Whose key is not trusted is said not to be proven; a key that is demanded must be there.
    assert!(said(&two).contains(&format!("no: it needs {top}")));
    let stranger = NodeKey::new(&[5; 32], "nantong.gov.cn/x/1", "nantong.gov.cn/x");
    let absent = hefu(verify(&[&origin, &stranger.cosigner_key().to_string()])).await;
    assert_eq!(absent.status.code(), Some(7), "{}", said(&absent));
    // One letter of what people read is changed.
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(Custody::parse(&text).unwrap().text(), text);
    std::fs::write(&file, text.replace("risks/R-2", "risks/R-3")).unwrap();
    let forged = hefu(verify(&[&origin])).await;
    assert_eq!(forged.status.code(), Some(7), "{}", said(&forged));
    assert!(said(&forged).contains("its record"), "{}", said(&forged));
}
