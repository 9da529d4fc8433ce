//! Key changes that nobody may believe, and what becomes of who says them.

use super::*;
use crate::{
    ledger::{key_change::KeyChange, note::NodeKey},
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            replicate_request::Message as Request, replicate_response::Message as Response,
        },
    },
};

/// A child that says what the test wants of its keys.
struct Forger {
    link: Link,
    log: Vec<Bytes>,
}

const ORIGIN: &str = "nantong.gov.cn/qidong/00000009";

fn key(seed: u8) -> NodeKey {
    NodeKey::new(&[seed; 32], ORIGIN, "nantong.gov.cn/qidong")
}

fn entries(count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|n| Bytes::from(format!("entry {n}")))
        .collect()
}

fn checkpoint(entries: &[Bytes]) -> Checkpoint {
    let mut tree = crate::ledger::merkle::Tree::default();
    for entry in entries {
        tree.push(crate::ledger::merkle::leaf_hash(entry), |_| ());
    }
    Checkpoint {
        origin: ORIGIN.to_owned(),
        size: tree.size(),
        root: tree.root(),
    }
}

/// A statement that keys `old` and `new` may sign.
fn statement(old: &NodeKey, new: &NodeKey, log: &[Bytes], signed: &[&NodeKey]) -> String {
    let point = checkpoint(log);
    let text = format!(
        "hefu key change v1\n{}\n{}\n{}\n{}\n1700000000\n",
        old.log_key(),
        new.log_key(),
        point.size,
        point.text().lines().last().unwrap()
    );
    let lines: String = signed.iter().map(|key| key.line(&text)).collect();
    format!("{text}\n{lines}")
}

impl Forger {
    /// A child with one key whose first ten entries the city holds.
    async fn connect(city: &Node) -> Self {
        let link = join(
            city.mirror(),
            "qidong".parse().unwrap(),
            usize::MAX,
            usize::MAX,
        );
        let mut forger = Self {
            link,
            log: entries(20),
        };
        let logs = vec![forger.offer(&key(1), 10, Vec::new())];
        let hello = Request::Hello(pb::Hello {
            version_min: 1,
            version_max: 1,
            logs,
            recover: false,
        });
        assert!(matches!(forger.ask(hello).await, Response::Welcome(_)));
        assert!(matches!(
            forger.batch(&key(1), 0..10).await,
            Response::Cosigned(_)
        ));
        forger
    }

    fn offer(&self, key: &NodeKey, size: usize, key_changes: Vec<String>) -> pb::LogOffer {
        pb::LogOffer {
            origin: ORIGIN.to_owned(),
            verifier_key: key.log_key().to_string(),
            checkpoint: key.sign(&checkpoint(&self.log[..size])),
            key_changes,
        }
    }

    async fn ask(&mut self, message: Request) -> Response {
        let message = Some(message);
        self.link
            .up
            .send(pb::ReplicateRequest { message })
            .await
            .unwrap();
        let heard = tokio::time::timeout(LONG, self.link.down.next()).await;
        heard.unwrap().unwrap().unwrap().message.unwrap()
    }

    async fn offers(&mut self, offer: pb::LogOffer) -> Response {
        self.ask(Request::Offer(pb::Offer { log: Some(offer) }))
            .await
    }

    async fn batch(&mut self, key: &NodeKey, range: std::ops::Range<usize>) -> Response {
        let batch = pb::Batch {
            origin: ORIGIN.to_owned(),
            start: range.start as u64,
            entries: self.log[range.clone()].to_vec(),
            checkpoint: key.sign(&checkpoint(&self.log[..range.end])),
        };
        self.ask(Request::Batch(batch)).await
    }
}

#[track_caller]
fn refused(answer: &Response) -> ErrorReason {
    let Response::Refused(refused) = answer else {
        panic!("{answer:?}")
    };
    refused.reason()
}

