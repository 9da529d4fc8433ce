//! Files that somebody carries.

use bytes::BytesMut;
use futures::stream;

use super::*;
use crate::{
    ledger::Intake,
    replication::courier::{Carried, check, export, import, receive},
};

fn chunks(file: &[u8]) -> impl futures::Stream<Item = Result<Bytes, Refusal>> + Unpin + use<> {
    // Of an odd size: frames lie across chunks.
    let chunks: Vec<_> = file.chunks(701).map(Bytes::copy_from_slice).collect();
    stream::iter(chunks.into_iter().map(Ok))
}

async fn collect(mut from: mpsc::Receiver<Result<Bytes, Refusal>>) -> Vec<u8> {
    let mut file = BytesMut::new();
    while let Some(chunk) = from.recv().await {
        file.extend_from_slice(&chunk.unwrap());
    }
    file.to_vec()
}

async fn exported(node: &Node, max_bytes: u64) -> Vec<u8> {
    let (to, from) = mpsc::channel(2);
    let (ended, file) = tokio::join!(export(&node.board, max_bytes, to), collect(from));
    ended.unwrap();
    file
}

async fn imported(node: &Node, file: &[u8]) -> (Result<Vec<Carried>, Refusal>, Vec<u8>) {
    let ((to, from), mirror) = (mpsc::channel(2), node.mirror());
    tokio::join!(import(&mirror, chunks(file), to), collect(from))
}

/// A child that never reaches its parent.
async fn apart(name: &'static str, parent: &Node) -> Node {
    let node = Node::on(Disk::new(name), parent, false).await;
    lock(&node.wire.as_ref().unwrap().parent.0).take();
    node
}

#[tokio::test]
async fn a_file_with_any_bit_changed_or_cut_anywhere_is_refused_with_the_place() {
    let city = Node::top("nantong").await;
    let county = apart("qidong", &Node::top("nantong").await).await;
    county.submit(0..2).await;
    let file = exported(&county, 0).await;
    let summary = check(chunks(&file)).await.unwrap();
    assert_eq!(summary.logs[&county.origin()], (0, 2));
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refusal = check(chunks(&changed)).await.expect_err("a flipped bit");
        assert_eq!(refusal.reason, Reason::CourierInvalid, "bit {bit}");
        let place: usize = refusal.metadata["byte"].parse().unwrap();
        assert!(place <= bit / 8, "bit {bit}: {refusal}");
    }
    for length in 0..file.len() {
        let refusal = check(chunks(&file[..length])).await.expect_err("a cut");
        assert_eq!(refusal.reason, Reason::CourierInvalid, "{length} bytes");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(check(chunks(&longer)).await.is_err());
    // What a parent takes of a damaged one it has verified: the same file, whole, goes on from there.
    for cut in (0..file.len()).step_by(97) {
        let (refused, receipt) = imported(&city, &file[..cut]).await;
        assert_eq!(refused.unwrap_err().reason, Reason::CourierInvalid);
        assert!(receipt.is_empty());
    }
    let (carried, _) = imported(&city, &file).await;
    assert_eq!(carried.unwrap()[0].after, 2);
    same(&county, &city, &county.origin());
}

#[tokio::test]
async fn many_small_files_bring_as_much_as_a_connection() {
    let (city, spare) = (Node::top("nantong").await, Node::top("nantong").await);
    let county = apart("qidong", &spare).await;
    county.submit(0..5_000).await;
    let mut trips = 0;
    while county.uplink_of(&county.origin()).lag() > 0 {
        let file = exported(&county, 1).await;
        let (carried, receipt) = imported(&city, &file).await;
        assert!(carried.unwrap().iter().all(|log| log.refused.is_none()));
        receive(&county.board, chunks(&receipt)).await.unwrap();
        trips += 1;
        assert!(trips < 10, "every trip brings something");
    }
    assert_eq!(trips, 5, "one batch of 1,024 a trip");
    same(&county, &city, &county.origin());
    let status = county.uplink_of(&county.origin());
    assert_eq!(status.state, LinkState::Current, "{status:?}");
    assert!(status.reason.starts_with("by courier, at"), "{status:?}");
    let child = city.child_of(&county.origin());
    assert_eq!(child.state, LinkState::Current, "{child:?}");
    assert!(child.reason.starts_with("by courier, at"), "{child:?}");
    county.submit(5_000..5_001).await;
    let status = county.uplink_of(&county.origin());
    assert_eq!((status.state, status.lag()), (LinkState::CatchingUp, 1));
    // A restart does not forget how it came.
    let county = county.restart().await;
    let status = county.uplink_of(&county.origin());
    assert!(status.reason.starts_with("by courier, at"), "{status:?}");
}

