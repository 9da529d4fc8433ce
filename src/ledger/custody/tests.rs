use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::ledger::{
    entry::timestamp,
    key_change::NewKey,
    merkle::{TileSource, Tree, leaf_hash},
    note::{Checkpoint, NodeKey},
};

const ORIGIN: &str = "nantong.gov.cn/qidong/5f0c9a1e";

/// Trees of less than one tile need none.
struct NoTiles;

impl TileSource for NoTiles {
    type Error = ();
    fn tile(&self, _: u8, _: u64) -> Result<Vec<Hash>, ()> {
        Err(())
    }
}

fn key(seed: u8, node: &str) -> NodeKey {
    NodeKey::new(&[seed; 32], ORIGIN, &format!("nantong.gov.cn/{node}"))
}

fn time(second: i64) -> LedgerTime {
    LedgerTime::from_micros(second * 1_000_000).unwrap()
}

fn entry(item: u64) -> Vec<u8> {
    let taken = Some(timestamp(time(1_700_000_000)));
    let message = pb::Entry {
        format: 1,
        time: taken,
        name: format!("agencies/qidong-emergency/risks/R-{item}"),
        submitter: "spiffe://nantong.gov.cn/agency/qidong-emergency".into(),
        action: pb::Action::Submit.into(),
        revision: 1,
        record: vec![7; 40].into(),
        create_time: taken,
        ..pb::Entry::default()
    };
    message.encode_to_vec()
}

fn digests(hashes: &[Hash]) -> Vec<Digest> {
    let digest = |hash: &Hash| Digest {
        value: hash.to_vec(),
        ..Digest::default()
    };
    hashes.iter().map(digest).collect()
}

/// A log of `size` entries, of which one is shown; the city cosigned it at one size, the province at
/// another.
fn answer(size: u64, index: u64, city: u64, province: u64) -> pb::GetCustodyResponse {
    let origin = key(1, "qidong");
    let mut tree = Tree::default();
    for item in 0..size {
        tree.push(leaf_hash(&entry(item)), |_| ());
    }
    let note = |size| {
        let checkpoint = Checkpoint {
            origin: ORIGIN.into(),
            size,
            root: tree.root_at(size, &NoTiles).unwrap(),
        };
        (origin.sign(&checkpoint), checkpoint)
    };
    let path = |size| digests(&tree.inclusion(index, size, &NoTiles).unwrap());
    let cosigned = |seed, node: &str, size, second| {
        let cosigner = key(seed, node);
        let (text, checkpoint) = note(size);
        pb::Cosignature {
            node: node.into(),
            size: i64::try_from(size).unwrap(),
            time: Some(timestamp(time(second))),
            note: text + &cosigner.cosign(&checkpoint, time(second)),
            verifier_key: cosigner.cosigner_key().to_string(),
            key_changes: Vec::new(),
            inclusion: path(size),
            ..pb::Cosignature::default()
        }
    };
    pb::GetCustodyResponse {
        entry: Some(pb::LoggedEntry {
            index: i64::try_from(index).unwrap(),
            entry_bytes: entry(index).into(),
            ..pb::LoggedEntry::default()
        }),
        log: Some(pb::Log {
            origin: ORIGIN.into(),
            verifier_key: origin.log_key().to_string(),
            ..pb::Log::default()
        }),
        inclusion: Some(pb::GetInclusionProofResponse {
            hashes: path(size),
            ..pb::GetInclusionProofResponse::default()
        }),
        checkpoint: note(size).0,
        cosignatures: vec![
            cosigned(2, "nantong", city, 1_700_000_100),
            cosigned(3, "jiangsu", province, 1_700_000_200),
        ],
    }
}

fn trusted() -> Vec<VerifierKey> {
    vec![
        key(1, "qidong").log_key().clone(),
        key(2, "nantong").cosigner_key().clone(),
        key(3, "jiangsu").cosigner_key().clone(),
    ]
}

