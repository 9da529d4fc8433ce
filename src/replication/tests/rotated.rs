//! Logs whose keys change: honest ones go on, whoever was away learns of it.

use proptest::prelude::*;

use super::*;
use crate::ledger::{
    Lost,
    key_history::Authorisation,
    note::VerifierKey,
    seeds::{MemorySeeds, SeedStore as _},
};

fn keys(node: &Node, origin: &str) -> Vec<VerifierKey> {
    let view = node.ledger.log(origin).unwrap();
    view.keys
        .periods()
        .iter()
        .map(|period| period.key.clone())
        .collect()
}

/// Parent and child hold the same entries under the same keys.
#[track_caller]
fn same_keys(below: &Node, above: &Node, origin: &str) {
    same(below, above, origin);
    assert_eq!(keys(below, origin), keys(above, origin), "{origin}");
}

/// An operator of a node believes what the other node says of its newest key.
async fn authorise(at: &Node, of: &Node) {
    let view = of.ledger.log("").unwrap();
    let change = &view.keys.changes().last().unwrap().change;
    let said = Authorisation {
        key: change.new_key().clone(),
        size: change.size(),
        by: "spiffe://nantong.gov.cn/admin/operator".to_owned(),
    };
    at.ledger.authorise(said).await.unwrap();
}

/// As [`Node::sync`], of what was refused before; a refusal of the same moment would count as the answer.
async fn sync_again(node: &Node) {
    node.disk.clock.advance(Duration::from_secs(1));
    node.sync().await;
}

#[tokio::test]
async fn three_tiers_rotate_while_entries_go_up() {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    for round in 0..3 {
        county.submit(round * 40..round * 40 + 20).await;
        county.ledger.rotate(None).await.unwrap();
        city.ledger.rotate(None).await.unwrap();
        county.submit(round * 40 + 20..round * 40 + 40).await;
        county.sync().await;
        province.ledger.rotate(None).await.unwrap();
        city.sync().await;
    }
    let origin = county.origin();
    same_keys(&county, &city, &origin);
    same_keys(&city, &province, &origin);
    same_keys(&city, &province, &city.origin());
    assert_eq!(keys(&province, &origin).len(), 4);
    // What came back is cosigned with the keys of then, and the changes to those of now came with it.
    county
        .until(|n| {
            n.ledger
                .cosignatures(LogNo::OWN)
                .unwrap()
                .iter()
                .any(|c| c.node == "jiangsu" && c.size == 120)
        })
        .await;
    for (node, above) in [("nantong", &city), ("jiangsu", &province)] {
        let changes = county.ledger.key_changes_above(node).unwrap();
        assert!(!changes.is_empty(), "{node}");
        let newest = changes.last().unwrap().change.new_key();
        assert!(
            above
                .ledger
                .log("")
                .unwrap()
                .keys
                .position(newest)
                .is_some()
        );
    }
    for node in [county, city, province] {
        let mut node = node.restart().await;
        node.stop().await;
        audited(&node.disk);
    }
}

/// The journal of a node bears out everything in it, keys included.
#[track_caller]
fn audited(disk: &Disk) {
    let scratch = MemoryState::default();
    let (journal, state) = (disk.journal.as_ref(), disk.state.as_ref());
    let report =
        crate::ledger::audit::audit(journal, Some(state), &scratch, &Carry, &mut |_, _| ());
    let defects = report.unwrap().defects;
    assert!(defects.is_empty(), "{}: {defects:?}", disk.node);
}

#[tokio::test]
async fn a_child_that_rotated_while_away_goes_on() {
    let mut city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    city.stop().await;
    county.ledger.rotate(None).await.unwrap();
    county.submit(10..20).await;
    county.ledger.rotate(None).await.unwrap();
    county.ledger.rotate(None).await.unwrap();
    county.submit(20..30).await;
    let county = county.restart().await;
    let city = city.restart().await;
    county.sync().await;
    same_keys(&county, &city, &county.origin());
    assert_eq!(keys(&city, &county.origin()).len(), 4);
}

