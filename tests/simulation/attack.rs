//! A county that lies, and what it tries.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use hefu::{
    ledger::{
        merkle::{Tree, leaf_hash},
        note::{Checkpoint, NodeKey},
    },
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            self as pb, replicate_request::Message as Request,
            replicate_response::Message as Response,
        },
    },
    replication::{Link, LinkError},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::{node::seed_of, world::Wrong};

/// The liar, and the parent that it lies to.
pub const LIAR: &str = "haimen";
const ORIGIN: &str = "nantong.gov.cn/haimen/00000007";

/// What it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Another log of the size that is held.
    Fork,
    /// A shorter one that was rewritten.
    Rollback,
    /// Entries behind a hole.
    Gap,
    /// Entries in another order than the signed one.
    Reorder,
    /// An entry that is not the signed one.
    Rewritten,
    /// Fewer entries than were signed.
    Short,
    /// A checkpoint that another key signed.
    ForgedSigner,
    /// Another key for its own log.
    OtherKey,
    /// Another node's log, under its own key.
    ForgedOrigin,
    /// Another node's log, genuine but for one byte.
    Spoilt,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Fork,
        Self::Rollback,
        Self::Gap,
        Self::Reorder,
        Self::Rewritten,
        Self::Short,
        Self::ForgedSigner,
        Self::OtherKey,
        Self::ForgedOrigin,
        Self::Spoilt,
    ];

    /// Whether it proves, by the liar's own signature, that it lies.
    #[must_use]
    pub fn is_proof(self) -> bool {
        matches!(
            self,
            Self::Fork | Self::Rollback | Self::Reorder | Self::Rewritten
        )
    }
}

/// The log of an honest node, of which the liar has got hold.
pub struct Victim {
    /// What it would offer.
    pub offer: pb::LogOffer,
    /// Entries that the parent holds.
    pub held: u64,
    /// Those that it does not hold yet, up to the offer's checkpoint.
    pub behind: Vec<Bytes>,
}

/// A county that was honest once.
pub struct Liar {
    key: NodeKey,
    /// What it has signed while it was honest.
    pub signed: Vec<Bytes>,
    /// Whether it has proven that it lies, and was told so.
    pub is_proven: bool,
    /// Whether it has shown a proof that nobody answered: a parent that crashed may have kept it, or not.
    pub is_suspect: bool,
}

impl Default for Liar {
    fn default() -> Self {
        Self {
            key: NodeKey::new(&seed_of(LIAR), ORIGIN, "nantong.gov.cn/haimen"),
            signed: Vec::new(),
            is_proven: false,
            is_suspect: false,
        }
    }
}

fn tree(entries: &[Bytes]) -> Tree {
    let mut tree = Tree::default();
    for entry in entries {
        tree.push(leaf_hash(entry), |_| ());
    }
    tree
}

fn sign(key: &NodeKey, entries: &[Bytes]) -> String {
    let tree = tree(entries);
    key.sign(&Checkpoint {
        origin: key.log_key().name().to_owned(),
        size: tree.size(),
        root: tree.root(),
    })
}

fn changed(entry: &Bytes) -> Bytes {
    let mut bytes = entry.to_vec();
    bytes[0] ^= 1;
    bytes.into()
}

impl Liar {
    /// Its origin.
    #[must_use]
    pub fn origin(&self) -> &str {
        ORIGIN
    }

    /// The root of its honest log at a size; `None` beyond.
    #[must_use]
    pub fn root(&self, size: u64) -> Option<hefu::ledger::merkle::Hash> {
        let size = usize::try_from(size).ok()?;
        Some(tree(self.signed.get(..size)?).root())
    }

    fn offer(&self, entries: &[Bytes]) -> pb::LogOffer {
        let checkpoint = match entries {
            [] => String::new(),
            entries => sign(&self.key, entries),
        };
        pb::LogOffer {
            origin: ORIGIN.to_owned(),
            verifier_key: self.key.log_key().to_string(),
            checkpoint,
            ..pb::LogOffer::default()
        }
    }

