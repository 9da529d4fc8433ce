//! Nodes that were restored from old copies.

use super::*;

pub(super) async fn replicated(records: usize) -> (Node, Node, Position) {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..5).await;
    let old = county.ledger.published().end;
    county.submit(5..records).await;
    county.sync().await;
    (city, county, old)
}

#[tokio::test]
async fn intake_opens_again_once_the_log_fits() {
    let (mut city, county, _) = replicated(10).await;
    city.stop().await;
    county
        .ledger
        .set_intake(Intake::BehindParent(String::new()));
    let city = city.restart().await;
    county.takes_in().await;
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn a_restored_child_that_grew_is_found_out_and_others_go_on() {
    let (city, mut county, old) = replicated(10).await;
    let other = Node::below("rugao", &city).await;
    county.stop().await;
    let mut away = Node::on(county.disk.copy(old), &Node::top("nantong").await, false).await;
    away.submit(50..90).await;
    away.stop().await;
    let forked = Node::on(away.disk.clone(), &city, true).await;
    let origin = forked.origin();
    city.until(|n| n.child_of(&origin).state == LinkState::Quarantined)
        .await;
    forked
        .until(|n| n.uplink_of(&origin).state == LinkState::Quarantined)
        .await;
    assert!(forked.is_behind());
    let view = city.ledger.log(&origin).unwrap();
    assert_eq!(view.tree.size(), 10);
    let evidence = city
        .ledger
        .state()
        .get(&crate::ledger::keys::evidence(view.log));
    let evidence = evidence.unwrap().unwrap();
    let evidence: crate::proto::ledger::v1::Evidence = prost::Message::decode(evidence).unwrap();
    let (held, offered): (Note, Note) = (
        evidence.held.parse().unwrap(),
        evidence.offered.parse().unwrap(),
    );
    let held = held.verify_log(view.keys.current()).unwrap();
    let offered = offered.verify_log(view.keys.current()).unwrap();
    assert_eq!((held.size, offered.size), (10, 10));
    assert_ne!(held.root, offered.root);
    other.submit(0..10).await;
    other.sync().await;
    same(&other, &city, &other.origin());
    // It does not forget, whether it meets its parent again or not.
    let mut forked = forked;
    forked.stop().await;
    let alone = forked.disk.open().await;
    let intake = alone.intake().borrow().clone();
    assert!(matches!(intake, Intake::BehindParent(_)), "{intake:?}");
}

#[tokio::test]
async fn a_parent_that_lost_entries_gets_them_again() {
    let (mut city, county, _) = replicated(10).await;
    let early = city.ledger.published();
    county.submit(10..20).await;
    county.sync().await;
    city.stop().await;
    for lost in [city.disk.copy(early.end), Disk::new("nantong")] {
        let mut city = Node::start(lost, city.address.clone(), None, Mode::Continuous).await;
        county.sync().await;
        // What was cosigned before the loss counts as cosigned; the entries themselves are on their way.
        let (origin, mut follow) = (county.origin(), city.ledger.follow());
        while city
            .ledger
            .log(&origin)
            .is_none_or(|view| view.tree.size() < 20)
        {
            follow.changed().await.unwrap();
        }
        same(&county, &city, &origin);
        city.stop().await;
    }
}

#[tokio::test]
async fn a_restored_parent_goes_on_with_its_childrens_logs() {
    let (city, county, _) = replicated(10).await;
    city.ledger.set_intake(Intake::BehindParent(String::new()));
    county.submit(10..20).await;
    county.sync().await;
    same(&county, &city, &county.origin());
}
