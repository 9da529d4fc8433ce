//! Nodes that get back from their parent what they have lost.

use super::{restored::replicated, *};
use crate::{
    ledger::{note::NodeKey, rules::Proposal},
    proto::replication::v1::replicate_response::Message as Response,
    types::{Reason, RequestId},
};

/// Enough for several batches.
const MANY: usize = 5_000;

fn proposal(record: &str, request: Option<(RequestId, [u8; 32])>) -> Proposal {
    Proposal {
        name: format!("agencies/qidong-emergency/notes/{record}")
            .parse()
            .unwrap(),
        intent: Intent::Submit(Bytes::from(record.to_owned())),
        submitter: "spiffe://nantong.gov.cn/agency/qidong-emergency".to_owned(),
        request,
        etag: None,
        validate_only: false,
    }
}

fn size(node: &Node) -> u64 {
    node.ledger.log("").unwrap().tree.size()
}

#[tokio::test]
async fn a_restored_child_recovers_what_is_missing_and_goes_on_as_the_same_log() {
    let (city, mut county, old) = replicated(MANY).await;
    let request = (
        "0191d7a2-5b1e-7c3a-9f00-000000000001".parse().unwrap(),
        [7; 32],
    );
    let first = county.ledger.submit(vec![proposal("kept", Some(request))]);
    let first = first.await.unwrap().results.remove(0).unwrap();
    county.sync().await;
    county.stop().await;
    let restored = Node::on(county.disk.copy(old), &city, true).await;
    restored.uplink.clone().unwrap().met().await;
    restored.takes_in().await;
    assert_eq!(restored.origin(), county.origin());
    same(&restored, &city, &restored.origin());
    let status = restored.uplink_of(&restored.origin());
    assert_eq!((status.state, status.lag()), (LinkState::Current, 0));
    // A retry of a request whose entry was recovered gets the first answer.
    let again = restored
        .ledger
        .submit(vec![proposal("kept", Some(request))]);
    let again = again.await.unwrap().results.remove(0).unwrap();
    assert_eq!((again.head, again.leaf_hash), (first.head, first.leaf_hash));
    let reused = restored
        .ledger
        .submit(vec![proposal("other", Some((request.0, [8; 32])))]);
    let refused = reused.await.unwrap().results.remove(0).unwrap_err();
    assert_eq!(refused.reason, Reason::RequestIdReused);
    restored.submit(MANY..MANY + 2).await;
    restored.sync().await;
    same(&restored, &city, &restored.origin());
    // The state of what was recovered is what the journal gives.
    let report = crate::ledger::audit::audit(
        restored.disk.journal.as_ref(),
        Some(restored.disk.state.as_ref()),
        &MemoryState::default(),
        &Carry,
        &mut |_, _| (),
    );
    let report = report.unwrap();
    assert!(report.defects.is_empty(), "{:?}", report.defects);
    assert!(report.logs[&LogNo::OWN].quarantined.is_none());
}

/// A kill leaves whole batches. Whatever comes between, the node takes nothing in until it is whole.
#[tokio::test]
async fn a_recovery_that_is_cut_goes_on_where_it_was() {
    let (city, mut county, old) = replicated(MANY).await;
    county.stop().await;
    let disk = county.disk.copy(old);
    let mut sizes = vec![5];
    while sizes.last() != Some(&(MANY as u64)) {
        let wire = county.wire.clone().unwrap();
        // The greeting, one batch, and the end.
        lock(&wire.breaks).push((usize::MAX, 2));
        let above = Some((wire, city.disk.node));
        let mut restored = Node::start(disk.clone(), Address::default(), above, Mode::Manual).await;
        let held = *sizes.last().unwrap();
        let mut follow = restored.ledger.follow();
        let grown = follow.wait_for(|published| published.logs[&LogNo::OWN].tree.size() > held);
        tokio::time::timeout(LONG, grown).await.unwrap().unwrap();
        restored.stop().await;
        // Without the parent nobody but its own journal tells it that it is behind.
        let alone = disk.open().await;
        sizes.push(alone.log("").unwrap().tree.size());
        let behind = matches!(*alone.intake().borrow(), Intake::BehindParent(_));
        assert_eq!(behind, sizes.last() != Some(&(MANY as u64)));
        if behind {
            let refused = alone.submit(vec![proposal("new", None)]).await;
            let refused = refused.unwrap().results.remove(0).unwrap_err();
            assert_eq!(refused.reason, Reason::BehindParent);
        }
        alone.stop().await;
    }
    assert!(sizes.len() > 2 && sizes.is_sorted(), "{sizes:?}");
    let whole = Node::on(disk, &city, true).await;
    whole.submit(MANY..MANY + 2).await;
    whole.sync().await;
    same(&whole, &city, &whole.origin());
}