    fn batch(&self, held: &[Bytes], entries: &[Bytes], signed: &[Bytes]) -> pb::Batch {
        pb::Batch {
            origin: ORIGIN.to_owned(),
            start: held.len() as u64,
            entries: entries.to_vec(),
            checkpoint: sign(&self.key, &[held, signed].concat()),
            ..pb::Batch::default()
        }
    }

    /// Brings some entries as it should, from where the parent stands.
    pub async fn be_honest(&mut self, link: Link, held: u64, count: u64) {
        let first = self.signed.len() as u64;
        let new = (first..first + count).map(|n| Bytes::from(format!("haimen {n}")));
        self.signed.extend(new);
        let held = usize::try_from(held).unwrap();
        let (before, after) = self.signed.split_at(held);
        let batch = self.batch(before, after, after);
        talk(link, vec![self.offer(&self.signed)], batch).await;
    }

    /// Tries something on a parent that holds so much of its log; `false` where it has nothing to try it
    /// with.
    ///
    /// # Errors
    /// Where the parent cosigns it.
    pub async fn try_on(
        &mut self,
        attack: Attack,
        link: Link,
        held: u64,
        victim: &Victim,
    ) -> Result<bool, Wrong> {
        let held = &self.signed[..usize::try_from(held).unwrap()];
        let Some((offers, batch)) = self.lie(attack, held, victim) else {
            return Ok(false);
        };
        let (origin, start) = (batch.origin.clone(), batch.start);
        let mut reasons = Vec::new();
        for answer in talk(link, offers, batch).await {
            match answer {
                Response::Cosigned(cosigned)
                    if cosigned.node == "nantong"
                        && cosigned.origin == origin
                        && cosigned.size > start =>
                {
                    return Err(Wrong(format!("{attack:?} was cosigned")));
                }
                Response::Refused(refused) if refused.origin == origin => {
                    reasons.push(refused.reason());
                }
                _ => {}
            }
        }
        if attack.is_proof() {
            self.is_proven |= reasons.contains(&ErrorReason::LogForked);
            self.is_suspect |= reasons.is_empty();
            if !self.is_proven && !self.is_suspect {
                return Err(Wrong(format!("{attack:?} was taken for {reasons:?}")));
            }
        }
        Ok(true)
    }

    fn lie(
        &self,
        attack: Attack,
        held: &[Bytes],
        victim: &Victim,
    ) -> Option<(Vec<pb::LogOffer>, pb::Batch)> {
        let (last, _) = held.split_last()?;
        let honest = self.offer(held);
        let (a, b) = (Bytes::from("a new one"), Bytes::from("b new one"));
        let (one, two) = (vec![a.clone()], vec![a.clone(), b.clone()]);
        let other = NodeKey::new(&[9; 32], ORIGIN, "nantong.gov.cn/haimen");
        let lie = match attack {
            Attack::Fork => {
                let forked = [&held[..held.len() - 1], &[changed(last)]].concat();
                let batch = self.batch(&forked, &one, &one);
                (vec![self.offer(&forked)], batch)
            }
            Attack::Rollback => {
                let rolled = [&held[..held.len() - 1], &[]].concat();
                let batch = self.batch(&rolled, &two, &two);
                let offer = self.offer(&[&rolled[..], &two[..1]].concat());
                (vec![offer], batch)
            }
            Attack::Gap => {
                let hole = [held, &one[..]].concat();
                (
                    vec![honest],
                    self.batch(&hole, std::slice::from_ref(&b), std::slice::from_ref(&b)),
                )
            }
            Attack::Reorder => (vec![honest], self.batch(held, &[b, a], &two)),
            Attack::Rewritten => (vec![honest], self.batch(held, &[changed(&a)], &one)),
            Attack::Short => (vec![honest], self.batch(held, &one, &two)),
            Attack::ForgedSigner => {
                let checkpoint = sign(&other, &[held, &one[..]].concat());
                let batch = pb::Batch {
                    checkpoint,
                    ..self.batch(held, &one, &one)
                };
                (vec![honest], batch)
            }
            Attack::OtherKey => {
                let checkpoint = sign(&other, &[held, &one[..]].concat());
                let offer = pb::LogOffer {
                    verifier_key: other.log_key().to_string(),
                    checkpoint: sign(&other, held),
                    ..honest
                };
                let batch = pb::Batch {
                    checkpoint,
                    ..self.batch(held, &one, &one)
                };
                (vec![offer], batch)
            }
            Attack::ForgedOrigin => self.in_anothers_name(honest, victim),
            Attack::Spoilt => spoilt(honest, victim)?,
        };
        Some(lie)
    }

