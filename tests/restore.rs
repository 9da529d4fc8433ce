//! Counties that lose what they had: restored from an old copy, or with no disk at all. Real processes.

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
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hefu::{
    cli::verify,
    proto::{
        error::v1::ErrorReason,
        ledger::v1::GetCheckpointRequest,
        node::v1::{GetStatusRequest, GetStatusResponse, Health, LinkState},
        risk::v1::{GetRiskRequest, Risk, SubmitRiskRequest, SubmitRisksRequest},
    },
};
use support::{
    Clients, Domain, QIDONG,
    process::{Process, configure, port},
    risk,
};
use tonic::Code;

/// Polls until something shows; a bound that only a failing test meets.
macro_rules! until {
    ($looks:expr) => {{
        let mut tries = 0;
        loop {
            if let Some(found) = $looks {
                break found;
            }
            tries += 1;
            assert!(tries < 3_000, "it never shows: {}", stringify!($looks));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }};
}

/// A city and a county of it, as processes, with folders that stay.
struct Scene {
    domain: Domain,
    city: PathBuf,
    county: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let domain = Domain::new();
        let folder = domain.folder.path().to_owned();
        let city = configure(&domain, "nantong", &folder.join("city"), None);
        let above = Some(("nantong", port(&city)));
        let county = configure(&domain, "qidong", &folder.join("county"), above);
        Self {
            domain,
            city,
            county,
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.domain.folder.path().join(name)
    }

    async fn admin(&self, node: &Process) -> Clients {
        node.clients(&self.domain, "admin/operator").await
    }

    async fn agency(&self, node: &Process) -> Clients {
        node.clients(&self.domain, &format!("agency/{QIDONG}"))
            .await
    }
}

async fn status(admin: &mut Clients) -> GetStatusResponse {
    let status = admin.node.get_status(GetStatusRequest {}).await;
    status.unwrap().into_inner()
}

/// Submits so many risks as a list.
async fn fill(agency: &mut Clients, prefix: &str, rows: usize) {
    let rows: Vec<_> = (0..rows).map(|n| risk(&format!("{prefix}-{n}"))).collect();
    let message = |rows: &[Risk]| SubmitRisksRequest {
        risks: rows.to_vec(),
        ..Default::default()
    };
    let mut messages: Vec<_> = rows.chunks(500).map(message).collect();
    messages[0].parent = format!("agencies/{QIDONG}/risks");
    let answers = agency
        .risks
        .submit_risks(futures::stream::iter(messages))
        .await;
    let mut answers = answers.unwrap().into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(summary) = answer.summary {
            assert_eq!(summary.created, rows.len() as i64);
        }
    }
}

fn kept(item: &str) -> SubmitRiskRequest {
    SubmitRiskRequest {
        risk: Some(risk(item)),
        request_id: "0191d7a2-5b1e-7c3a-9f00-0000000000a1".to_owned(),
        ..Default::default()
    }
}

async fn checkpoint(node: &mut Clients, origin: &str) -> String {
    let request = GetCheckpointRequest {
        origin: origin.to_owned(),
    };
    let answer = node.ledger.get_checkpoint(request).await.unwrap();
    let note: hefu::ledger::note::Note = answer.into_inner().checkpoint.parse().unwrap();
    note.checkpoint().text()
}

