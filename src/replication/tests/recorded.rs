//! Versions: what both sides agree on, what one does not know, and a recorded stream for all later ones.
//!
//! `BLESS=1 cargo test --lib recorded` writes `tests/fixtures/replication-v1.bin` anew; a program that
//! still speaks version 1 must never need that.

use std::path::PathBuf;

use prost::Message as _;

use super::*;

/// One message: up or down, and its bytes.
type Recorded = Vec<(Way, Vec<u8>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

fn path() -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "fixtures",
        "replication-v1.bin",
    ]
    .iter()
    .collect()
}

/// A byte for the way, 4 for the length, little-endian, and the message.
fn load() -> Recorded {
    let bytes = std::fs::read(path()).unwrap();
    let (mut rest, mut recorded) = (bytes.as_slice(), Vec::new());
    while let Some((front, behind)) = rest.split_first_chunk::<5>() {
        let length = u32::from_le_bytes(front[1..].try_into().unwrap()) as usize;
        let way = if front[0] == 0 { Way::Up } else { Way::Down };
        recorded.push((way, behind[..length].to_vec()));
        rest = &behind[length..];
    }
    recorded
}

fn save(recorded: &Recorded) {
    let mut bytes = Vec::new();
    for (way, message) in recorded {
        bytes.push(u8::from(*way == Way::Down));
        bytes.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
        bytes.extend(message);
    }
    std::fs::create_dir_all(path().parent().unwrap()).unwrap();
    std::fs::write(path(), bytes).unwrap();
}

/// Writes down what passes over a wire.
struct Tap {
    wire: Wire,
    recorded: Arc<Mutex<Recorded>>,
}

impl Connector for Tap {
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>> {
        let recorded = self.recorded.clone();
        async move {
            let link = self.wire.connect().await?;
            let (up, mut messages) = mpsc::channel::<pb::ReplicateRequest>(2);
            let (to_parent, below) = (link.up, recorded.clone());
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    lock(&below).push((Way::Up, message.encode_to_vec()));
                    let _ = to_parent.send(message).await;
                }
            });
            let down = link.down.inspect(move |message| {
                let message = message.as_ref().unwrap();
                lock(&recorded).push((Way::Down, message.encode_to_vec()));
            });
            Ok(Link {
                up,
                down: down.boxed(),
            })
        }
        .boxed()
    }
}

/// Plays the parent's part of a recording: each message once the child has said what came before it.
struct Playback(Recorded, Arc<Mutex<Vec<pb::ReplicateRequest>>>);

impl Connector for Playback {
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>> {
        let (recorded, said) = (self.0.clone(), self.1.clone());
        let (up, mut messages) = mpsc::channel::<pb::ReplicateRequest>(2);
        let (to_child, down) = mpsc::channel(2);
        tokio::spawn(async move {
            for (way, bytes) in recorded {
                match way {
                    Way::Up => match messages.recv().await {
                        Some(message) => lock(&said).push(message),
                        None => return,
                    },
                    Way::Down => {
                        let message = pb::ReplicateResponse::decode(bytes.as_slice()).unwrap();
                        let _ = to_child.send(Ok(message)).await;
                    }
                }
            }
            // The parent says nothing more, and stays.
            while messages.recv().await.is_some() {}
        });
        let down = ReceiverStream::new(down).boxed();
        async move { Ok(Link { up, down }) }.boxed()
    }
}

/// A county that takes three records in, and two more once those are cosigned, over that connector.
async fn county_over(connector: impl Connector, spare: &Node) -> Node {
    let mut county = Node::on(Disk::new("qidong"), spare, false).await;
    county.stop().await;
    let county = Node::on(county.disk.clone(), spare, false).await;
    county.submit(0..3).await;
    let options = UplinkOptions::default();
    let uplink = Uplink::new(county.board.clone(), Arc::new(connector), options).unwrap();
    let _running = run(uplink, &county.shutdown);
    county
        .until(|n| n.uplink_of(&n.origin()).cosigned == 3)
        .await;
    county.submit(3..5).await;
    county
        .until(|n| n.uplink_of(&n.origin()).cosigned == 5)
        .await;
    county
}