#[tokio::test]
async fn a_parent_of_an_older_state_learns_the_keys_again() {
    let mut city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    let early = city.ledger.published().end;
    county.ledger.rotate(None).await.unwrap();
    county.submit(10..20).await;
    county.sync().await;
    city.stop().await;
    for lost in [city.disk.copy(early), Disk::new("nantong")] {
        let mut city = Node::start(lost, city.address.clone(), None, true).await;
        let (origin, mut follow) = (county.origin(), city.ledger.follow());
        let whole = |view: Arc<LogView>| view.tree.size() == 20 && view.keys.changes().len() == 1;
        let arrives = async {
            while !city.ledger.log(&origin).is_some_and(whole) {
                follow.changed().await.unwrap();
            }
        };
        county.sync().await;
        tokio::time::timeout(LONG, arrives).await.unwrap();
        same_keys(&county, &city, &origin);
        city.stop().await;
    }
}

#[tokio::test]
async fn a_key_that_takes_something_back_waits_for_an_operator() {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..20).await;
    county.sync().await;
    city.sync().await;
    let origin = county.origin();
    let old: Note = city.ledger.log(&origin).unwrap().note.parse().unwrap();
    county.ledger.rotate(Some(12)).await.unwrap();
    county.submit(20..30).await;
    county
        .until(|n| n.uplink_of(&origin).state == LinkState::Refused)
        .await;
    let reason = county.uplink_of(&origin).reason;
    let key = county.ledger.key().log_key().to_string();
    assert!(
        reason.contains(&format!("hefu key authorise {key} --from 12")),
        "{reason}"
    );
    assert_eq!(city.child_of(&origin).state, LinkState::Refused);
    assert_eq!(city.ledger.log(&origin).unwrap().tree.size(), 20);
    authorise(&city, &county).await;
    sync_again(&county).await;
    same_keys(&county, &city, &origin);
    // What the old key has signed beyond is not believed any more; what it signed before still is.
    let view = city.ledger.log(&origin).unwrap();
    assert!(view.keys.verify(&old).is_err());
    assert!(view.believes(&view.note.parse().unwrap()));
    assert!(city.ledger.checkpoint_from(&view, 13).unwrap().is_some());
    // Every node above needs its own operator's word.
    city.until(|n| n.uplink_of(&origin).state == LinkState::Refused)
        .await;
    authorise(&province, &county).await;
    sync_again(&city).await;
    same_keys(&county, &province, &origin);
    let (mut city, mut province) = (city, province);
    city.stop().await;
    province.stop().await;
    audited(&city.disk);
    audited(&province.disk);
}

/// Without growing: the parent cosigns again what it holds, under the key that is believed.
#[tokio::test]
async fn what_is_held_is_cosigned_again_under_a_key_that_is_believed() {
    let city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    county.ledger.rotate(Some(0)).await.unwrap();
    authorise(&city, &county).await;
    keys_arrive(&county, &city).await;
    sync_again(&county).await;
    let believed = |view: &LogView| view.believes(&view.note.parse().unwrap());
    let mut follow = city.ledger.follow();
    while !believed(&city.ledger.log(&county.origin()).unwrap()) {
        follow.changed().await.unwrap();
    }
    let view = city.ledger.log(&county.origin()).unwrap();
    let note: Note = view.note.parse().unwrap();
    assert_eq!(note.checkpoint().size, 10);
    note.verify_log(view.keys.current()).unwrap();
    note.verify_cosignature(city.ledger.key().cosigner_key())
        .unwrap();
    same_keys(&county, &city, &county.origin());
}

/// A county whose key is lost goes on with another, which each operator above has to authorise.
#[tokio::test]
async fn a_lost_key_is_replaced_with_an_operators_word() {
    let city = Node::top("nantong").await;
    let mut county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    county.stop().await;
    let mut disk = county.disk.clone();
    disk.seeds = Arc::new(MemorySeeds::default());
    disk.replace_key().await;
    let county = Node::on(disk, &city, true).await;
    let origin = county.origin();
    county.submit(10..20).await;
    county
        .until(|n| n.uplink_of(&origin).state == LinkState::Refused)
        .await;
    assert_eq!(city.ledger.log(&origin).unwrap().tree.size(), 10);
    assert_eq!(city.ledger.log(&origin).unwrap().quarantined, None);
    authorise(&city, &county).await;
    sync_again(&county).await;
    same_keys(&county, &city, &origin);
    county.ledger.rotate(None).await.unwrap();
    county.submit(20..25).await;
    county.sync().await;
    same_keys(&county, &city, &origin);
}

