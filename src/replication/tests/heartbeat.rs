//! Heartbeats: who is alive, how far a log is signed, and what must not be believed.

use super::{
    dishonest::{Forger, cosigned, entries, refused, scene},
    *,
};
use crate::{
    ledger::note::NodeKey,
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            replicate_request::Message as Request, replicate_response::Message as Response,
        },
    },
    types::LedgerTime,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A node's clock goes on; nobody else's does.
fn later(node: &Node, by: Duration) {
    node.disk.clock.advance(by);
    node.board.look();
}

#[tokio::test]
async fn a_child_that_stands_still_is_silent_though_its_connection_is_open() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    let origin = county.origin();
    city.until(|n| n.child_of(&origin).heartbeat.is_some())
        .await;
    let before = city.child_of(&origin);
    assert_eq!((before.lag(), before.state), (0, LinkState::Current));
    later(&city, MINUTE / 2);
    assert_eq!(city.child_of(&origin).state, LinkState::Current);
    // The county's clock stands still, as it does where its process is frozen: what it says is no news.
    later(&city, MINUTE / 2);
    let silent = city.child_of(&origin);
    assert_eq!(silent.state, LinkState::Silent);
    assert_eq!(silent.since, silent.alive.unwrap() + MINUTE);
    assert!(
        silent.reason.contains("no sign of life since 2026"),
        "{silent:?}"
    );
    county.disk.clock.advance(MINUTE);
    city.until(|n| n.child_of(&origin).state == LinkState::Current)
        .await;
}

#[tokio::test]
async fn a_log_that_is_refused_still_tells_how_far_it_is_signed() {
    let city = Node::top("nantong").await;
    let county = Node::below("elsewhere", &city).await;
    let origin = county.origin();
    let named = |records: std::ops::Range<usize>| {
        let proposals = records.map(|record| Proposal {
            name: format!("agencies/elsewhere/notes/N-{record}")
                .parse()
                .unwrap(),
            intent: Intent::Submit(Bytes::from_static(b"x")),
            submitter: String::new(),
            request: None,
            etag: None,
            validate_only: false,
        });
        county.ledger.submit(proposals.collect())
    };
    named(0..3).await.unwrap();
    city.until(|n| n.ledger.log(&origin).is_some()).await;
    city.until(|n| n.child_of(&origin).state == LinkState::Refused)
        .await;
    named(3..10).await.unwrap();
    county.disk.clock.advance(Duration::from_secs(1));
    city.until(|n| n.child_of(&origin).signed_size == 10).await;
    assert_eq!(city.child_of(&origin).lag(), 10);

    // A restart of the parent, with the child gone, makes the lag no smaller.
    let alive = city.child_of(&origin).alive;
    let kept = city.board.keep();
    let board = Board::new(city.ledger.clone(), city.disk.clock.clone(), None).unwrap();
    board.recall(&kept);
    let recalled = board.children().remove(0);
    assert_eq!((recalled.signed_size, recalled.lag()), (10, 10));
    assert_eq!(recalled.alive, alive);
    // What was changed in the file is not believed.
    let changed = kept.into_iter().map(|kept| Kept {
        heartbeat: kept.heartbeat.replace("\n10\n", "\n12\n"),
        signed: kept.signed.replace("\n10\n", "\n12\n"),
        ..kept
    });
    let board = Board::new(city.ledger.clone(), city.disk.clock.clone(), None).unwrap();
    board.recall(&changed.collect::<Vec<_>>());
    let child = board.children().remove(0);
    assert_eq!((child.signed_size, child.heartbeat), (0, None));
}

#[tokio::test]
async fn the_province_hears_the_county_through_the_city() {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..5).await;
    let origin = county.origin();
    province.until(|n| n.ledger.log(&origin).is_some()).await;
    province
        .until(|n| n.child_of(&origin).heartbeat.is_some())
        .await;
    // The city goes on and the county does not: the province tells the two apart.
    later(&province, 2 * MINUTE);
    city.disk.clock.advance(2 * MINUTE);
    let own = city.origin();
    province
        .until(|n| n.child_of(&own).state == LinkState::Current)
        .await;
    assert_eq!(province.child_of(&origin).state, LinkState::Silent);
}