#[track_caller]
fn stands(city: &Node, changes: usize, quarantined: bool) {
    let view = city.ledger.log(ORIGIN).unwrap();
    assert_eq!(view.keys.changes().len(), changes);
    assert_eq!(
        view.quarantined.is_some(),
        quarantined,
        "{:?}",
        view.quarantined
    );
}

/// Changes of the key of a log whose first ten entries are held, that nobody may believe: why not, and what is said.
fn forged(log: &[Bytes]) -> Vec<(Vec<String>, ErrorReason)> {
    use ErrorReason::{CheckpointInvalid, KeyNotAuthorised, LogForked};
    let (one, two, three) = (key(1), key(2), key(3));
    let at = |size: usize| &log[..size];
    let other_log = NodeKey::new(
        &[1; 32],
        "nantong.gov.cn/rugao/00000001",
        "nantong.gov.cn/rugao",
    );
    let other_new = NodeKey::new(
        &[2; 32],
        "nantong.gov.cn/rugao/00000001",
        "nantong.gov.cn/rugao",
    );
    let mut spoilt = statement(&one, &two, at(10), &[&one, &two]);
    spoilt = spoilt.replacen("1700000000", "1700000001", 1);
    vec![
        // The old key has not signed; the new one has not; a stranger has in the old one's place.
        (
            vec![statement(&one, &two, at(10), &[&two])],
            KeyNotAuthorised,
        ),
        (
            vec![statement(&one, &two, at(10), &[&one])],
            CheckpointInvalid,
        ),
        (
            vec![statement(&one, &two, at(10), &[&three, &two])],
            CheckpointInvalid,
        ),
        // Changed after it was signed.
        (vec![spoilt], CheckpointInvalid),
        // Of another log, replayed.
        (
            vec![statement(
                &other_log,
                &other_new,
                at(10),
                &[&other_log, &other_new],
            )],
            CheckpointInvalid,
        ),
        // It takes back what the old key has signed.
        (
            vec![statement(&one, &two, at(9), &[&one, &two])],
            KeyNotAuthorised,
        ),
        // It follows a key that this log never had.
        (
            vec![statement(&three, &two, at(10), &[&three, &two])],
            LogForked,
        ),
    ]
}

/// Chains of changes that are none, and bytes that are no change.
fn broken(log: &[Bytes]) -> Vec<Vec<String>> {
    let (one, two, three) = (key(1), key(2), key(3));
    let at = |size: usize| &log[..size];
    let change = |old: &NodeKey, new: &NodeKey| statement(old, new, at(10), &[old, new]);
    vec![
        // It leads to another key than is offered.
        vec![change(&one, &three)],
        // One link of the chain is missing.
        vec![change(&one, &key(4)), change(&key(5), &two)],
        // Back to a key of before.
        vec![change(&one, &two), change(&two, &one), change(&one, &two)],
        vec!["hefu key change v1".to_owned()],
        vec!["x".repeat(10_000)],
        vec![change(&one, &two); 300],
    ]
}

#[tokio::test]
async fn forged_key_changes_are_refused_and_held_against_nobody() {
    let city = Node::top("nantong").await;
    let mut forger = Forger::connect(&city).await;
    let (one, two) = (key(1), key(2));
    let log = forger.log.clone();
    let broken = broken(&log).into_iter();
    let broken = broken.map(|changes| (changes, ErrorReason::CheckpointInvalid));
    for (changes, reason) in forged(&log).into_iter().chain(broken) {
        let shown = changes.first().cloned();
        let offer = forger.offer(&two, 10, changes);
        assert_eq!(refused(&forger.offers(offer).await), reason, "{shown:?}");
        stands(&city, 0, false);
    }
    // Nothing of it stands in the way of the honest log.
    let answer = forger.batch(&one, 10..12).await;
    assert!(matches!(answer, Response::Cosigned(_)), "{answer:?}");
    let answer = forger.batch(&two, 12..14).await;
    assert_eq!(refused(&answer), ErrorReason::CheckpointInvalid);
}