#[test]
fn a_custody_is_proven_by_keys_that_are_trusted_and_by_no_others() {
    let custody = Custody::of(&answer(9, 2, 3, 7)).unwrap();
    let custody = Custody::parse(&custody.text()).unwrap();
    let ladder = custody.verify(&trusted()).unwrap();
    let rungs = ladder.rungs.iter();
    let rungs: Vec<_> = rungs
        .map(|rung| (rung.node.as_str(), rung.size, rung.trusted))
        .collect();
    let expected = [
        ("qidong", 9, true),
        ("nantong", 3, true),
        ("jiangsu", 7, true),
    ];
    assert_eq!(rungs, expected);
    assert_eq!(ladder.rungs[1].time, Some(time(1_700_000_100)));
    assert_eq!(ladder.record, "agencies/qidong-emergency/risks/R-2");

    let nobody = custody.verify(&[]).unwrap();
    assert!(nobody.rungs.iter().all(|rung| !rung.trusted));
    // A forger signs everything with keys of his own, under the true names.
    let forged = [key(9, "qidong").log_key().clone(), trusted()[1].clone()];
    let refused = custody.verify(&forged).unwrap_err();
    assert!(refused.to_string().contains("another key"), "{refused}");
}

#[test]
fn an_entry_that_was_not_shown_makes_no_custody() {
    let mut answer = answer(4, 1, 2, 3);
    if let Some(entry) = &mut answer.entry {
        entry.entry_bytes = bytes::Bytes::new();
    }
    assert_eq!(Custody::of(&answer), Err(CustodyError::Withheld));
}

/// Every text that is one bit away.
fn flips(text: &str) -> Vec<String> {
    let flip = |at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        String::from_utf8(bytes).ok()
    };
    (0..text.len() * 8).filter_map(flip).collect()
}

#[test]
fn every_flipped_bit_of_entry_proof_and_note_is_refused() {
    let custody = Custody::of(&answer(9, 2, 3, 7)).unwrap();
    let mut tried = 0;
    let mut refuse = |changed: Custody, what: &str| {
        tried += 1;
        assert!(changed.verify(&trusted()).is_err(), "{what}: {changed:?}");
    };
    let bytes = BASE64.decode(&custody.entry).unwrap();
    for at in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        let entry = BASE64.encode(bytes);
        let changed = Custody {
            entry,
            ..custody.clone()
        };
        refuse(changed, "entry");
    }
    for (at, statement) in custody.statements.iter().enumerate() {
        for note in flips(&statement.note) {
            let mut changed = custody.clone();
            changed.statements[at].note = note;
            refuse(changed, "note");
        }
        for (step, hash) in statement.inclusion.iter().enumerate() {
            for hash in flips(hash) {
                let mut changed = custody.clone();
                changed.statements[at].inclusion[step] = hash;
                refuse(changed, "proof");
            }
        }
    }
    assert!(tried > 9_000, "{tried}");
    println!("{tried} flipped bits refused");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn only_the_true_thing_is_accepted(
        size in 1u64..60,
        a in any::<u64>(),
        b in any::<u64>(),
        c in any::<u64>(),
    ) {
        let index = a % size;
        let within = |random: u64| index + 1 + random % (size - index);
        let custody = Custody::of(&answer(size, index, within(b), within(c))).unwrap();
        let ladder = custody.verify(&trusted()).unwrap();
        prop_assert_eq!(ladder.rungs.len(), 3);
        let other = Custody { index: (index + 1) % size, ..custody.clone() };
        prop_assert!(size == 1 || other.verify(&trusted()).is_err(), "another place");
        let other = Custody {
            entry: BASE64.encode(entry(size)),
            record: format!("agencies/qidong-emergency/risks/R-{size}"),
            ..custody.clone()
        };
        prop_assert!(other.verify(&trusted()).is_err(), "another entry");
        let mut other = custody.clone();
        other.statements[1].node = "jiangsu".into();
        prop_assert!(other.verify(&trusted()).is_err(), "another node");
        let mut other = custody;
        other.statements[2].time = other.statements[1].time.clone();
        prop_assert!(other.verify(&trusted()).is_err(), "another time");
    }

    /// Whatever single byte of the file is changed: it is refused, or it proves the very same.
    #[test]
    fn a_changed_byte_of_the_file_changes_nothing_that_is_believed(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let custody = Custody::of(&answer(9, 2, 3, 7)).unwrap();
        let ladder = custody.verify(&trusted()).unwrap();
        let mut bytes = custody.text().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).ok();
        let changed = changed.and_then(|text| Custody::parse(&text).ok());
        if let Some(Ok(changed)) = changed.map(|custody| custody.verify(&trusted())) {
            prop_assert_eq!(changed, ladder);
        }
    }
}