/// A parent that is away: what a county has beside the connector under test.
async fn away() -> Node {
    let mut node = Node::top("nantong").await;
    node.stop().await;
    node
}

#[tokio::test]
async fn the_recorded_stream_is_understood_by_a_parent() {
    if std::env::var_os("BLESS").is_some() {
        let city = Node::top("nantong").await;
        let (recorded, wire) = (
            Arc::<Mutex<Recorded>>::default(),
            Wire {
                child: "qidong".parse().unwrap(),
                parent: city.address.clone(),
                breaks: Arc::default(),
                lies: Arc::default(),
            },
        );
        let tap = Tap {
            wire,
            recorded: recorded.clone(),
        };
        county_over(tap, &away().await).await;
        save(&lock(&recorded));
    }
    let city = Node::top("nantong").await;
    let child = "qidong".parse().unwrap();
    let mut link = join(city.mirror(), child, usize::MAX, usize::MAX);
    let mut answers = 0;
    for (way, bytes) in load() {
        if way == Way::Up {
            let message = pb::ReplicateRequest::decode(bytes.as_slice()).unwrap();
            link.up.send(message).await.unwrap();
            continue;
        }
        let recorded = pb::ReplicateResponse::decode(bytes.as_slice()).unwrap();
        let answer = tokio::time::timeout(LONG, link.down.next()).await.unwrap();
        assert_eq!(essence(answer.unwrap().unwrap()), essence(recorded));
        answers += 1;
    }
    assert_eq!(answers, 3, "a Welcome, and a Cosigned for each batch");
    let view = city.ledger.log("nantong.gov.cn/qidong/00000007").unwrap();
    assert_eq!((view.tree.size(), view.quarantined.clone()), (5, None));
}

#[tokio::test]
async fn the_recorded_stream_is_understood_by_a_child() {
    let said = Arc::<Mutex<Vec<pb::ReplicateRequest>>>::default();
    let playback = Playback(load(), said.clone());
    let county = county_over(playback, &away().await).await;
    let kept = county.ledger.cosignatures(LogNo::OWN).unwrap();
    assert_eq!((kept[0].node.as_str(), kept[0].size), ("nantong", 5));
    let recorded = load().into_iter().filter(|(way, _)| *way == Way::Up);
    let recorded: Vec<_> = recorded
        .filter_map(|(_, bytes)| sent(pb::ReplicateRequest::decode(bytes.as_slice()).unwrap()))
        .collect();
    let said: Vec<_> = lock(&said).drain(..).filter_map(sent).collect();
    assert_eq!((said.len(), &said), (2, &recorded));
}

/// What version 1 says of an answer; later ones may say more. Keys and clocks are those of the recording:
/// signatures are the same to the byte.
fn essence(answer: pb::ReplicateResponse) -> (String, Vec<(String, u64, String)>) {
    use pb::replicate_response::Message;
    match answer.message.unwrap() {
        Message::Welcome(welcome) => {
            let logs = welcome.logs.into_iter();
            let logs = logs.map(|log| (log.origin, log.size, log.cosigned));
            let said = format!(
                "{} {} {}",
                welcome.version, welcome.node, welcome.verifier_key
            );
            (said, logs.collect())
        }
        Message::Cosigned(cosigned) => (
            format!("{} {}", cosigned.node, cosigned.verifier_key),
            vec![(cosigned.origin, cosigned.size, cosigned.note)],
        ),
        other => panic!("{other:?}"),
    }
}

/// A batch as version 1 has it.
fn sent(message: pb::ReplicateRequest) -> Option<(String, u64, Vec<Bytes>, String)> {
    match message.message {
        Some(pb::replicate_request::Message::Batch(batch)) => {
            Some((batch.origin, batch.start, batch.entries, batch.checkpoint))
        }
        _ => None,
    }
}

const fn versions(min: u32, max: u32) -> Versions {
    Versions { min, max }
}

