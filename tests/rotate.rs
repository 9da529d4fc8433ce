//! A county whose key changes as often as it can, killed in the midst of it: it starts again with the key that its
//! journal names, what it signed before still verifies, and its city goes along.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::disallowed_methods
)]

mod support;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hefu::{
    cli::verify,
    ledger::{key_history::KeyHistory, note::Note},
    proto::{
        ledger::v1::{GetCheckpointRequest, GetKeysRequest},
        node::v1::{RotateKeyRequest, RotateKeyResponse},
        risk::v1::{ListRisksRequest, SubmitRiskRequest},
    },
};
use support::{
    Clients, Domain, QIDONG,
    process::{Process, Random, configure, port, times},
    risk,
};

type Checkpoints = Arc<Mutex<Vec<String>>>;

/// Submits until the node is gone; keeps every checkpoint that it was handed.
async fn write(mut clients: Clients, kill: u64, handed: Checkpoints) {
    for n in 0.. {
        let request = SubmitRiskRequest {
            risk: Some(risk(&format!("K{kill}-{n}"))),
            ..Default::default()
        };
        let Ok(answer) = clients.risks.submit_risk(request).await else {
            return;
        };
        let receipt = answer.into_inner().receipt.unwrap();
        handed.lock().unwrap().push(receipt.checkpoint);
    }
}

/// Changes the key until the node is gone; keeps what was answered.
async fn rotate(mut admin: Clients, rotated: Arc<Mutex<Vec<RotateKeyResponse>>>) {
    while let Ok(answer) = admin.node.rotate_key(RotateKeyRequest {}).await {
        rotated.lock().unwrap().push(answer.into_inner());
    }
}

async fn history(admin: &mut Clients) -> KeyHistory {
    let answer = admin
        .ledger
        .get_checkpoint(GetCheckpointRequest::default())
        .await;
    let log = answer.unwrap().into_inner().log.unwrap();
    KeyHistory::told(log.verifier_key.parse().unwrap(), &log.key_changes).unwrap()
}

fn owner_only(path: &Path) -> bool {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

async fn page(clients: &mut Clients, page_token: String) -> Result<String, tonic::Status> {
    let request = ListRisksRequest {
        parent: "agencies/-/risks".to_owned(),
        page_size: 1,
        page_token,
        ..Default::default()
    };
    let answer = clients.risks.list_risks(request).await?;
    Ok(answer.into_inner().next_page_token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_county_that_is_killed_while_its_key_changes_goes_on() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let (kills, seed) = (times("HEFU_KILLS", 8), random.seed());
    let data = domain.folder.path().join("qidong");
    let city_data = domain.folder.path().join("nantong");
    let city_config = configure(&domain, "nantong", &city_data, None);
    let config = configure(
        &domain,
        "qidong",
        &data,
        Some(("nantong", port(&city_config))),
    );
    let city = Process::start(&city_config);
    let (handed, rotated) = (Checkpoints::default(), Arc::new(Mutex::new(Vec::new())));
    let mut county = Process::start(&config);
    let mut token = String::new();
    for kill in 0..kills {
        let clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
        let admin = county.clients(&domain, "admin/operator").await;
        let mut work = tokio::task::JoinSet::new();
        work.spawn(write(clients.clone(), kill, handed.clone()));
        work.spawn(rotate(admin, rotated.clone()));
        let before = (handed.lock().unwrap().len(), rotated.lock().unwrap().len());
        while handed.lock().unwrap().len() < before.0 + 2
            || rotated.lock().unwrap().len() == before.1
        {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(60_000))).await;
        county.kill();
        while work.join_next().await.is_some() {}
        county = Process::start(&config);
        assert!(
            !data.join("log.key.next").exists(),
            "it was promoted, or discarded (seed {seed})"
        );
        assert!(owner_only(&data.join("log.key")) && owner_only(&data.join("token.key")));
        let mut clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
        // A page token of before the kills and the changes goes on.
        token = page(&mut clients, token).await.unwrap();
        let mut admin = county.clients(&domain, "admin/operator").await;
        let keys = history(&mut admin).await;
        for checkpoint in handed.lock().unwrap().iter() {
            let note: Note = checkpoint.parse().unwrap();
            keys.verify(&note)
                .unwrap_or_else(|why| panic!("{why} (seed {seed})"));
        }
        // Every change that was answered is in the history; at most one more was committed and not answered.
        let notes = keys.notes();
        assert!(
            rotated
                .lock()
                .unwrap()
                .iter()
                .all(|answer| notes.contains(&answer.change))
        );
    }
    let mut admin = county.clients(&domain, "admin/operator").await;
    let synced = admin.sync().await;
    assert!(synced.complete, "{synced:?} (seed {seed})");
    let keys = admin
        .ledger
        .get_keys(GetKeysRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut above = city.clients(&domain, "admin/operator").await;
    let origin = keys.origin.clone();
    let held = above
        .ledger
        .get_keys(GetKeysRequest { origin })
        .await
        .unwrap()
        .into_inner();
    let ids = |keys: &[hefu::proto::ledger::v1::LogKey]| {
        keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&keys.keys), ids(&held.keys), "(seed {seed})");
    county.kill();
    city.kill();
    for folder in [data, city_data] {
        let verified = verify::folder(&folder).unwrap();
        assert_eq!(
            verified.defects,
            Vec::<String>::new(),
            "{} (seed {seed})",
            folder.display()
        );
    }
    println!(
        "{kills} kills, {} key changes, {} checkpoints handed out, 0 not believed (seed {seed})",
        keys.keys.len() - 1,
        handed.lock().unwrap().len()
    );
}
