//! Hand-carried trips through the real program: a county and a city that never touch.

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

use std::{path::PathBuf, process::Output};

use bytes::Bytes;
use futures::stream;
use hefu::proto::{
    error::v1::ErrorReason,
    ledger::v1::GetCustodyRequest,
    node::v1::{GetStatusRequest, GetStatusResponse, LinkState},
    replication::v1::{ImportCourierRequest, courier_service_client::CourierServiceClient},
};
use support::{
    Domain, QIDONG, copy, decoded,
    process::{Process, configure, port},
    risk,
};

/// Files that somebody carries, and who carries them.
struct Carrier<'a> {
    domain: &'a Domain,
}

impl Carrier<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.domain.folder.path().join(name)
    }

    /// `hefu courier`, as the operator, at a node.
    fn courier(&self, node: &Process, words: &[&str]) -> Output {
        let operator = self.domain.issue("admin/operator");
        let words = words.iter().map(|word| match word.contains(".hefu") {
            true => self.file(word).into_os_string(),
            false => (*word).into(),
        });
        std::process::Command::new(env!("CARGO_BIN_EXE_hefu"))
            .arg("courier")
            .args(words)
            .arg("--server")
            .arg(format!("https://{}", node.address))
            .arg("--cert")
            .arg(operator.certificate)
            .arg("--key")
            .arg(operator.key)
            .arg("--roots")
            .arg(operator.root)
            .output()
            .unwrap()
    }

    fn ok(&self, node: &Process, words: &[&str]) -> String {
        let output = self.courier(node, words);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{words:?}: {}",
            said(&output)
        );
        said(&output)
    }

    fn refused(&self, node: &Process, words: &[&str], code: i32, says: &str) {
        let output = self.courier(node, words);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

async fn submit(domain: &Domain, county: &Process, items: std::ops::Range<u32>) {
    let mut agency = county.clients(domain, &format!("agency/{QIDONG}")).await;
    for item in items {
        agency.submit(risk(&format!("R-{item}"))).await.unwrap();
    }
}

async fn status(domain: &Domain, node: &Process) -> GetStatusResponse {
    let mut admin = node.clients(domain, "admin/operator").await;
    let status = admin.node.get_status(GetStatusRequest {}).await;
    status.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_trips_by_hand() {
    let domain = Domain::new();
    let carrier = Carrier { domain: &domain };
    let folder = |name: &str| domain.folder.path().join(name);
    let unreachable = port(&configure(&domain, "nobody", &folder("nobody"), None));
    let parent = Some(("nantong", unreachable));
    let city_config = configure(&domain, "nantong", &folder("nantong"), None);
    let county_config = configure(&domain, "qidong", &folder("qidong"), parent);
    let city = Process::start(&city_config);
    let county = Process::start(&county_config);

    // The first trip. Its receipt is lost on the way back.
    submit(&domain, &county, 0..3).await;
    carrier.ok(&county, &["export", "--out", "one.hefu"]);
    let shown = carrier.ok(&city, &["import", "one.hefu", "--receipt", "lost.hefu"]);
    assert!(shown.contains("qidong") && shown.contains('3'), "{shown}");
    let below = status(&domain, &city).await.children.remove(0);
    assert_eq!((below.size, below.lag), (3, 0));
    assert_eq!(below.state(), LinkState::Current, "{below:?}");
    assert!(below.reason.starts_with("by courier, at"), "{below:?}");
    let up = status(&domain, &county).await.uplinks.remove(0);
    assert_eq!(
        (up.size, up.lag),
        (3, 3),
        "what is not known is not claimed"
    );
    assert_eq!(up.state(), LinkState::Disconnected);
    // Twice is as once.
    carrier.ok(&city, &["import", "one.hefu", "--receipt", "again.hefu"]);
    // What is there is not written over.
    carrier.refused(
        &city,
        &["import", "one.hefu", "--receipt", "again.hefu"],
        2,
        "exists",
    );
    county.stop();
    copy(&folder("qidong"), &folder("old"));
    let county = Process::start(&county_config);

    // The second one carries everything again, and more; the city takes what it has not.
    submit(&domain, &county, 3..5).await;
    carrier.ok(&county, &["export", "--out", "two.hefu"]);
    carrier.ok(&city, &["import", "two.hefu", "--receipt", "two-back.hefu"]);
    carrier.ok(&county, &["receipt", "two-back.hefu"]);
    let up = status(&domain, &county).await.uplinks.remove(0);
    assert_eq!((up.cosigned_size, up.lag), (5, 0));
    assert_eq!(up.state(), LinkState::Current, "{up:?}");
    assert!(up.reason.starts_with("by courier, at"), "{up:?}");
    // An older receipt takes nothing back.
    carrier.ok(&county, &["receipt", "again.hefu"]);
    // Custody is as if it had come over a wire, and a kill -9 does not change that.
    county.kill();
    let county = Process::start(&county_config);
    let up = status(&domain, &county).await.uplinks.remove(0);
    assert_eq!((up.cosigned_size, up.lag), (5, 0));
    assert_eq!(up.state(), LinkState::Current, "{up:?}");
    let mut agency = county.clients(&domain, &format!("agency/{QIDONG}")).await;
    let name = format!("agencies/{QIDONG}/risks/R-1");
    let custody = GetCustodyRequest { name, revision: 0 };
    let custody = agency
        .ledger
        .get_custody(custody)
        .await
        .unwrap()
        .into_inner();
    let cosigned = custody.cosignatures.iter().find(|c| c.node == "nantong");
    let cosigned = cosigned.unwrap();
    assert!(
        cosigned.size == 3 && cosigned.carried_time.is_some(),
        "{cosigned:?}"
    );

    // The third one goes to the wrong places first.
    submit(&domain, &county, 5..7).await;
    carrier.ok(&county, &["export", "--out", "three.hefu"]);
    carrier.refused(
        &county,
        &["import", "three.hefu", "--receipt", "none.hefu"],
        5,
        "COURIER_MISPLACED: the courier file does not belong here, or not yet: the file is for nantong",
    );
    carrier.refused(
        &city,
        &["receipt", "two-back.hefu"],
        5,
        "PARENT_UNAVAILABLE",
    );
    let fresh_config = configure(&domain, "nantong", &folder("fresh"), None);
    let fresh = Process::start(&fresh_config);
    carrier.refused(
        &fresh,
        &["import", "three.hefu", "--receipt", "early.hefu"],
        5,
        "the file goes on at entry 5 and 0 are held",
    );
    for (file, receipt) in [("two.hefu", "f2.hefu"), ("three.hefu", "f3.hefu")] {
        carrier.ok(&fresh, &["import", file, "--receipt", receipt]);
    }
    assert_eq!(status(&domain, &fresh).await.children[0].size, 7);
    drop(fresh);

    // Damage is found before anything goes to a node, and by the node itself.
    let whole = std::fs::read(carrier.file("three.hefu")).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(carrier.file("bad.hefu"), &flipped).unwrap();
    std::fs::write(carrier.file("cut.hefu"), &whole[..middle]).unwrap();
    for file in ["bad.hefu", "cut.hefu"] {
        carrier.refused(
            &city,
            &["import", file, "--receipt", "none.hefu"],
            7,
            "at byte",
        );
        carrier.refused(&city, &["show", file], 7, "at byte");
    }
    let mut raw = CourierServiceClient::new(city.clients(&domain, "admin/operator").await.channel);
    let chunks = flipped.chunks(512).map(Bytes::copy_from_slice);
    let chunks: Vec<_> = chunks.map(|chunk| ImportCourierRequest { chunk }).collect();
    let answers = raw.import_courier(stream::iter(chunks)).await;
    let mut answers = answers.unwrap().into_inner();
    let refused = decoded(answers.message().await.unwrap_err());
    assert_eq!(refused.reason, Some(ErrorReason::CourierInvalid));
    assert!(refused.zh.contains("字节"), "{refused:?}");
    carrier.ok(
        &city,
        &["import", "three.hefu", "--receipt", "three-back.hefu"],
    );
    carrier.ok(&county, &["receipt", "three-back.hefu"]);
    assert_eq!(status(&domain, &county).await.uplinks[0].cosigned_size, 7);

    // A copy of the county, restored and grown, is found out by its file.
    county.stop();
    let old_config = configure(&domain, "qidong", &folder("old"), parent);
    let old = Process::start(&old_config);
    submit(&domain, &old, 90..92).await;
    carrier.ok(&old, &["export", "--out", "fork.hefu"]);
    carrier.refused(
        &city,
        &["import", "fork.hefu", "--receipt", "fork-back.hefu"],
        5,
        "LOG_FORKED",
    );
    let below = status(&domain, &city).await.children.remove(0);
    assert_eq!(below.state(), LinkState::Quarantined);
    carrier.refused(&old, &["receipt", "three-back.hefu"], 5, "BEHIND_PARENT");
}