#[tokio::test]
async fn a_key_that_was_replaced_signs_nothing_more_and_follows_nowhere_else() {
    let city = Node::top("nantong").await;
    let mut forger = Forger::connect(&city).await;
    let (one, two, three) = (key(1), key(2), key(3));
    let log = forger.log.clone();
    let change = statement(&one, &two, &log[..12], &[&one, &two]);
    // It names a size ahead of what is held: up to there the old key still signs.
    let offer = forger.offer(&two, 10, vec![change.clone()]);
    assert!(matches!(forger.offers(offer).await, Response::Welcome(_)));
    stands(&city, 1, false);
    assert!(matches!(
        forger.batch(&one, 10..12).await,
        Response::Cosigned(_)
    ));
    assert_eq!(
        refused(&forger.batch(&one, 12..14).await),
        ErrorReason::CheckpointInvalid
    );
    assert!(matches!(
        forger.batch(&two, 12..14).await,
        Response::Cosigned(_)
    ));
    // Whoever has the old key cannot lead the log to a third.
    let twice = statement(&one, &three, &log[..14], &[&one, &three]);
    let offer = forger.offer(&three, 14, vec![twice]);
    assert_eq!(
        refused(&forger.offers(offer).await),
        ErrorReason::CheckpointInvalid
    );
    stands(&city, 1, false);
    // The old key's checkpoints of more than it is believed for are no evidence either.
    let forked = entries(16).into_iter().rev().collect::<Vec<_>>();
    let offer = pb::LogOffer {
        checkpoint: one.sign(&checkpoint(&forked)),
        ..forger.offer(&two, 14, vec![change])
    };
    assert_eq!(
        refused(&forger.offers(offer).await),
        ErrorReason::CheckpointInvalid
    );
    stands(&city, 1, false);
    assert!(matches!(
        forger.batch(&two, 14..20).await,
        Response::Cosigned(_)
    ));
}

#[tokio::test]
async fn a_key_change_that_contradicts_the_log_is_evidence() {
    let city = Node::top("nantong").await;
    let mut forger = Forger::connect(&city).await;
    let other = vec![Bytes::from_static(b"another"); 10];
    let change = statement(&key(1), &key(2), &other, &[&key(1), &key(2)]);
    let offer = forger.offer(&key(2), 10, vec![change.clone()]);
    assert_eq!(refused(&forger.offers(offer).await), ErrorReason::LogForked);
    stands(&city, 0, true);
    let view = city.ledger.log(ORIGIN).unwrap();
    let evidence = city
        .ledger
        .state()
        .get(&crate::ledger::keys::evidence(view.log))
        .unwrap();
    let evidence: crate::proto::ledger::v1::Evidence =
        prost::Message::decode(evidence.unwrap()).unwrap();
    let (held, offered): (Note, _) = (
        evidence.held.parse().unwrap(),
        KeyChange::parse(&evidence.offered).unwrap(),
    );
    assert!(offered.is_signed_by_old());
    assert_eq!(held.verify_log(offered.old()).unwrap().size, offered.size());
    assert_ne!(held.checkpoint().root, *offered.root());
}

#[tokio::test]
async fn entries_that_lead_past_a_key_change_to_another_root_are_evidence() {
    let city = Node::top("nantong").await;
    let mut forger = Forger::connect(&city).await;
    let mut other = forger.log[..12].to_vec();
    other[11] = Bytes::from_static(b"another");
    let change = statement(&key(1), &key(2), &other, &[&key(1), &key(2)]);
    let offer = forger.offer(&key(2), 10, vec![change]);
    assert!(matches!(forger.offers(offer).await, Response::Welcome(_)));
    assert_eq!(
        refused(&forger.batch(&key(2), 10..14).await),
        ErrorReason::LogForked
    );
    stands(&city, 1, true);
}
