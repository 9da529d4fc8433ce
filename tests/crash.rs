//! kill -9 under load: what was acknowledged is there, whatever else is not.
//!
//! `HEFU_KILLS=2000 cargo test --release --test crash -- --nocapture` runs it longer.

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
    sync::{Arc, Mutex},
    time::Duration,
};

use hefu::{
    cli::verify,
    proto::{
        ledger::v1::GetInclusionProofRequest,
        risk::v1::{GetRiskRequest, SubmitRiskRequest, SubmitRisksRequest},
        r#type::v1::{Outcome, Receipt},
    },
};
use support::{
    Clients, Domain, QIDONG,
    process::{Process, Random, configure, port, times},
    risk,
};
use tonic::Code;

/// Writers at once.
const WRITERS: usize = 4;
/// Of many acknowledgements, those of the newest kills are looked at again one by one.
const LOOKED_AT: usize = 200;

#[derive(Clone)]
struct Acknowledged {
    request: SubmitRiskRequest,
    receipt: Receipt,
}

type Acks = Arc<Mutex<Vec<Acknowledged>>>;

/// Submits until the node is gone; keeps what it acknowledged.
async fn write(mut clients: Clients, kill: u64, writer: usize, acks: Acks) {
    for n in 0.. {
        let request = SubmitRiskRequest {
            risk: Some(risk(&format!("K{kill}-{writer}-{n}"))),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        match clients.risks.submit_risk(request.clone()).await {
            Ok(answer) => {
                let receipt = answer.into_inner().receipt.unwrap();
                acks.lock().unwrap().push(Acknowledged { request, receipt });
            }
            Err(_) => return,
        }
    }
}

/// Streams lists beside the single submits.
async fn write_lists(mut clients: Clients, kill: u64) {
    for n in 0.. {
        let rows = (0..50)
            .map(|row| risk(&format!("L{kill}-{n}-{row}")))
            .collect();
        let message = SubmitRisksRequest {
            risks: rows,
            parent: format!("agencies/{QIDONG}/risks"),
            ..Default::default()
        };
        let stream = futures::stream::iter([message]);
        let Ok(answers) = clients.risks.submit_risks(stream).await else {
            return;
        };
        let mut answers = answers.into_inner();
        while let Ok(Some(answer)) = answers.message().await {
            assert!(
                answer
                    .rows
                    .iter()
                    .all(|row| row.outcome() == Outcome::Created)
            );
        }
    }
}

/// Every acknowledged entry is where its receipt says, and a retry gets that receipt again.
async fn look(clients: &mut Clients, acks: &[Acknowledged]) {
    for ack in acks {
        let index = ack.receipt.index;
        let request = GetInclusionProofRequest {
            index,
            ..Default::default()
        };
        let proof = clients
            .ledger
            .get_inclusion_proof(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(proof.leaf_hash, ack.receipt.leaf_hash, "index {index}");
        let name = ack.request.risk.as_ref().unwrap().name.clone();
        clients
            .risks
            .get_risk(GetRiskRequest { name })
            .await
            .unwrap();
        let again = clients
            .risks
            .submit_risk(ack.request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(again.receipt.unwrap().index, index);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_county_that_is_killed_has_everything_that_it_acknowledged() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let (kills, seed) = (times("HEFU_KILLS", 50), random.seed());
    let city_config = configure(
        &domain,
        "nantong",
        &domain.folder.path().join("nantong"),
        None,
    );
    let data = domain.folder.path().join("qidong");
    let up = Some(("nantong", port(&city_config)));
    let config = configure(&domain, "qidong", &data, up);
    let city = Process::start(&city_config);
    let acks = Acks::default();
    let mut county = Process::start(&config);
    for kill in 0..kills {
        let clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
        let mut work = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            work.spawn(write(clients.clone(), kill, writer, acks.clone()));
        }
        work.spawn(write_lists(clients.clone(), kill));
        // Until something was acknowledged, and then a random moment longer.
        let before = acks.lock().unwrap().len();
        while acks.lock().unwrap().len() == before {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_micros(random.below(150_000))).await;
        county.kill();
        while work.join_next().await.is_some() {}
        county = Process::start(&config);
        let mut clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
        let newest = acks.lock().unwrap().clone();
        look(
            &mut clients,
            &newest[newest.len().saturating_sub(LOOKED_AT)..],
        )
        .await;
    }
    let mut clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
    let all = acks.lock().unwrap().clone();
    let step = (all.len() / 2_000).max(1);
    let some: Vec<_> = all.iter().step_by(step).cloned().collect();
    look(&mut clients, &some).await;
    let synced = county.clients(&domain, "admin/operator").await.sync().await;
    assert!(synced.complete, "{synced:?} (seed {seed})");
    county.kill();
    city.kill();
    for folder in [data, domain.folder.path().join("nantong")] {
        let verified = verify::folder(&folder).unwrap();
        assert_eq!(
            verified.defects,
            Vec::<String>::new(),
            "{} (seed {seed})",
            folder.display()
        );
    }
    println!(
        "county: {kills} kills, {} acknowledged, 0 missing (seed {seed})",
        all.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_city_that_is_killed_has_everything_that_it_cosigned() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let (kills, seed) = (times("HEFU_KILLS", 50), random.seed());
    let city_data = domain.folder.path().join("nantong");
    let city_config = configure(&domain, "nantong", &city_data, None);
    let up = Some(("nantong", port(&city_config)));
    let data = domain.folder.path().join("qidong");
    let config = configure(&domain, "qidong", &data, up);
    let mut city = Process::start(&city_config);
    let county = Process::start(&config);
    let clients = county.clients(&domain, &format!("agency/{QIDONG}")).await;
    let (acks, mut operator) = (
        Acks::default(),
        county.clients(&domain, "admin/operator").await,
    );
    let writing = tokio::spawn(write(clients, 0, 0, acks.clone()));
    let mut cosigned = 0;
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_micros(random.below(150_000))).await;
        let status = hefu::proto::node::v1::GetStatusRequest {};
        let status = operator.node.get_status(status).await.unwrap().into_inner();
        cosigned = cosigned.max(status.uplinks[0].cosigned_size);
        city.kill();
        city = Process::start(&city_config);
        let mut above = city.clients(&domain, "admin/operator").await;
        let request = hefu::proto::ledger::v1::GetCheckpointRequest {
            origin: status.origin,
        };
        match above.ledger.get_checkpoint(request).await {
            Ok(answer) => {
                let held = answer.into_inner().log.unwrap().size;
                assert!(
                    held >= cosigned,
                    "{held} held, {cosigned} cosigned (seed {seed})"
                );
            }
            Err(status) => assert_eq!((status.code(), cosigned), (Code::NotFound, 0)),
        }
    }
    writing.abort();
    let synced = operator.sync().await;
    assert!(synced.complete, "{synced:?} (seed {seed})");
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
    println!("city: {kills} kills, {cosigned} cosigned at the last look, 0 missing (seed {seed})");
}