/// Disk and key are gone: the node is built anew from its parent, with a key that the parent's operator authorises.
#[tokio::test]
async fn a_county_that_lost_everything_is_rebuilt_with_a_new_key() {
    let city = Node::top("nantong").await;
    let mut county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.ledger.rotate(None).await.unwrap();
    county.submit(10..20).await;
    county.sync().await;
    let origin = county.origin();
    let (wire, last) = (county.wire.clone().unwrap(), county.ledger.log("").unwrap());
    county.stop().await;
    let (parent, domain) = (
        "nantong".parse().unwrap(),
        "nantong.gov.cn".parse().unwrap(),
    );
    let found = held(&wire, &parent, &domain).await.unwrap();
    let lost = Lost {
        keys: found.logs[0].keys.clone(),
        note: found.logs[0].note.clone(),
    };
    let mut disk = Disk::new("qidong");
    disk.seeds = Arc::new(MemorySeeds::default());
    let begun = Ledger::open_behind(disk.options(true), Some(lost))
        .await
        .unwrap();
    begun.stop().await;
    let county = Node::on(disk, &city, true).await;
    county
        .until(|n| n.uplink_of(&origin).state == LinkState::Refused)
        .await;
    assert!(county.is_behind());
    authorise(&city, &county).await;
    keys_arrive(&county, &city).await;
    sync_again(&county).await;
    county.takes_in().await;
    county.submit(20..25).await;
    county.sync().await;
    same_keys(&county, &city, &origin);
    let view = county.ledger.log("").unwrap();
    assert_eq!((view.keys.changes().len(), view.tree.size()), (2, 25));
    assert!(view.keys.verify(&last.note.parse().unwrap()).is_ok());
    for node in [county, city] {
        let mut node = node;
        node.stop().await;
        audited(&node.disk);
    }
}

/// A parent whose key is lost: its children wait for their own operators.
#[tokio::test]
async fn a_parents_lost_key_is_authorised_at_the_child() {
    let mut city = Node::top("nantong").await;
    let county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    city.stop().await;
    let mut disk = city.disk.clone();
    disk.seeds = Arc::new(MemorySeeds::default());
    disk.replace_key().await;
    let city = Node::start(disk, city.address.clone(), None, true).await;
    county.submit(10..20).await;
    let uplink = county.uplink.clone().unwrap();
    // It is told so at every greeting; a sync may run out of time in the midst of one.
    let mut told = false;
    for _ in 0..10 {
        let synced = uplink.sync(Duration::from_secs(1), |_| ()).await;
        assert!(!synced.complete, "{synced:?}");
        told = synced.reason.contains("hefu key authorise");
        if told {
            break;
        }
    }
    assert!(told, "nobody is told what to do");
    authorise(&county, &city).await;
    sync_again(&county).await;
    same(&county, &city, &county.origin());
    let cosigned = county.ledger.cosignatures(LogNo::OWN).unwrap();
    assert_eq!(
        cosigned[0].verifier_key,
        city.ledger.key().cosigner_key().to_string()
    );
    let mut county = county.restart().await;
    county.sync().await;
    county.stop().await;
    audited(&county.disk);
}

/// A county restored from a copy of before its rotation must not sign with the old key again.
#[tokio::test]
async fn a_child_restored_from_before_its_rotation_takes_nothing_in() {
    let city = Node::top("nantong").await;
    let mut county = Node::below("qidong", &city).await;
    county.submit(0..10).await;
    county.sync().await;
    let (old, [seed, _]) = (
        county.ledger.published().end,
        county.disk.seeds.load().unwrap(),
    );
    county.ledger.rotate(None).await.unwrap();
    county.sync().await;
    let origin = county.origin();
    city.until(|n| n.ledger.log(&origin).unwrap().keys.changes().len() == 1)
        .await;
    county.stop().await;
    let mut disk = county.disk.copy(old);
    disk.seeds = Arc::new(MemorySeeds::new(seed.unwrap()));
    let restored = Node::on(disk, &city, true).await;
    restored
        .until(|n| n.uplink_of(&origin).state == LinkState::Refused)
        .await;
    assert!(restored.is_behind());
    assert!(
        restored
            .uplink_of(&origin)
            .reason
            .contains("restored from an old copy")
    );
    assert_eq!(city.ledger.log(&origin).unwrap().quarantined, None);
}

