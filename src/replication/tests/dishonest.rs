//! Children that do not keep to the protocol. Nothing of theirs is accepted, what contradicts is kept,
//! and other logs go on.

use super::*;
use crate::{
    ledger::note::NodeKey,
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            replicate_request::Message as Request, replicate_response::Message as Response,
        },
    },
};

/// A child that sends what the test says. Its log is its own to forge.
pub(super) struct Forger {
    pub link: Link,
    pub key: NodeKey,
    pub log: Vec<Bytes>,
}

pub(super) fn entries(numbers: std::ops::Range<usize>) -> Vec<Bytes> {
    numbers.map(|n| Bytes::from(format!("entry {n}"))).collect()
}

pub(super) fn key_of(node: &str, seed: u8) -> NodeKey {
    let (origin, name) = (
        format!("nantong.gov.cn/{node}/00000009"),
        format!("nantong.gov.cn/{node}"),
    );
    NodeKey::new(&[seed; 32], &origin, &name)
}

impl Forger {
    /// Connects as `qidong`, and offers its log as it is.
    pub async fn connect(parent: &Node, log: Vec<Bytes>) -> (Self, Response) {
        let link = join(
            parent.mirror(),
            "qidong".parse().unwrap(),
            usize::MAX,
            usize::MAX,
        );
        let mut forger = Self {
            link,
            key: key_of("qidong", 1),
            log,
        };
        let offer = forger.offer(&forger.log);
        let answer = forger.ask(hello(vec![offer])).await;
        (forger, answer)
    }

    pub fn note(&self, entries: &[Bytes]) -> String {
        let mut tree = crate::ledger::merkle::Tree::default();
        for entry in entries {
            tree.push(crate::ledger::merkle::leaf_hash(entry), |_| ());
        }
        let origin = self.key.log_key().name().to_owned();
        self.key.sign(&Checkpoint {
            origin,
            size: tree.size(),
            root: tree.root(),
        })
    }

    pub fn offer(&self, entries: &[Bytes]) -> pb::LogOffer {
        pb::LogOffer {
            origin: self.key.log_key().name().to_owned(),
            verifier_key: self.key.log_key().to_string(),
            checkpoint: self.note(entries),
        }
    }

    /// The batch of these entries of its log, as an honest child would send it.
    pub fn batch(&self, range: std::ops::Range<usize>) -> pb::Batch {
        pb::Batch {
            origin: self.key.log_key().name().to_owned(),
            start: range.start as u64,
            entries: self.log[range.clone()].to_vec(),
            checkpoint: self.note(&self.log[..range.end]),
        }
    }

    pub async fn ask(&mut self, message: Request) -> Response {
        let message = Some(message);
        self.link
            .up
            .send(pb::ReplicateRequest { message })
            .await
            .unwrap();
        self.hear().await.unwrap()
    }

    async fn hear(&mut self) -> Result<Response, LinkError> {
        let heard = tokio::time::timeout(LONG, self.link.down.next()).await;
        heard
            .unwrap()
            .unwrap()
            .map(|response| response.message.unwrap())
    }

    pub async fn send(&mut self, batch: pb::Batch) -> Response {
        self.ask(Request::Batch(batch)).await
    }
}

pub(super) fn hello(logs: Vec<pb::LogOffer>) -> Request {
    Request::Hello(pb::Hello {
        version_min: 1,
        version_max: 1,
        logs,
        recover: false,
    })
}

#[track_caller]
pub(super) fn refused(answer: &Response) -> (ErrorReason, u64) {
    let Response::Refused(refused) = answer else {
        panic!("{answer:?}")
    };
    assert!(!refused.message.is_empty());
    (refused.reason(), refused.size)
}

#[track_caller]
pub(super) fn cosigned(answer: &Response) -> u64 {
    let Response::Cosigned(cosigned) = answer else {
        panic!("{answer:?}")
    };
    cosigned.size
}

fn held(parent: &Node, forger: &Forger) -> (u64, bool) {
    let view = parent.ledger.log(forger.key.log_key().name()).unwrap();
    (view.tree.size(), view.quarantined.is_some())
}