fn verified(folder: &Path) {
    let verified = verify::folder(folder).unwrap();
    assert_eq!(
        verified.defects,
        Vec::<String>::new(),
        "{}",
        folder.display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_county_restored_from_an_old_copy_recovers_and_goes_on_as_the_same_log() {
    let scene = Scene::new();
    let (data, backup) = (scene.folder("county"), scene.folder("backup"));
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    fill(&mut scene.agency(&county).await, "OLD", 20).await;
    assert!(scene.admin(&county).await.sync().await.complete);
    assert!(county.stop().success());
    support::copy(&data, &backup);

    let county = Process::start(&scene.county);
    let mut agency = scene.agency(&county).await;
    let first = agency.risks.submit_risk(kept("KEPT")).await.unwrap();
    let first = first.into_inner().receipt.unwrap();
    fill(&mut agency, "NEW", 6_000).await;
    let mut admin = scene.admin(&county).await;
    assert!(admin.sync().await.complete);
    let before = status(&mut admin).await;
    assert_eq!(before.size, 6_021);
    county.kill();
    std::fs::remove_dir_all(&data).unwrap();
    support::copy(&backup, &data);

    // Killed again and again while it recovers, it keeps what it has, and takes nothing in.
    let mut held = 20;
    for _ in 0..3 {
        let county = Process::start(&scene.county);
        let mut admin = scene.admin(&county).await;
        held = until!(
            Some(status(&mut admin).await.size).filter(|size| *size > held || held == 6_021)
        );
        county.kill();
    }
    // A copy that is marked as one, while the city is out of reach: it stays closed however long that takes.
    std::fs::remove_dir_all(&data).unwrap();
    support::copy(&backup, &data);
    std::fs::write(data.join("restored"), "").unwrap();
    city.kill();
    for _ in 0..2 {
        let county = Process::start(&scene.county);
        let mut agency = scene.agency(&county).await;
        let error = agency.submit(risk("FORK")).await.unwrap_err();
        assert_eq!(error.reason, Some(ErrorReason::BehindParent));
        let now = status(&mut scene.admin(&county).await).await;
        assert!(now.health_reason.contains("copy that was put back"));
        county.kill();
    }
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut admin = scene.admin(&county).await;
    until!(Some(status(&mut admin).await).filter(|now| now.health() == Health::Serving));
    assert_eq!(status(&mut admin).await.size, 6_021);
    until!((!data.join("restored").exists()).then_some(()));
    county.kill();
    // A copy that stays old: the city is gone before it has given anything back, and nobody but the county's
    // own journal says that it is behind.
    std::fs::remove_dir_all(&data).unwrap();
    support::copy(&backup, &data);
    let county = Process::start(&scene.county);
    let mut admin = scene.admin(&county).await;
    until!(Some(status(&mut admin).await.size).filter(|size| *size > 20));
    city.kill();
    let mut size = status(&mut admin).await.size;
    county.kill();
    if size < 6_021 {
        let county = Process::start(&scene.county);
        let mut agency = scene.agency(&county).await;
        let name = risk("OLD-7").name;
        agency
            .risks
            .get_risk(GetRiskRequest { name })
            .await
            .unwrap();
        let error = agency.submit(risk("FORK")).await.unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::FailedPrecondition, Some(ErrorReason::BehindParent))
        );
        let now = status(&mut scene.admin(&county).await).await;
        assert_eq!(now.health(), Health::ReadOnly);
        assert!(now.health_reason.contains("restored from an old copy"));
        size = now.size;
        county.kill();
    }
    println!("stopped in the middle at {size} of 6021, before that at {held}");

    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut admin = scene.admin(&county).await;
    let now = until!(Some(status(&mut admin).await).filter(|now| now.health() == Health::Serving));
    assert_eq!((&now.origin, now.size), (&before.origin, 6_021));
    assert_eq!(
        now.checkpoint, before.checkpoint,
        "the same log, signed the same"
    );
    let mut agency = scene.agency(&county).await;
    let again = agency.risks.submit_risk(kept("KEPT")).await.unwrap();
    let again = again.into_inner().receipt.unwrap();
    assert_eq!(
        (again.index, again.leaf_hash),
        (first.index, first.leaf_hash)
    );
    agency.submit(risk("AFTER")).await.unwrap();
    let synced = admin.sync().await;
    assert!(synced.complete, "{synced:?}");
    assert_eq!(
        status(&mut admin).await.uplinks[0].state(),
        LinkState::Current
    );
    let mut above = scene.admin(&city).await;
    assert_eq!(
        checkpoint(&mut above, &before.origin).await,
        checkpoint(&mut admin, "").await
    );
    assert!(county.stop().success() && city.stop().success());
    verified(&data);
    verified(&scene.folder("city"));
}