/// A county of some versions under a city of others, brought up to date; what stands in the way otherwise.
async fn between(child: Versions, parent: Versions) -> Result<(), String> {
    let city = Node::top("nantong").await;
    let county = Node::on(Disk::new("qidong"), &city, false).await;
    county.submit(0..20).await;
    let mirror = city.mirror().speaking(parent);
    let wire = Wire {
        parent: Address::default(),
        ..county.wire.clone().unwrap()
    };
    lock(&wire.parent.0).replace(mirror);
    let options = UplinkOptions {
        versions: child,
        backoff: Duration::from_secs(3_600),
        backoff_max: Duration::from_secs(3_600),
        ..UplinkOptions::default()
    };
    let uplink = Uplink::new(county.board.clone(), Arc::new(wire), options).unwrap();
    let _running = run(uplink, &county.shutdown);
    let refused = |n: &Node| n.uplink_of(&n.origin()).reason.contains("PROTOCOL");
    county
        .until(|n| n.uplink_of(&n.origin()).lag() == 0 || refused(n))
        .await;
    match county.uplink_of(&county.origin()) {
        status if status.lag() == 0 => {
            same(&county, &city, &county.origin());
            Ok(())
        }
        status => Err(status.reason),
    }
}

#[tokio::test]
async fn the_highest_version_that_both_speak_is_spoken() {
    for (child, parent) in [
        (versions(1, 3), versions(1, 1)),
        (versions(1, 1), versions(1, 4)),
        (versions(2, 5), versions(1, 2)),
    ] {
        assert_eq!(between(child, parent).await, Ok(()), "{child}, {parent}");
    }
    assert_eq!(versions(1, 3).common(versions(2, 7)), Some(3));
    assert_eq!(versions(1, 3).common(versions(4, 7)), None);
    let refused = between(versions(2, 3), versions(1, 1)).await.unwrap_err();
    let says = "this node speaks versions 1 to 1, the child 2 to 3; upgrade this node";
    assert!(refused.contains(says), "{refused}");
    let refused = between(versions(1, 1), versions(4, 6)).await.unwrap_err();
    let says = "this node speaks versions 4 to 6, the child 1 to 1; upgrade the child";
    assert!(refused.contains(says), "{refused}");
}

/// Bytes with a field that no version here knows.
fn and_more(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    // Field 1,999, of four bytes.
    prost::encoding::encode_key(
        1_999,
        prost::encoding::WireType::LengthDelimited,
        &mut bytes,
    );
    bytes.extend([4, b'm', b'o', b'r', b'e']);
    bytes
}

#[tokio::test]
async fn what_a_later_version_adds_is_ignored_by_this_one() {
    let city = Node::top("nantong").await;
    let child = "qidong".parse().unwrap();
    let mut link = join(city.mirror(), child, usize::MAX, usize::MAX);
    for (way, bytes) in load() {
        if way == Way::Down {
            link.down.next().await.unwrap().unwrap();
            continue;
        }
        // A message of a kind that is not known here, then one that is, with fields that are not.
        let unknown = and_more(&pb::ReplicateRequest::default());
        let unknown = pb::ReplicateRequest::decode(unknown.as_slice()).unwrap();
        let known = pb::ReplicateRequest::decode(and_more_within(&bytes).as_slice()).unwrap();
        if matches!(
            known.message,
            Some(pb::replicate_request::Message::Hello(_))
        ) {
            link.up.send(known).await.unwrap();
            continue;
        }
        assert_eq!(unknown.message, None);
        link.up.send(unknown).await.unwrap();
        link.up.send(known).await.unwrap();
    }
    let view = city.ledger.log("nantong.gov.cn/qidong/00000007").unwrap();
    assert_eq!(view.tree.size(), 5);
}

/// A message with an unknown field in what it carries.
fn and_more_within(bytes: &[u8]) -> Vec<u8> {
    use pb::replicate_request::Message;
    let message = pb::ReplicateRequest::decode(bytes).unwrap().message;
    let (tag, inner) = match message.unwrap() {
        Message::Hello(hello) => (1, and_more(&hello)),
        Message::Batch(batch) => (2, and_more(&batch)),
        other => panic!("{other:?}"),
    };
    let mut bytes = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
    bytes.extend(inner);
    bytes
}