/// Runs one recovery against a parent whose batches are changed on their way; then against an honest one.
async fn lied_to(lie: impl Fn(&mut pb::Batch) + Send + 'static, says: &str) {
    let (city, mut county, old) = replicated(40).await;
    county.stop().await;
    let disk = county.disk.copy(old);
    let wire = Wire {
        child: "qidong".parse().unwrap(),
        parent: city.address.clone(),
        breaks: Arc::default(),
        lies: Arc::default(),
    };
    lock(&wire.lies).replace(Box::new(move |message| {
        if let Some(Response::Batch(batch)) = &mut message.message {
            lie(batch);
        }
    }));
    let above = Some((wire.clone(), city.disk.node));
    let restored = Node::start(disk, Address::default(), above, Mode::Continuous).await;
    let origin = restored.origin();
    restored
        .until(|node| node.uplink_of(&origin).state == LinkState::Refused)
        .await;
    let status = restored.uplink_of(&origin);
    assert!(status.reason.contains(says), "{says}: {}", status.reason);
    assert_eq!(size(&restored), 5, "{says}: something was appended");
    assert!(restored.is_behind());
    let refused = restored.ledger.submit(vec![proposal("new", None)]).await;
    let refused = refused.unwrap().results.remove(0).unwrap_err();
    assert_eq!(refused.reason, Reason::BehindParent);
    // Nothing is held against anybody: an honest parent is believed as soon as it is asked.
    lock(&wire.lies).take();
    restored.disk.clock.advance(Duration::from_secs(1));
    restored.sync().await;
    restored.takes_in().await;
    same(&restored, &city, &origin);
    same(&county, &restored, &origin);
}

#[tokio::test]
async fn a_parent_that_gives_back_what_is_wrong_is_refused() {
    let foreign = NodeKey::new(&[9; 32], "nantong.gov.cn/qidong/00000007", "x");
    let resign = move |batch: &mut pb::Batch, entries: &[Bytes]| {
        let note: Note = batch.checkpoint.parse().unwrap();
        let mut tree = crate::ledger::merkle::Tree::default();
        for entry in entries {
            tree.push(crate::ledger::merkle::leaf_hash(entry), |_| ());
        }
        let size = note.checkpoint().size;
        let (origin, root) = (note.checkpoint().origin.clone(), tree.root());
        batch.checkpoint = foreign.sign(&Checkpoint { origin, size, root });
    };
    lied_to(
        |batch| batch.entries[3] = Bytes::from_static(b"made up"),
        "do not hash to the signed root",
    )
    .await;
    lied_to(
        |batch| batch.entries.swap(0, 1),
        "do not hash to the signed root",
    )
    .await;
    lied_to(|batch| drop(batch.entries.pop()), "do not end at size").await;
    lied_to(
        |batch| {
            batch.entries = (0..batch.entries.len())
                .map(|n| Bytes::from(format!("{n}")))
                .collect()
        },
        "do not hash to the signed root",
    )
    .await;
    lied_to(
        move |batch| {
            let entries = batch.entries.clone();
            resign(batch, &entries);
        },
        "bears no signature",
    )
    .await;
    lied_to(
        |batch| batch.checkpoint = "hello".to_owned(),
        "not a signed checkpoint",
    )
    .await;
    lied_to(|batch| batch.entries.clear(), "has no entries").await;
}

/// Batches that were never asked for, and those of another place, change nothing and end nothing.
#[tokio::test]
async fn what_was_not_asked_for_is_not_taken() {
    let (city, county, _) = replicated(40).await;
    let wire = county.wire.clone().unwrap();
    let origin = county.origin();
    let forced = pb::Batch {
        origin: origin.clone(),
        start: 40,
        entries: vec![Bytes::from_static(b"made up")],
        checkpoint: county.ledger.log("").unwrap().note.clone(),
    };
    let mut once = Some(forced);
    lock(&wire.lies).replace(Box::new(move |message| {
        let cosigned = matches!(message.message, Some(Response::Cosigned(_)));
        if let Some(batch) = once.take_if(|_| cosigned) {
            message.message = Some(Response::Batch(batch));
        }
    }));
    county.submit(40..41).await;
    // The batch came in the place of the cosignature, which the next connection tells.
    county
        .until(|node| node.uplink_of(&origin).lag() == 0)
        .await;
    assert_eq!(size(&county), 41);
    same(&county, &city, &origin);
}

