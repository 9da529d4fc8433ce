//! A node whose program did not know a register, and is upgraded.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::sync::Arc;

use hefu::{
    ledger::{Ledger, Options},
    node::{DataFolder, Stores},
    proto::{
        incident::v1::{ListIncidentsRequest, SubmitIncidentRequest},
        node::v1::GetStatusRequest,
    },
    registers::Registers,
    types::{DivisionTable, RuleTable, SystemClock},
};
use support::{Domain, QIDONG, Running, incident, risk};

async fn incidents(domain: &Domain, node: &Running) -> usize {
    let request = ListIncidentsRequest {
        parent: "agencies/-".to_owned(),
        filter: "event_class = ACCIDENT".to_owned(),
        ..ListIncidentsRequest::default()
    };
    let mut agency = domain.agency(QIDONG, node).await;
    let listed = agency.incidents.list_incidents(request).await.unwrap();
    listed.into_inner().revisions.len()
}

async fn unknown(domain: &Domain, node: &Running) -> i64 {
    let mut admin = domain.admin(node).await;
    let status = admin.node.get_status(GetStatusRequest {}).await.unwrap();
    let children = status.into_inner().children;
    children.iter().map(|child| child.unknown_entries).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_carried_is_decoded_after_the_upgrade() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let county = domain.start("qidong", Some(("nantong", &city))).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    for item in ["I-1", "I-2"] {
        let request = SubmitIncidentRequest {
            incident: Some(incident(item)),
            ..SubmitIncidentRequest::default()
        };
        agency.incidents.submit_incident(request).await.unwrap();
    }
    assert!(domain.admin(&county).await.sync().await.complete);
    let origin = county.ledger.log("").unwrap().origin().to_owned();
    let config = city.stop().await;

    // The city as a program of before: it knows no incidents, and carries them.
    let data = DataFolder::new(&config.node.data);
    std::fs::remove_dir_all(data.state()).unwrap();
    let stores = Stores::open(&config).unwrap();
    let (divisions, rules) = (DivisionTable::builtin(), RuleTable::builtin());
    let older =
        Registers::new(divisions.into(), rules.into()).without(&"incidents".parse().unwrap());
    let ledger = Ledger::open(Options {
        journal: stores.journal,
        state: stores.state,
        rules: Arc::new(older),
        clock: Arc::new(SystemClock),
        trust_domain: config.trust_domain().unwrap(),
        node: config.node_id().unwrap(),
        seed: data.load_seed().unwrap(),
        incarnation: 0,
        head_file: Some(data.head()),
        progress: None,
    });
    let ledger = ledger.await.unwrap();
    let view = ledger.log(&origin).unwrap();
    assert_eq!(
        (view.tree.size(), ledger.unindexed(view.log).unwrap()),
        (3, 2)
    );
    ledger.stop().await;
    drop(ledger);

    // The upgraded program finds entries that it can read now, and derives its state again.
    let city = Running::start(config).await;
    assert_eq!(unknown(&domain, &city).await, 0);
    let view = city.ledger.log(&origin).unwrap();
    assert_eq!(city.ledger.unindexed(view.log).unwrap(), 0);
    drop(view);
    let county_config = county.stop().await;
    assert_eq!(incidents(&domain, &city).await, 2);
    // Once is enough: the next start has nothing to derive.
    let config = city.stop().await;
    let aside = || {
        let items = std::fs::read_dir(&config.node.data).unwrap();
        items.count()
    };
    let before = aside();
    let city = Running::start(config.clone()).await;
    assert_eq!((aside(), incidents(&domain, &city).await), (before, 2));
    drop((city, county_config));
}
