//! The auditor names every defect, reads on behind it, and touches nothing.

use std::collections::BTreeMap;

use super::*;

fn audit(dir: &Path) -> (Vec<Frame>, Vec<Defect>, Vec<Finding>) {
    let (mut frames, mut defects, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for finding in Journal::read_only(dir).unwrap().walk() {
        match finding {
            Finding::Frame(_, frame) => frames.push(frame),
            Finding::Defect(defect) => defects.push(defect),
            Finding::Tail { .. } => tails.push(finding),
        }
    }
    (frames, defects, tails)
}

fn closed(dir: &Path, options: JournalOptions) {
    let journal = Journal::open(dir, options).unwrap();
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    journal.close().unwrap();
}

fn flip(path: &Path, byte: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte as usize] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The frames of the groups, and where they begin in a single segment.
fn offsets() -> (Vec<Frame>, Vec<u64>) {
    let frames = some_groups().concat();
    let mut offset = SEGMENT_HEADER as u64;
    let mut offsets = Vec::new();
    for frame in &frames {
        offsets.push(offset);
        offset += (FRAME_HEADER + frame.payload.len()) as u64;
    }
    (frames, offsets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_sound_journal_has_no_defect(groups in groups(), is_clean: bool) {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), SMALL).unwrap();
        for group in &groups {
            journal.append(group).unwrap();
        }
        // Also while it is open.
        prop_assert_eq!(audit(dir.path()), (groups.concat(), vec![], vec![]));
        if is_clean { journal.close().unwrap() } else { kill(journal) }
        prop_assert_eq!(audit(dir.path()), (groups.concat(), vec![], vec![]));
    }
}

#[test]
fn it_changes_nothing() {
    let snapshot = |dir: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let files = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .filter(|path| path.is_file())
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect()
    };
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), JournalOptions::default(), &some_groups());
    let file = seg(dir.path(), 1);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    let before = snapshot(dir.path());
    let (frames, defects, tails) = audit(dir.path());
    assert_eq!(frames, some_groups()[..3].concat());
    assert_eq!((defects.len(), tails.len()), (0, 1));
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_damaged_payload_is_named_and_stepped_over() {
    let (frames, offsets) = offsets();
    for (i, offset) in offsets.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        closed(dir.path(), JournalOptions::default());
        flip(&seg(dir.path(), 1), offset + FRAME_HEADER as u64);
        let (found, defects, tails) = audit(dir.path());
        let mut expected = frames.clone();
        let bad = expected.remove(i);
        assert_eq!(found, expected);
        assert_eq!(tails, []);
        assert_eq!(
            defects,
            [Defect {
                file: seg(dir.path(), 1),
                offset: offsets[i],
                entry: Some((bad.log, bad.index)),
                damage: Damage::Payload,
            }]
        );
    }
}

#[test]
fn a_damaged_header_is_named_and_the_next_frame_found() {
    let (frames, offsets) = offsets();
    for i in 0..frames.len() {
        let dir = tempfile::tempdir().unwrap();
        closed(dir.path(), JournalOptions::default());
        flip(&seg(dir.path(), 1), offsets[i] + 9);
        let (found, defects, tails) = audit(dir.path());
        let mut expected = frames.clone();
        let bad = expected.remove(i);
        assert_eq!(found, expected);
        assert_eq!(tails, []);
        assert_eq!(defects[0].offset, offsets[i]);
        assert_eq!(defects[0].damage, Damage::FrameHeader);
        // The entry that is lost shows as a gap where its log goes on.
        let goes_on = frames[i + 1..].iter().find(|frame| frame.log == bad.log);
        let gaps: Vec<_> = defects[1..].iter().map(|d| (d.entry, d.damage)).collect();
        let expected = goes_on.map(|next| (Some((next.log, next.index)), Damage::Gap));
        assert_eq!(gaps, Vec::from_iter(expected));
    }
}

#[test]
fn every_flipped_bit_is_found() {
    for options in [JournalOptions::default(), SMALL] {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), options, &some_groups());
        let file = seg(dir.path(), 1);
        let bytes = std::fs::read(&file).unwrap();
        for byte in SEGMENT_HEADER as u64..bytes.len() as u64 {
            flip(&file, byte);
            let (found, defects, tails) = audit(dir.path());
            assert!(defects.len() + tails.len() > 0, "byte {byte}");
            assert!(
                found
                    .iter()
                    .all(|frame| some_groups().concat().contains(frame))
            );
            std::fs::write(&file, &bytes).unwrap();
        }
    }
}

#[test]
fn it_reads_on_in_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        segment_bytes: 160,
        ..JournalOptions::default()
    };
    killed(dir.path(), options, &some_groups());
    let len = std::fs::metadata(seg(dir.path(), 2)).unwrap().len();
    // The length of the segment's last frame: nothing behind it in this file can be found.
    let frame = (FRAME_HEADER + entry(1, 2).payload.len()) as u64;
    flip(&seg(dir.path(), 2), len - frame + 8);
    let (found, defects, tails) = audit(dir.path());
    let mut expected = some_groups().concat();
    expected.retain(|frame| *frame != entry(1, 2));
    assert_eq!(found, expected);
    assert_eq!((defects.len(), tails.len()), (1, 0), "{defects:?}");
    assert_eq!(defects[0].file, seg(dir.path(), 2));
}

#[test]
fn an_index_that_points_elsewhere_is_named() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path(), JournalOptions::default());
    let index = dir.path().join("index/00000001.idx");
    flip(&index, 1 + index::RECORD as u64);
    let (found, defects, _) = audit(dir.path());
    assert_eq!(found, some_groups().concat());
    assert_eq!(
        defects,
        [Defect {
            file: index,
            offset: index::RECORD as u64,
            entry: Some((LogNo(1), LogIndex(1))),
            damage: Damage::Index,
        }]
    );
    std::fs::remove_file(dir.path().join("index/00000000.idx")).unwrap();
    assert_eq!(audit(dir.path()).1.len(), 6);
}

#[test]
fn a_journal_shorter_than_its_mark_is_named() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path(), JournalOptions::default());
    let file = seg(dir.path(), 1);
    let bytes = std::fs::read(&file).unwrap();
    let group: usize = some_groups()[3]
        .iter()
        .map(|f| FRAME_HEADER + f.payload.len())
        .sum();
    for cut in [group, group - 1, 1] {
        std::fs::write(&file, &bytes[..bytes.len() - cut]).unwrap();
        let (found, defects, tails) = audit(dir.path());
        assert!(found.starts_with(&some_groups()[..3].concat()));
        assert_eq!(defects.last().unwrap().damage, Damage::Shorter);
        assert_eq!(tails, []);
    }
}

#[test]
fn there_must_be_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Journal::read_only(dir.path()),
        Err(StorageError::Failed { .. })
    ));
    assert!(Journal::read_only(&dir.path().join("none")).is_err());
}
