//! Nodes that keep to the protocol.

use super::*;
use crate::ledger::note::VerifierKey;

#[tokio::test]
async fn a_county_brings_its_city_up_to_date() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..3_000).await;
    let uplink = county.uplink.clone().unwrap();
    let mut steps = 0;
    let synced = uplink.sync(LONG, |_| steps += 1).await;
    assert!(synced.complete && steps > 0, "{synced:?}");
    assert_eq!((synced.logs[0].size, synced.logs[0].after), (3_000, 3_000));
    let origin = county.origin();
    same(&county, &city, &origin);
    let status = county.uplink_of(&origin);
    assert_eq!((status.lag(), status.state), (0, LinkState::Current));
    assert!(status.cosigned_time.is_some());
    let child = city.child_of(&origin);
    assert_eq!(
        (child.node.as_str(), child.signed_size, child.size),
        ("qidong", 3_000, 3_000)
    );
    assert_eq!((child.lag(), child.state), (0, LinkState::Current));
    county.submit(3_000..3_001).await;
    county.sync().await;
    same(&county, &city, &origin);
}

#[tokio::test]
async fn the_cosignature_proves_what_the_city_holds() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..5).await;
    county.sync().await;
    let kept = county.ledger.cosignatures(LogNo::OWN).unwrap().remove(0);
    assert_eq!((kept.node.as_str(), kept.size), ("nantong", 5));
    let (note, key): (Note, VerifierKey) = (
        kept.note.parse().unwrap(),
        kept.verifier_key.parse().unwrap(),
    );
    note.verify_cosignature(&key).unwrap();
    let signed = note.verify_log(county.ledger.key().log_key()).unwrap();
    assert_eq!(signed.root, county.ledger.log("").unwrap().tree.root());
}

#[tokio::test]
async fn what_was_cosigned_is_known_after_a_restart() {
    let mut city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    city.stop().await;
    let county = county.restart().await;
    county.submit(10..12).await;
    county.board.met().await;
    let status = county.uplink_of(&county.origin());
    assert_eq!((status.cosigned, status.lag()), (10, 2));
    assert_eq!(status.state, LinkState::Disconnected);
    assert!(status.reason.contains("it is down"), "{}", status.reason);
    let city = city.restart().await;
    let child = city.child_of(&county.origin());
    assert_eq!(
        (child.size, child.heard.is_some()),
        (10, child.state != LinkState::Disconnected)
    );
    county.sync().await;
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn the_provinces_cosignature_reaches_the_county() {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..700).await;
    city.submit(0..30).await;
    let size = |node: &Node, by: &str| {
        let kept = node.ledger.cosignatures(LogNo::OWN).unwrap().into_iter();
        kept.filter(|c| c.node == by)
            .map(|c| c.size)
            .max()
            .unwrap_or(0)
    };
    county
        .until(|n| size(n, "nantong") == 700 && size(n, "jiangsu") == 700)
        .await;
    city.until(|n| size(n, "jiangsu") == 30).await;
    for origin in [county.origin(), city.origin()] {
        same(&city, &province, &origin);
    }
    same(&county, &city, &county.origin());
    // A county that was away learns of it when it comes back.
    let county = county.restart().await;
    county.submit(700..701).await;
    county.until(|n| size(n, "jiangsu") == 701).await;
    let key = province.ledger.key().cosigner_key().to_string();
    let kept = county.ledger.cosignatures(LogNo::OWN).unwrap();
    assert!(
        kept.iter()
            .any(|c| c.node == "jiangsu" && c.verifier_key == key)
    );
}

#[tokio::test]
async fn on_demand_it_connects_only_for_a_sync() {
    let city = Node::top("nantong").await;
    let county = Node::on(Disk::new("qidong"), &city, false).await;
    county.board.met().await;
    county.submit(0..50).await;
    county
        .until(|n| n.uplink_of(&n.origin()).reason.contains("on demand"))
        .await;
    assert_eq!(county.uplink_of(&county.origin()).lag(), 50);
    county.sync().await;
    same(&county, &city, &county.origin());
    county
        .until(|n| n.uplink_of(&n.origin()).state == LinkState::Disconnected)
        .await;
    city.until(|n| n.child_of(&county.origin()).state == LinkState::Disconnected)
        .await;
}

#[tokio::test]
async fn of_two_syncs_at_once_one_leaves_at_once() {
    let city = Node::top("nantong").await;
    let county = Node::on(Disk::new("qidong"), &city, false).await;
    county.submit(0..2_000).await;
    let uplink = county.uplink.clone().unwrap();
    let (first, second) = tokio::join!(uplink.sync(LONG, |_| ()), uplink.sync(LONG, |_| ()));
    let outcomes = [first.outcome, second.outcome];
    assert!(
        outcomes.contains(&Some(SyncOutcome::Complete)),
        "{outcomes:?}"
    );
    assert!(outcomes.contains(&Some(SyncOutcome::Busy)), "{outcomes:?}");
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn a_sync_without_a_parent_says_why_it_timed_out() {
    let mut city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    city.stop().await;
    let uplink = county.uplink.clone().unwrap();
    for (records, reason) in [
        (0..0, "did not answer in time"),
        (0..1, "0 of 1 cosigned in time"),
    ] {
        county.submit(records).await;
        let synced = uplink.sync(Duration::from_millis(20), |_| ()).await;
        assert!(
            !synced.complete && synced.reason.contains(reason),
            "{synced:?}"
        );
        assert!(synced.reason.contains("it is down"), "{synced:?}");
    }
}

#[tokio::test]
async fn a_full_parent_takes_nothing_and_goes_on_later() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    city.ledger.set_intake(Intake::Full);
    county.submit(0..10).await;
    county
        .until(|n| n.uplink_of(&n.origin()).reason.contains("STORAGE_FULL"))
        .await;
    assert_eq!(county.uplink_of(&county.origin()).lag(), 10);
    city.ledger.set_intake(Intake::Open);
    county.sync().await;
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn two_connections_of_one_child_do_no_harm() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    let wire = county.wire.clone().unwrap();
    let options = UplinkOptions {
        mode: Mode::Continuous,
        ..UplinkOptions::default()
    };
    let second = Uplink::new(county.board.clone(), Arc::new(wire), options).unwrap();
    let _second = run(second, &county.shutdown);
    for part in 0..20 {
        county.submit(part * 200..(part + 1) * 200).await;
    }
    county.sync().await;
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn a_relay_joins_small_batches_into_large_ones() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    for item in 0..40 {
        county.submit(item..item + 1).await;
        county.sync().await;
    }
    let view = city.ledger.log(&county.origin()).unwrap();
    let batch = super::batch::cut(&city.ledger, &view, 3, MAX_BATCH_BYTES)
        .unwrap()
        .unwrap();
    assert_eq!(
        (batch.message.entries.len(), batch.checkpoint.size),
        (37, 40)
    );
}