#[tokio::test]
async fn three_tiers_without_a_wire() {
    let (province, city) = (Node::top("jiangsu").await, Node::top("jiangsu").await);
    let city = apart("nantong", &city).await;
    let county = apart("qidong", &Node::top("nantong").await).await;
    county.submit(0..30).await;
    city.submit(0..3).await;
    for _ in 0..2 {
        let (up, receipt) = imported(&city, &exported(&county, 0).await).await;
        up.unwrap();
        receive(&county.board, chunks(&receipt)).await.unwrap();
        let (up, receipt) = imported(&province, &exported(&city, 0).await).await;
        up.unwrap();
        receive(&city.board, chunks(&receipt)).await.unwrap();
    }
    same(&county, &province, &county.origin());
    same(&city, &province, &city.origin());
    // On the second trip the city's receipt has brought the province's cosignature too.
    let kept = county.ledger.cosignatures(LogNo::OWN).unwrap();
    let by: Vec<_> = kept.iter().map(|c| (c.node.as_str(), c.size)).collect();
    assert_eq!(by, [("jiangsu", 30), ("nantong", 30)]);
}

#[tokio::test]
async fn a_fork_in_a_file_is_kept_as_evidence_and_others_go_on() {
    let city = Node::top("nantong").await;
    let county = apart("qidong", &Node::top("nantong").await).await;
    county.submit(0..3).await;
    let (first, receipt) = imported(&city, &exported(&county, 0).await).await;
    assert_eq!(first.unwrap()[0].after, 3);
    let mut copy = Node::on(Disk::new("qidong"), &Node::top("nantong").await, false).await;
    copy.submit(70..75).await;
    let (carried, _) = imported(&city, &exported(&copy, 0).await).await;
    let carried = carried.unwrap();
    let (reason, _) = carried[0].refused.clone().unwrap();
    assert_eq!(reason, Reason::LogForked.number(), "{carried:?}");
    let view = city.ledger.log(&county.origin()).unwrap();
    assert!(view.quarantined.is_some() && view.tree.size() == 3);
    let other = apart("rugao", &Node::top("nantong").await).await;
    other.submit(0..2).await;
    let (carried, _) = imported(&city, &exported(&other, 0).await).await;
    assert_eq!(carried.unwrap()[0].after, 2);
    // The receipt proves to the copy that it is one.
    let refused = receive(&copy.board, chunks(&receipt)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::BehindParent);
    let intake = copy.ledger.intake().borrow().clone();
    assert!(matches!(intake, Intake::BehindParent(_)), "{intake:?}");
    copy.stop().await;
}

#[tokio::test]
async fn a_file_that_does_not_belong_here_is_refused() {
    let (city, suqian) = (Node::top("nantong").await, Node::top("suqian").await);
    let county = apart("qidong", &Node::top("nantong").await).await;
    county.submit(0..3).await;
    let file = exported(&county, 0).await;
    let (refused, _) = imported(&suqian, &file).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, Reason::CourierMisplaced);
    assert!(
        refused.en.contains("for nantong") && refused.zh.contains("nantong"),
        "{refused}"
    );
    let (carried, receipt) = imported(&city, &file).await;
    carried.unwrap();
    let other = apart("rugao", &Node::top("nantong").await).await;
    let refused = receive(&other.board, chunks(&receipt)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CourierMisplaced);
    // A receipt is no file of batches, nor the other way round.
    let (refused, _) = imported(&city, &receipt).await;
    assert_eq!(refused.unwrap_err().reason, Reason::CourierInvalid);
    let refused = receive(&county.board, chunks(&file)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CourierInvalid);
    let (to, _from) = mpsc::channel(2);
    let refused = export(&city.board, 0, to).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ParentUnavailable);
    // Entries behind a hole.
    receive(&county.board, chunks(&receipt)).await.unwrap();
    county.submit(3..5).await;
    let second = exported(&county, 0).await;
    let empty = Node::top("nantong").await;
    let (carried, _) = imported(&empty, &second).await;
    let carried = carried.unwrap();
    let (reason, message) = carried[0].refused.clone().unwrap();
    assert_eq!(reason, Reason::CourierMisplaced.number());
    assert!(
        message.contains("goes on at entry 3 and 0 are held"),
        "{message}"
    );
    for file in [&file, &second, &second] {
        imported(&empty, file).await.0.unwrap();
    }
    same(&county, &empty, &county.origin());
}