/// As [`answer`], after the origin and the city have new keys: the origin's newest checkpoint is signed with the new one, what
/// was cosigned before bears the old ones. The change names `size`; `vouched` says whether the old key has signed it.
fn rotated(size: u64, vouched: bool) -> pb::GetCustodyResponse {
    let mut answer = answer(9, 2, 3, 7);
    let change = |old: NodeKey, new: NodeKey, size, second| {
        let statement = NewKey {
            old: old.log_key(),
            new: &new,
            size,
            root: [0; 32],
            time: time(second),
        };
        statement.sign(vouched.then_some(&old)).unwrap().note()
    };
    let checkpoint: Note = answer.checkpoint.parse().unwrap();
    answer.checkpoint = key(5, "qidong").sign(checkpoint.checkpoint());
    if let Some(log) = &mut answer.log {
        log.verifier_key = key(5, "qidong").log_key().to_string();
        log.key_changes = vec![change(key(1, "qidong"), key(5, "qidong"), size, 0)];
    }
    let city = |seed| {
        let origin = "nantong.gov.cn/nantong/00000001";
        NodeKey::new(&[seed; 32], origin, "nantong.gov.cn/nantong")
    };
    answer.cosignatures[0].key_changes = vec![change(city(2), city(6), 0, 1_700_000_150)];
    answer
}

#[test]
fn one_who_trusts_a_key_trusts_what_it_has_led_to() {
    let custody = Custody::of(&rotated(7, true)).unwrap();
    let custody = Custody::parse(&custody.text()).unwrap();
    let proven = |trusted: &[VerifierKey]| {
        let ladder = custody.verify(trusted).unwrap();
        ladder
            .rungs
            .iter()
            .map(|rung| rung.trusted)
            .collect::<Vec<_>>()
    };
    // The keys of before, and those of now; a key that came later says which one it has followed.
    assert_eq!(proven(&trusted()), [true, true, true]);
    let now = [
        key(5, "qidong").log_key().clone(),
        key(6, "nantong").cosigner_key().clone(),
    ];
    assert_eq!(proven(&now), [true, true, false]);
    let stranger = [key(9, "qidong").log_key().clone()];
    assert!(custody.verify(&stranger).is_err());
    // Without the changes, the keys have nothing to do with each other.
    let bare = Custody {
        key_changes: Vec::new(),
        ..custody.clone()
    };
    assert!(bare.verify(&trusted()).is_err());
}

#[test]
fn a_key_is_believed_up_to_its_change_and_led_to_by_its_signature_alone() {
    // The province cosigned a tree of 7, which the old key had signed: more than it is believed for.
    let custody = Custody::of(&rotated(6, true)).unwrap();
    let refused = custody.verify(&trusted()).unwrap_err().to_string();
    assert!(refused.contains("believed up to size 6 only"), "{refused}");
    // Nobody but an operator vouches for the new key: one who trusts the old one has no reason to.
    let custody = Custody::of(&rotated(7, false)).unwrap();
    let refused = custody.verify(&trusted()).unwrap_err().to_string();
    assert!(refused.contains("another key"), "{refused}");
    // One who was told of the new key trusts it, and what it says of the one before.
    let now = [key(5, "qidong").log_key().clone()];
    assert!(custody.verify(&now).unwrap().rungs[0].trusted);
    // A cosignature of after the key was replaced.
    let mut late = rotated(7, true);
    late.cosignatures[0].key_changes = {
        let city = |seed| {
            let origin = "nantong.gov.cn/nantong/00000001";
            NodeKey::new(&[seed; 32], origin, "nantong.gov.cn/nantong")
        };
        let (old, new) = (city(2), city(6));
        let statement = NewKey {
            old: old.log_key(),
            new: &new,
            size: 0,
            root: [0; 32],
            time: time(1_700_000_099),
        };
        vec![statement.sign(Some(&old)).unwrap().note()]
    };
    let refused = Custody::of(&late).unwrap().verify(&trusted()).unwrap_err();
    assert!(refused.to_string().contains("was replaced at"), "{refused}");
}