/// A heartbeat of these entries, signed at a time.
fn beat(forger: &Forger, key: &NodeKey, entries: &[Bytes], time: &str) -> Request {
    let note = forger.note(entries);
    let parsed: Note = note.parse().unwrap();
    let time = LedgerTime::from(time.parse::<jiff::Timestamp>().unwrap());
    let note = note + &key.cosign(parsed.checkpoint(), time);
    let origin = forger.key.log_key().name().to_owned();
    Request::Heartbeats(pb::Heartbeats {
        beats: vec![pb::Heartbeat { origin, note }],
    })
}

#[tokio::test]
async fn what_a_heartbeat_says_is_verified() {
    let (city, mut forger) = scene().await;
    let origin = forger.key.log_key().name().to_owned();
    let signed = NodeKey::new(&[1; 32], &origin, "nantong.gov.cn/qidong");
    let other = NodeKey::new(&[2; 32], &origin, "nantong.gov.cn/qidong");
    let all = entries(0..20);
    let now = "2026-11-23T08:00:00Z";

    // Nothing is answered to a heartbeat: the batch behind it tells that it was looked at.
    for (key, time, why) in [
        (&other, now, "signature"),
        (&signed, "2026-11-23T08:06:00Z", "360 s ahead"),
    ] {
        let message = Some(beat(&forger, key, &all, time));
        forger
            .link
            .up
            .send(pb::ReplicateRequest { message })
            .await
            .unwrap();
        let batch = forger.batch(0..10);
        assert_eq!(
            refused(&forger.send(batch).await).0,
            ErrorReason::IndexOutOfRange
        );
        let child = city.child_of(&origin);
        assert_eq!((child.heartbeat, child.signed_size), (None, 20), "{why}");
    }
    later(&city, 2 * MINUTE);
    let silent = city.child_of(&origin);
    assert!(silent.reason.contains("360 s ahead"), "{silent:?}");

    // One that was held back proves that its origin was alive then, not now.
    later(&city, 60 * MINUTE);
    let message = Some(beat(&forger, &signed, &all, now));
    forger
        .link
        .up
        .send(pb::ReplicateRequest { message })
        .await
        .unwrap();
    city.until(|n| n.child_of(&origin).heartbeat.is_some())
        .await;
    assert_eq!(city.child_of(&origin).state, LinkState::Silent);
}

#[tokio::test]
async fn a_heartbeat_that_contradicts_is_evidence() {
    let (city, mut forger) = scene().await;
    let origin = forger.key.log_key().name().to_owned();
    let key = NodeKey::new(&[1; 32], &origin, "nantong.gov.cn/qidong");
    let batch = forger.batch(10..15);
    assert_eq!(cosigned(&forger.send(batch).await), 15);
    let message = beat(&forger, &key, &entries(100..110), "2026-11-23T08:00:00Z");
    let answer = forger.ask(message).await;
    assert_eq!(refused(&answer).0, ErrorReason::LogForked);
    assert!(city.ledger.log(&origin).unwrap().quarantined.is_some());
    assert!(!matches!(answer, Response::Welcome(_)));
}

#[tokio::test]
async fn a_window_that_ends_ends_the_session_where_batches_end() {
    let city = Node::top("nantong").await;
    let disk = Disk::new("qidong");
    // 16:00 at +08:00 is what every disk's clock shows.
    let mode = Mode::Window("15:00-16:01".parse().unwrap(), "+08:00".parse().unwrap());
    let wire = Wire {
        child: "qidong".parse().unwrap(),
        parent: city.address.clone(),
        breaks: Arc::default(),
        lies: Arc::default(),
    };
    let above = Some((wire, "nantong"));
    let county = Node::start(disk, Address::default(), above, mode).await;
    county.submit(0..3_000).await;
    county.until(|n| n.uplink_of(&n.origin()).lag() == 0).await;
    county.disk.clock.advance(MINUTE);
    county
        .until(|n| {
            n.uplink_of(&n.origin())
                .reason
                .contains("outside the window 15:00-16:01")
        })
        .await;
    county.submit(3_000..3_010).await;
    assert_eq!(county.uplink_of(&county.origin()).lag(), 10);
    assert!(!county.uplink.as_ref().unwrap().is_wanted());
    // A sync is somebody's wish, at any hour; two at once are one too many.
    let uplink = county.uplink.as_ref().unwrap();
    let (first, second) = tokio::join!(uplink.sync(LONG, |_| ()), uplink.sync(LONG, |_| ()));
    assert_eq!(first.outcome, Some(SyncOutcome::Complete));
    assert_eq!(second.outcome, Some(SyncOutcome::Busy));
    same(&county, &city, &county.origin());
}
