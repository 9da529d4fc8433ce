//! The ways out of a quarantine: the log goes on as it was, or its node with a new one.

use super::{
    dishonest::{Forger, cosigned, entries, hello, key_of, refused, scene},
    *,
};
use crate::proto::{
    error::v1::ErrorReason,
    ledger::v1::{self as ledger_pb, ResolutionAction},
    replication::v1::{
        replicate_request::Message as Request, replicate_response::Message as Response,
    },
};

fn decision(action: ResolutionAction) -> ledger_pb::Resolution {
    ledger_pb::Resolution {
        action: action.into(),
        reason: "looked into".to_owned(),
        operator: "spiffe://nantong.gov.cn/admin/operator".to_owned(),
        ..Default::default()
    }
}

/// A forger whose log is quarantined for a fork.
async fn quarantined() -> (Node, LogNo) {
    let (city, mut forger) = scene().await;
    let offer = forger.offer(&entries(100..110));
    let asked = Request::Offer(pb::Offer { log: Some(offer) });
    assert_eq!(refused(&forger.ask(asked).await).0, ErrorReason::LogForked);
    let view = city.ledger.log(forger.key.log_key().name()).unwrap();
    assert!(view.quarantined.is_some());
    (city, view.log)
}

#[tokio::test]
async fn a_log_that_agrees_goes_on_and_one_that_does_not_is_quarantined_again() {
    let (city, log) = quarantined().await;
    assert!(
        city.ledger
            .resolve(log, decision(ResolutionAction::Resume))
            .await
            .unwrap()
    );
    assert!(
        !city
            .ledger
            .resolve(log, decision(ResolutionAction::Resume))
            .await
            .unwrap(),
        "there is nothing to resolve any more"
    );
    // What the city holds is what the log goes on from.
    let (mut forger, answer) = Forger::connect(&city, entries(0..20)).await;
    assert!(matches!(answer, Response::Welcome(_)));
    let batch = forger.batch(10..20);
    assert_eq!(cosigned(&forger.send(batch).await), 20);
    // The decision was about that contradiction, not about the next.
    let (_, _) = Forger::connect(&city, entries(100..115)).await;
    let view = city.ledger.published().logs[&log].clone();
    assert!(view.quarantined.is_some() && view.tree.size() == 20);
    let numbers = city.ledger.evidence(log).unwrap();
    let numbers: Vec<_> = numbers.iter().map(|evidence| evidence.number).collect();
    assert_eq!(numbers, [1, 2]);

    // A restart knows it all.
    let mut city = city;
    city.stop().await;
    let again = city.disk.open().await;
    assert!(again.published().logs[&log].quarantined.is_some());
    assert!(
        again
            .resolve(log, decision(ResolutionAction::Resume))
            .await
            .unwrap()
    );
    again.stop().await;
    let again = city.disk.open().await;
    let view = again.published().logs[&log].clone();
    assert_eq!(
        (view.quarantined.clone(), view.closed.clone()),
        (None, None)
    );
    let held = again.resolution(log).unwrap().unwrap();
    assert_eq!((held.evidence, held.size), (2, 20));
}

#[tokio::test]
async fn a_node_goes_on_with_a_new_log_once_the_former_is_closed() {
    let (city, log) = quarantined().await;
    // A new log is no way around a quarantine.
    let link = || {
        join(
            city.mirror(),
            "qidong".parse().unwrap(),
            usize::MAX,
            usize::MAX,
        )
    };
    let next = |incarnation: &str| {
        let origin = format!("nantong.gov.cn/qidong/{incarnation}");
        crate::ledger::note::NodeKey::new(&[1; 32], &origin, "nantong.gov.cn/qidong")
    };
    let mut forger = Forger {
        link: link(),
        key: next("0000000a"),
        log: entries(0..5),
    };
    let offer = forger.offer(&entries(0..5));
    let _ = forger.ask(hello(vec![offer.clone()])).await;
    assert!(city.ledger.log(&offer.origin).is_none());

    assert!(
        city.ledger
            .resolve(log, decision(ResolutionAction::Close))
            .await
            .unwrap()
    );
    forger.link = link();
    assert!(matches!(
        forger.ask(hello(vec![offer.clone()])).await,
        Response::Welcome(_)
    ));
    let batch = forger.batch(0..5);
    assert_eq!(cosigned(&forger.send(batch).await), 5);
    // The former one stays as it is, for ever, and says so.
    let (_, _) = Forger::connect(&city, entries(0..20)).await;
    let former = city.child_of(key_of("qidong", 1).log_key().name());
    assert_eq!((former.state, former.size), (LinkState::Closed, 10));
    let mut city = city;
    city.stop().await;
    let again = city.disk.open().await;
    assert!(again.published().logs[&log].closed.is_some());
}