/// A forger whose first ten entries the city holds.
pub(super) async fn scene() -> (Node, Forger) {
    let city = Node::top("nantong").await;
    let (mut forger, answer) = Forger::connect(&city, entries(0..20)).await;
    assert!(matches!(answer, Response::Welcome(_)));
    let batch = forger.batch(0..10);
    assert_eq!(cosigned(&forger.send(batch).await), 10);
    (city, forger)
}

/// Another child replicates as if nothing had happened.
async fn others_go_on(city: &Node) {
    let other = Node::below("rugao", city).await;
    other.submit(0..10).await;
    other.sync().await;
    same(&other, city, &other.origin());
}

#[tokio::test]
async fn a_rewritten_log_is_quarantined() {
    let (city, mut forger) = scene().await;
    forger.log[3] = Bytes::from_static(b"rewritten");
    let batch = forger.batch(10..12);
    assert_eq!(refused(&forger.send(batch).await).0, ErrorReason::LogForked);
    assert_eq!(held(&city, &forger), (10, true));
    // A quarantine stays, for the honest continuation too.
    forger.log[3] = entries(3..4).remove(0);
    let batch = forger.batch(10..12);
    assert_eq!(refused(&forger.send(batch).await).0, ErrorReason::LogForked);
    let (forger, answer) = Forger::connect(&city, entries(0..20)).await;
    assert!(matches!(answer, Response::Welcome(welcome) if welcome.logs.is_empty()));
    assert_eq!(held(&city, &forger), (10, true));
    assert_eq!(
        city.child_of(forger.key.log_key().name()).state,
        LinkState::Quarantined
    );
    others_go_on(&city).await;
}

#[tokio::test]
async fn a_fork_that_is_offered_is_quarantined() {
    let (city, _) = scene().await;
    let (mut forger, answer) = Forger::connect(&city, entries(1..8)).await;
    assert!(matches!(answer, Response::Welcome(welcome) if welcome.logs.is_empty()));
    assert_eq!(
        refused(&forger.hear().await.unwrap()).0,
        ErrorReason::LogForked
    );
    assert_eq!(held(&city, &forger), (10, true));
    others_go_on(&city).await;
}

#[tokio::test]
async fn a_truncated_log_that_grew_again_is_quarantined() {
    let (city, _) = scene().await;
    let mut log = entries(0..5);
    log.extend(entries(100..120));
    let (mut forger, _) = Forger::connect(&city, log).await;
    let batch = forger.batch(10..25);
    assert_eq!(refused(&forger.send(batch).await).0, ErrorReason::LogForked);
    assert_eq!(held(&city, &forger), (10, true));
    others_go_on(&city).await;
}

#[tokio::test]
async fn a_shorter_copy_is_told_where_the_parent_stands() {
    let (city, _) = scene().await;
    let (forger, answer) = Forger::connect(&city, entries(0..5)).await;
    let Response::Welcome(welcome) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(welcome.logs[0].size, 10);
    let note: Note = welcome.logs[0].cosigned.parse().unwrap();
    assert_eq!(note.verify_log(forger.key.log_key()).unwrap().size, 10);
    assert_eq!(held(&city, &forger), (10, false));
}

#[tokio::test]
async fn reordered_entries_are_quarantined() {
    let (city, mut forger) = scene().await;
    let mut batch = forger.batch(10..14);
    batch.entries.swap(0, 1);
    assert_eq!(refused(&forger.send(batch).await).0, ErrorReason::LogForked);
    assert_eq!(held(&city, &forger), (10, true));
    others_go_on(&city).await;
}