/// A node in the middle that was restored takes back its children's logs too: they may be gone.
#[tokio::test]
async fn a_restored_city_takes_back_the_logs_from_below() {
    let province = Node::top("jiangsu").await;
    let mut city = Node::below("nantong", &province).await;
    let mut county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    city.submit(0..3).await;
    city.sync().await;
    let old = city.ledger.published().end;
    county.submit(10..30).await;
    county.sync().await;
    city.sync().await;
    county.stop().await;
    city.stop().await;
    let restored = Node::on(city.disk.copy(old), &province, true).await;
    let origin = county.origin();
    let mut follow = restored.ledger.follow();
    let whole = follow.wait_for(|published| {
        let mut logs = published.logs.values();
        logs.any(|view| view.origin() == origin && view.tree.size() == 30)
    });
    tokio::time::timeout(LONG, whole).await.unwrap().unwrap();
    same(&county, &restored, &origin);
    same(&restored, &province, &origin);
    restored.takes_in().await;
    restored.submit(3..5).await;
    restored.sync().await;
    same(&restored, &province, &restored.origin());
}

/// A node that lost everything believes of its parent's list what signatures bear out, and nothing else.
#[tokio::test]
async fn what_a_parent_says_that_it_holds_is_checked() {
    let (city, county, _) = replicated(40).await;
    let barred = Node::below("barred", &city).await;
    let wire = county.wire.clone().unwrap();
    let (parent, domain) = (
        "nantong".parse().unwrap(),
        "nantong.gov.cn".parse().unwrap(),
    );
    let found = held(&wire, &parent, &domain).await.unwrap();
    assert!(found.refused.is_empty());
    let logs: Vec<_> = found
        .logs
        .iter()
        .map(|log| (log.origin.to_string(), log.size()))
        .collect();
    assert_eq!(logs, [(county.origin(), 40)]);
    assert_eq!(found.logs[0].keys.current(), county.ledger.key().log_key());
    assert!(found.logs[0].time.is_some());
    drop(barred);
    type Change = fn(&mut pb::Welcome);
    let lies: [(Change, &str); 5] = [
        (
            |welcome| welcome.logs[0].size += 1,
            "its size is not the one that is signed",
        ),
        (
            |welcome| welcome.logs[0].cosigned.clear(),
            "its size is not the one that is signed",
        ),
        (
            |welcome| welcome.node = "rugao".to_owned(),
            "it is node rugao",
        ),
        (
            |welcome| {
                let key = NodeKey::new(&[9; 32], &welcome.logs[0].origin, "");
                welcome.logs[0].verifier_key = key.log_key().to_string();
            },
            "bears no signature",
        ),
        (
            |welcome| {
                let key = NodeKey::new(&[9; 32], "x/y/00000001", "nantong.gov.cn/nantong");
                welcome.verifier_key = key.cosigner_key().to_string();
            },
            "bears no signature",
        ),
    ];
    for (lie, says) in lies {
        lock(&wire.lies).replace(Box::new(move |message| {
            if let Some(Response::Welcome(welcome)) = &mut message.message {
                lie(welcome);
            }
        }));
        let error = held(&wire, &parent, &domain).await.unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

/// What the parent has shown counts, even if it has lost it itself since: only what was signed is.
#[tokio::test]
async fn a_parent_that_lost_entries_too_does_not_open_the_intake() {
    let (mut city, mut county, old) = replicated(40).await;
    county.stop().await;
    let wire = county.wire.clone().unwrap();
    lock(&wire.lies).replace(Box::new(|message| {
        if matches!(message.message, Some(Response::Batch(_))) {
            message.message = None;
        }
    }));
    let disk = county.disk.copy(old);
    let above = Some((wire.clone(), city.disk.node));
    let mut restored = Node::start(disk.clone(), Address::default(), above.clone(), true).await;
    restored.board.met().await;
    assert!(restored.is_behind());
    restored.stop().await;
    lock(&wire.lies).take();
    // The city begins anew: it takes what there is, and neither of the two has the rest.
    city.stop().await;
    let city = Node::start(Disk::new("nantong"), city.address.clone(), None, true).await;
    let restored = Node::start(disk, Address::default(), above, true).await;
    restored.sync().await;
    same(&restored, &city, &restored.origin());
    assert!(restored.is_behind());
}