    fn in_anothers_name(
        &self,
        honest: pb::LogOffer,
        victim: &Victim,
    ) -> (Vec<pb::LogOffer>, pb::Batch) {
        let origin = victim.offer.origin.as_str();
        let key = NodeKey::new(&seed_of(LIAR), origin, "nantong.gov.cn/haimen");
        let entry = Bytes::from("of another");
        let checkpoint = key.sign(&Checkpoint {
            origin: origin.to_owned(),
            size: victim.held + 1,
            root: tree(std::slice::from_ref(&entry)).root(),
        });
        let offer = pb::LogOffer {
            verifier_key: key.log_key().to_string(),
            checkpoint: checkpoint.clone(),
            ..victim.offer.clone()
        };
        let batch = pb::Batch {
            origin: origin.to_owned(),
            start: victim.held,
            entries: vec![entry],
            checkpoint,
            ..pb::Batch::default()
        };
        (vec![honest, offer], batch)
    }
}

fn spoilt(honest: pb::LogOffer, victim: &Victim) -> Option<(Vec<pb::LogOffer>, pb::Batch)> {
    let mut entries = victim.behind.clone();
    let last = entries.last_mut()?;
    *last = changed(last);
    let batch = pb::Batch {
        origin: victim.offer.origin.clone(),
        start: victim.held,
        entries,
        checkpoint: victim.offer.checkpoint.clone(),
        ..pb::Batch::default()
    };
    Some((vec![honest, victim.offer.clone()], batch))
}

/// Says Hello, waits to be welcomed, sends a batch; what the parent said until it answered that one.
async fn talk(link: Link, logs: Vec<pb::LogOffer>, batch: pb::Batch) -> Vec<Response> {
    let Link { up, mut down } = link;
    let mut said = Vec::new();
    let origin = batch.origin.clone();
    let hello = pb::Hello {
        version_min: 1,
        version_max: 1,
        logs,
        ..pb::Hello::default()
    };
    let mut next = vec![Request::Batch(batch), Request::Hello(hello)];
    let talking = async {
        while let Some(message) = next.pop() {
            let message = Some(message);
            if up.send(pb::ReplicateRequest { message }).await.is_err() {
                return;
            }
            while let Some(Ok(answer)) = down.next().await {
                let Some(answer) = answer.message else {
                    continue;
                };
                let done = match &answer {
                    Response::Welcome(_) => !next.is_empty(),
                    Response::Cosigned(c) => c.node == "nantong" && c.origin == origin,
                    Response::Refused(r) => next.is_empty() && r.origin == origin,
                    Response::Batch(_) => false,
                };
                said.push(answer);
                if done {
                    break;
                }
            }
        }
    };
    // A parent that crashes says nothing more.
    let _ = timeout(Duration::from_secs(30), talking).await;
    said
}

/// A parent that believes everything: for the control that must fail.
#[must_use]
pub fn gullible(held: u64) -> Link {
    let (up, mut messages) = mpsc::channel::<pb::ReplicateRequest>(8);
    let (answers, down) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(pb::ReplicateRequest { message }) = messages.recv().await {
            let answer = match message {
                Some(Request::Batch(batch)) => Response::Cosigned(pb::Cosigned {
                    size: batch.start + batch.entries.len() as u64,
                    origin: batch.origin,
                    node: "nantong".to_owned(),
                    ..pb::Cosigned::default()
                }),
                _ => Response::Welcome(pb::Welcome {
                    version: 1,
                    logs: vec![pb::LogPosition {
                        origin: ORIGIN.to_owned(),
                        size: held,
                        ..pb::LogPosition::default()
                    }],
                    ..pb::Welcome::default()
                }),
            };
            let message = Some(answer);
            let answer: Result<_, LinkError> = Ok(pb::ReplicateResponse { message });
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    Link {
        up,
        down: ReceiverStream::new(down).boxed(),
    }
}