#[tokio::test]
async fn gaps_and_replays_are_told_where_to_go_on() {
    let (city, mut forger) = scene().await;
    for batch in [
        forger.batch(12..15),
        forger.batch(0..10),
        forger.batch(4..8),
    ] {
        let answer = forger.send(batch).await;
        assert_eq!(refused(&answer), (ErrorReason::IndexOutOfRange, 10));
    }
    assert_eq!(held(&city, &forger), (10, false));
    let batch = forger.batch(10..20);
    assert_eq!(cosigned(&forger.send(batch).await), 20);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_held_against_nobody() {
    let (city, mut forger) = scene().await;
    let good = forger.batch(10..14);
    let stranger = Forger {
        key: key_of("qidong", 2),
        log: forger.log.clone(),
        ..scene().await.1
    };
    let mut wrong_signature = good.clone();
    wrong_signature.checkpoint = stranger.note(&forger.log[..14]);
    let mut other_size = good.clone();
    other_size.checkpoint = forger.note(&forger.log[..15]);
    let mut no_note = good.clone();
    no_note.checkpoint = "hello".to_owned();
    let mut long_note = good.clone();
    long_note
        .checkpoint
        .push_str(&"\u{2014} x AAAAAAAA\n".repeat(100));
    let mut wraps = good.clone();
    wraps.start = u64::MAX;
    for batch in [wrong_signature, other_size, no_note, long_note, wraps] {
        assert_eq!(
            refused(&forger.send(batch).await).0,
            ErrorReason::CheckpointInvalid
        );
    }
    let mut wrong_origin = good.clone();
    wrong_origin.origin = "nantong.gov.cn/rugao/00000001".to_owned();
    assert_eq!(
        refused(&forger.send(wrong_origin).await).0,
        ErrorReason::LogNotFound
    );
    let mut empty = good.clone();
    empty.entries.clear();
    assert_eq!(
        refused(&forger.send(empty).await).0,
        ErrorReason::RequestMalformed
    );
    assert_eq!(held(&city, &forger), (10, false));
    assert_eq!(cosigned(&forger.send(good).await), 14);
}

#[tokio::test]
async fn batches_keep_to_their_limits() {
    let city = Node::top("nantong").await;
    let (mut forger, _) = Forger::connect(&city, entries(0..1_100)).await;
    let batch = forger.batch(0..1_025);
    assert_eq!(
        refused(&forger.send(batch).await).0,
        ErrorReason::MessageTooLarge
    );
    let large = || Bytes::from(vec![7; MAX_BATCH_BYTES / 2 + 1]);
    forger.log = vec![large(), large(), Bytes::from(vec![7; MAX_BATCH_BYTES + 1])];
    let batch = forger.batch(0..2);
    assert_eq!(
        refused(&forger.send(batch).await).0,
        ErrorReason::MessageTooLarge
    );
    for at in 0..3 {
        let batch = forger.batch(at..at + 1);
        assert_eq!(cosigned(&forger.send(batch).await), at as u64 + 1);
    }
}

#[tokio::test]
async fn the_first_log_must_be_the_childs_own() {
    let city = Node::top("nantong").await;
    let (mut forger, _) = Forger::connect(&city, entries(0..1)).await;
    forger.link = join(
        city.mirror(),
        "rugao".parse().unwrap(),
        usize::MAX,
        usize::MAX,
    );
    let offer = forger.offer(&forger.log);
    let message = Some(hello(vec![offer]));
    forger
        .link
        .up
        .send(pb::ReplicateRequest { message })
        .await
        .unwrap();
    let error = forger.hear().await.unwrap_err();
    assert!(
        error.to_string().contains("must be the child's own"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unknown_protocol_version_is_refused() {
    let city = Node::top("nantong").await;
    let (mut forger, _) = Forger::connect(&city, entries(0..1)).await;
    forger.link = join(
        city.mirror(),
        "qidong".parse().unwrap(),
        usize::MAX,
        usize::MAX,
    );
    let logs = vec![forger.offer(&forger.log)];
    let message = Some(Request::Hello(pb::Hello {
        version_min: 2,
        version_max: 3,
        logs,
        recover: false,
    }));
    forger
        .link
        .up
        .send(pb::ReplicateRequest { message })
        .await
        .unwrap();
    let error = forger.hear().await.unwrap_err();
    assert!(
        error.to_string().contains("PROTOCOL_UNSUPPORTED"),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_brings_logs_of_others() {
    let (city, mut forger) = scene().await;
    let rugao = Node::below("rugao", &city).await;
    rugao.sync().await;
    let offer = |node: &str, seed: u8| {
        let key = key_of(node, seed);
        let fake = Forger {
            key,
            log: Vec::new(),
            link: join_nobody(),
        };
        fake.offer(&[])
    };
    let mut foreign = offer("haian", 5);
    foreign.origin = "wuxi.gov.cn/haian/00000009".to_owned();
    let mut known = offer("x", 6);
    known.origin = rugao.origin();
    known.verifier_key = NodeKey::new(&[9; 32], &rugao.origin(), "x")
        .log_key()
        .to_string();
    known.checkpoint = String::new();
    let cases = [
        (offer("rugao", 3), ErrorReason::CheckpointInvalid),
        (offer("nantong", 4), ErrorReason::CheckpointInvalid),
        (offer("barred", 2), ErrorReason::MethodNotAllowed),
        (offer("qidong", 8), ErrorReason::LogForked),
        (foreign, ErrorReason::CheckpointInvalid),
        (known, ErrorReason::LogForked),
    ];
    for (offer, reason) in cases {
        let log = Some(offer);
        let answer = forger.ask(Request::Offer(pb::Offer { log })).await;
        assert_eq!(refused(&answer).0, reason, "{answer:?}");
    }
    // One that is known nowhere may be below it.
    let log = Some(offer("lvsi", 7));
    let answer = forger.ask(Request::Offer(pb::Offer { log })).await;
    assert!(matches!(answer, Response::Welcome(_)), "{answer:?}");
}

/// A child that writes in the name of another node's agency is refused, and nothing of it is stored; that
/// it could be an error of the parent's table is why it may go on once the entry is in order.
#[tokio::test]
async fn entries_of_agencies_that_lie_elsewhere_are_refused() {
    let (city, mut forger) = scene().await;
    let entry = |agency: &str| {
        let name = format!("agencies/{agency}/risks/R-1");
        let entry = crate::proto::ledger::v1::Entry {
            name,
            ..Default::default()
        };
        Bytes::from(prost::Message::encode_to_vec(&entry))
    };
    forger.log[12] = entry("here");
    forger.log[15] = entry("elsewhere");
    let answer = forger.send(forger.batch(10..20)).await;
    assert_eq!(refused(&answer).0, ErrorReason::OriginForged);
    let Response::Refused(refused) = &answer else {
        unreachable!()
    };
    assert!(refused.message.contains("entry 15 is of elsewhere"));
    assert_eq!(held(&city, &forger), (10, false));
    assert_eq!(cosigned(&forger.send(forger.batch(10..15)).await), 15);
    others_go_on(&city).await;
}

fn join_nobody() -> Link {
    Link {
        up: mpsc::channel(1).0,
        down: futures::stream::pending().boxed(),
    }
}

#[tokio::test]
async fn a_relay_that_spoils_entries_does_not_quarantine_their_origin() {
    let (city, mut forger) = scene().await;
    let (own, below) = (key_of("qidong", 1), key_of("lvsi", 7));
    forger.key = below;
    forger.log = entries(0..6);
    let log = Some(forger.offer(&forger.log));
    assert!(matches!(
        forger.ask(Request::Offer(pb::Offer { log })).await,
        Response::Welcome(_)
    ));
    let mut spoilt = forger.batch(0..4);
    spoilt.entries[2] = Bytes::from_static(b"spoilt");
    assert_eq!(
        refused(&forger.send(spoilt).await).0,
        ErrorReason::CheckpointInvalid
    );
    assert_eq!(held(&city, &forger), (0, false));
    let batch = forger.batch(0..6);
    assert_eq!(cosigned(&forger.send(batch).await), 6);
    // What the origin itself has signed twice is another matter, whoever brings it.
    forger.log = entries(50..54);
    let log = Some(forger.offer(&forger.log));
    let answer = forger.ask(Request::Offer(pb::Offer { log })).await;
    assert_eq!(refused(&answer).0, ErrorReason::LogForked);
    assert_eq!(held(&city, &forger), (6, true));
    forger.key = own;
    forger.log = entries(0..20);
    let batch = forger.batch(10..20);
    assert_eq!(cosigned(&forger.send(batch).await), 20);
}
