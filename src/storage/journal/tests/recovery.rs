//! After a crash: whole groups are kept, the torn one is cut.

use std::fs::File;

use super::*;

/// A journal without a mark in one segment: its bytes, and where its groups end in the file.
fn one_segment(dir: &Path) -> (Vec<u8>, Vec<usize>) {
    let journal = open(dir);
    let mut ends = vec![SEGMENT_HEADER];
    for group in some_groups() {
        let end = journal.append(&group).unwrap();
        ends.push(SEGMENT_HEADER + end.0 as usize);
    }
    kill(journal);
    (std::fs::read(seg(dir, 1)).unwrap(), ends)
}

fn whole_groups(ends: &[usize], len: usize) -> usize {
    ends.iter().filter(|end| **end <= len).count() - 1
}

#[test]
fn a_journal_cut_anywhere_opens_at_its_last_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = one_segment(dir.path());
    let groups = some_groups();
    for len in 0..=bytes.len() {
        std::fs::write(seg(dir.path(), 1), &bytes[..len]).unwrap();
        let opened = Journal::open(dir.path(), JournalOptions::default());
        if len < SEGMENT_HEADER {
            assert!(corrupt(opened).contains("00000001.seg"));
            continue;
        }
        let whole = whole_groups(&ends, len);
        let journal = opened.unwrap();
        assert_holds(&journal, &groups[..whole]);
        assert_eq!(journal.end().0 as usize, ends[whole] - SEGMENT_HEADER);
        if let Some(next) = groups.get(whole) {
            journal.append(next).unwrap();
        }
        kill(journal);
    }
}

#[test]
fn what_was_cut_can_be_appended_again() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = one_segment(dir.path());
    std::fs::write(seg(dir.path(), 1), &bytes[..bytes.len() - 1]).unwrap();
    let (groups, last) = (some_groups(), some_groups().len() - 1);
    let journal = open(dir.path());
    assert_holds(&journal, &groups[..last]);
    journal.append(&groups[last]).unwrap();
    kill(journal);
    assert_holds(&open(dir.path()), &groups);
    assert_eq!(std::fs::read(seg(dir.path(), 1)).unwrap(), bytes);
}

#[test]
fn cut_bytes_are_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = one_segment(dir.path());
    std::fs::write(seg(dir.path(), 1), &bytes[..bytes.len() - 1]).unwrap();
    open(dir.path());
    let end = ends[ends.len() - 2];
    let aside = dir.path().join(format!("cut-{}", end - SEGMENT_HEADER));
    assert_eq!(std::fs::read(aside).unwrap(), bytes[end..bytes.len() - 1]);
}

#[test]
fn pages_that_arrived_out_of_order_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = one_segment(dir.path());
    let start = ends[ends.len() - 2];
    let mut torn = bytes;
    // The group's first frame never reached the disk; its second and last one did.
    torn[start..start + FRAME_HEADER].fill(0);
    std::fs::write(seg(dir.path(), 1), torn).unwrap();
    assert_holds(&open(dir.path()), &some_groups()[..3]);
}

#[test]
fn zeros_behind_the_end_are_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = one_segment(dir.path());
    for zeros in [1, FRAME_HEADER, 600_000] {
        let file = OpenOptions::new()
            .write(true)
            .open(seg(dir.path(), 1))
            .unwrap();
        file.set_len((bytes.len() + zeros) as u64).unwrap();
        assert_holds(&open(dir.path()), &some_groups());
    }
}

#[test]
fn an_entry_that_looks_like_a_frame_does_not_pass_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    // What an agency could send: a well-formed frame of a later group, but of another journal.
    let forged = FrameHeader::new(&entry(0, 1), 2, true).encode(JournalId(1));
    let payload = [forged.as_slice(), &entry(0, 1).payload].concat();
    let group = vec![Frame {
        payload: payload.into(),
        ..entry(0, 0)
    }];
    journal.append(&group).unwrap();
    kill(journal);
    let whole = std::fs::read(seg(dir.path(), 1)).unwrap();
    std::fs::write(seg(dir.path(), 1), &whole[..whole.len() - 1]).unwrap();
    assert_holds(&open(dir.path()), &[]);
}

#[test]
fn a_crash_after_the_roll_leaves_an_empty_segment() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), JournalOptions::default(), &some_groups()[..2]);
    let recovered = recover::recover(dir.path()).unwrap();
    let header = format::SegmentHeader {
        number: 2,
        base: recovered.end,
        ..recovered.last
    };
    drop(segment::create(dir.path(), &header).unwrap());
    std::fs::write(dir.path().join("00000003.seg.tmp"), b"and a half-made one").unwrap();
    let journal = open(dir.path());
    assert_holds(&journal, &some_groups()[..2]);
    for group in &some_groups()[2..] {
        journal.append(group).unwrap();
    }
    kill(journal);
    assert_holds(&open(dir.path()), &some_groups());
}

#[test]
fn an_index_that_is_ahead_behind_or_gone_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let index = dir.path().join("index/00000000.idx");
    let journal = open(dir.path());
    journal.append(&some_groups()[0]).unwrap();
    journal.settle().unwrap();
    for group in &some_groups()[1..] {
        journal.append(group).unwrap();
    }
    kill(journal);
    let bytes = std::fs::read(&index).unwrap();
    assert_eq!(bytes.len(), 5 * index::RECORD);
    for found in [
        [&bytes[..], &[9; 40]].concat(),
        bytes[..20].to_vec(),
        Vec::new(),
    ] {
        std::fs::write(&index, &found).unwrap();
        let journal = open(dir.path());
        assert_holds(&journal, &some_groups());
        kill(journal);
    }
    std::fs::remove_dir_all(index.parent().unwrap()).unwrap();
    assert_holds(&open(dir.path()), &some_groups());
}

#[test]
fn an_empty_journal_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    kill(open(dir.path()));
    assert_eq!(
        File::open(seg(dir.path(), 1))
            .unwrap()
            .metadata()
            .unwrap()
            .len(),
        40
    );
    open(dir.path()).close().unwrap();
    assert_holds(&open(dir.path()), &[]);
}