/// `hefu recover` with these arguments: its exit code and what it said.
fn recover(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
    let command = command
        .args(["recover", "--config"])
        .arg(config)
        .args(arguments);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_disks_are_gone_are_built_anew_from_their_parents() {
    let domain = Domain::new();
    domain.grant("[[grant]]\nwho = [\"node/nantong\"]\nmay = [\"replicate\"]\nbrings = [\"*\"]\n");
    let folder = domain.folder.path().to_owned();
    let province = configure(&domain, "jiangsu", &folder.join("province"), None);
    let above = Some(("jiangsu", port(&province)));
    let city = configure(&domain, "nantong", &folder.join("city"), above);
    let above = Some(("nantong", port(&city)));
    let county = configure(&domain, "qidong", &folder.join("county"), above);
    for config in [&province, &city, &county] {
        let text = std::fs::read_to_string(config).unwrap();
        let policy = folder.join("policy.toml").display().to_string();
        let text = text.replace(
            "[reference]\n",
            &format!("[reference]\npolicy = \"{policy}\"\n"),
        );
        std::fs::write(config, text).unwrap();
    }
    let scene = Scene {
        domain,
        city,
        county,
    };
    let above = Process::start(&province);
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut agency = scene.agency(&county).await;
    let first = agency.risks.submit_risk(kept("KEPT")).await.unwrap();
    let first = first.into_inner().receipt.unwrap();
    fill(&mut agency, "R", 5_000).await;
    let mut admin = scene.admin(&county).await;
    assert!(admin.sync().await.complete);
    assert!(scene.admin(&city).await.sync().await.complete);
    let before = status(&mut admin).await;
    // The city is away while the county takes one more in, and then the county's disk is gone.
    city.kill();
    agency.submit(risk("LOST")).await.unwrap();
    county.kill();
    let (data, key) = (scene.folder("county"), scene.folder("backup.key"));
    std::fs::copy(data.join("log.key"), &key).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    let with_key = ["--log-key", key.to_str().unwrap()];

    let (code, said) = recover(&scene.county, &with_key);
    assert_eq!(code, 4, "{said}");
    std::fs::remove_dir_all(&data).unwrap();
    let city = Process::start(&scene.city);
    let (code, said) = recover(&scene.county, &[]);
    assert!(code == 1 && said.contains("--log-key"), "{code} {said}");
    let other = scene.folder("other.key");
    std::fs::copy(&key, &other).unwrap();
    std::fs::write(&other, [7; 32]).unwrap();
    let elsewhere = format!("node.data={}", scene.folder("elsewhere").display());
    let wrong = ["--log-key", other.to_str().unwrap(), "--set", &elsewhere];
    let (code, said) = recover(&scene.county, &wrong);
    assert!(
        code == 1 && said.contains("that this key has signed"),
        "{code} {said}"
    );
    assert!(!scene.folder("elsewhere").join("journal").exists());

    // Killed in the middle, again and again; a node that is started on such a folder takes nothing in.
    let mut sizes = Vec::new();
    for wait in [300, 700, 1_100] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
        let command = command
            .args(["recover", "--config"])
            .arg(&scene.county)
            .args(with_key);
        let mut cut = command.stdout(Stdio::null()).spawn().unwrap();
        until!(data.join("journal").exists().then_some(()));
        tokio::time::sleep(Duration::from_millis(wait)).await;
        cut.kill().unwrap();
        cut.wait().unwrap();
        let found = verify::folder(&data).unwrap();
        // Nothing of the truth is damaged; a state that nothing was written to yet is derived at the next start.
        let derived = |defect: &String| defect.starts_with("derived state");
        assert!(found.defects.iter().all(derived), "{:?}", found.defects);
        sizes.push(found.summary.lines().last().unwrap_or_default().to_owned());
    }
    city.kill();
    let county = Process::start(&scene.county);
    let mut agency = scene.agency(&county).await;
    let now = status(&mut scene.admin(&county).await).await;
    println!("killed three times: {sizes:?}; then {} of 5001", now.size);
    if now.size < 5_001 {
        let error = agency.submit(risk("FORK")).await.unwrap_err();
        assert_eq!(error.reason, Some(ErrorReason::BehindParent));
    }
    county.kill();

    let city = Process::start(&scene.city);
    let json: Vec<_> = with_key
        .iter()
        .copied()
        .chain(["--output", "json"])
        .collect();
    let (code, said) = recover(&scene.county, &json);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["mayBeLostFromIndex"], 5_001);
    assert!(report["mayBeLostSince"].is_string());
    let own = &report["logs"][0];
    assert_eq!(
        (&own["origin"], &own["entries"]),
        (&before.origin.as_str().into(), &5_001.into())
    );
    let (code, said) = recover(&scene.county, &[]);
    assert!(code == 0 && said.contains("may be lost"), "{code} {said}");
    verified(&data);

    let county = Process::start(&scene.county);
    let mut admin = scene.admin(&county).await;
    let now = status(&mut admin).await;
    assert_eq!((&now.origin, now.size), (&before.origin, 5_001));
    assert_eq!(
        now.checkpoint, before.checkpoint,
        "the same log, signed the same"
    );
    let mut agency = scene.agency(&county).await;
    let name = risk("LOST").name;
    let lost = agency
        .risks
        .get_risk(GetRiskRequest { name })
        .await
        .unwrap_err();
    assert_eq!(lost.code(), Code::NotFound);
    let again = agency.risks.submit_risk(kept("KEPT")).await.unwrap();
    let again = again.into_inner().receipt.unwrap();
    assert_eq!(
        (again.index, again.leaf_hash),
        (first.index, first.leaf_hash)
    );
    agency.submit(risk("LOST")).await.unwrap();
    assert!(admin.sync().await.complete);
    assert!(scene.admin(&city).await.sync().await.complete);

    // The city's disk is gone as well: its own log comes back from the province, and the county's.
    city.kill();
    let (data, key) = (scene.folder("city"), scene.folder("city.key"));
    std::fs::copy(data.join("log.key"), &key).unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    let (code, said) = recover(&scene.city, &["--log-key", key.to_str().unwrap()]);
    assert!(code == 0 && said.contains(&before.origin), "{code} {said}");
    verified(&data);
    let city = Process::start(&scene.city);
    let mut at_city = scene.admin(&city).await;
    let held = checkpoint(&mut at_city, &before.origin).await;
    assert_eq!(held, checkpoint(&mut admin, "").await);
    agency.submit(risk("AFTER")).await.unwrap();
    assert!(admin.sync().await.complete && at_city.sync().await.complete);
    let top = checkpoint(&mut scene.admin(&above).await, &before.origin).await;
    assert_eq!(top, checkpoint(&mut admin, "").await);
}