#[derive(Debug, Clone)]
enum Step {
    Submit(usize, usize),
    Rotate(usize),
    /// A node takes back what it signed above a part of its log, in tenths; the operators above agree.
    Retire(usize, u64),
    Break(usize, usize, usize),
    Restart(usize),
    Sync(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0usize..3, 1usize..40).prop_map(|(node, n)| Step::Submit(node, n)),
        4 => (0usize..3).prop_map(Step::Rotate),
        2 => (0usize..3, 0u64..=10).prop_map(|(node, part)| Step::Retire(node, part)),
        3 => (1usize..3, 1usize..9, 1usize..9).prop_map(|(n, up, down)| Step::Break(n, up, down)),
        2 => (0usize..3).prop_map(Step::Restart),
        2 => (1usize..3).prop_map(Step::Sync),
    ];
    proptest::collection::vec(step, 1..20)
}

async fn play(steps: Vec<Step>) {
    let province = Node::top("jiangsu").await;
    let city = Node::below("nantong", &province).await;
    let county = Node::below("qidong", &city).await;
    let mut nodes = vec![province, city, county];
    let mut records = 0;
    for step in steps {
        match step {
            Step::Submit(node, count) => {
                nodes[node].submit(records..records + count).await;
                records += count;
            }
            Step::Rotate(node) => {
                nodes[node].ledger.rotate(None).await.unwrap();
            }
            Step::Retire(node, part) => {
                // A word is given for one change at a time: those of before are taken first.
                settle(&nodes).await;
                let size = nodes[node].ledger.log("").unwrap().tree.size();
                nodes[node]
                    .ledger
                    .rotate(Some(size * part / 10))
                    .await
                    .unwrap();
                for above in &nodes[..node] {
                    authorise(above, &nodes[node]).await;
                }
                settle(&nodes).await;
            }
            Step::Break(node, up, down) => {
                let wire = nodes[node].wire.as_ref().unwrap();
                lock(&wire.breaks).push((up, down));
            }
            Step::Restart(which) => {
                let node = nodes.remove(which);
                nodes.insert(which, node.restart().await);
            }
            Step::Sync(node) => nodes[node].sync().await,
        }
    }
    settle(&nodes).await;
    let (county, city) = (nodes[2].origin(), nodes[1].origin());
    same_keys(&nodes[2], &nodes[1], &county);
    same_keys(&nodes[1], &nodes[0], &county);
    same_keys(&nodes[1], &nodes[0], &city);
    for node in &mut nodes {
        node.stop().await;
        audited(&node.disk);
    }
}

/// Everything of below is above, under the same keys.
async fn settle(nodes: &[Node]) {
    for node in &nodes[1..] {
        lock(&node.wire.as_ref().unwrap().breaks).clear();
    }
    for (below, above) in [(2, 1), (1, 0)] {
        keys_arrive(&nodes[below], &nodes[above]).await;
        sync_again(&nodes[below]).await;
    }
}

/// Waits until a node above holds every key of every log: a change is offered by itself, and nothing waits for it. One
/// that was refused before the operator's word is offered again when somebody asks.
async fn keys_arrive(below: &Node, above: &Node) {
    let published = below.ledger.published();
    let taken = |view: &Arc<LogView>| {
        let above = above.ledger.log(view.origin());
        above.is_some_and(|above| above.keys.changes().len() >= view.keys.changes().len())
    };
    let waiting = async {
        let mut follow = above.ledger.follow();
        while !published.logs.values().all(taken) {
            let _ = tokio::time::timeout(Duration::from_millis(20), follow.changed()).await;
            below.disk.clock.advance(Duration::from_secs(1));
            let uplink = below.uplink.as_ref().unwrap();
            uplink.sync(LONG, |_| ()).await;
        }
    };
    tokio::time::timeout(LONG, waiting)
        .await
        .expect("the keys never arrive");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn keys_and_entries_arrive_whatever_breaks(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(play(steps));
    }
}
