//! Damage to what was acknowledged: it is refused or read right, never read wrong.

use super::*;

/// Flips each bit of a file in turn and runs the test on it; then puts the file back.
fn for_each_flip(path: &Path, mut test: impl FnMut(usize)) {
    let bytes = std::fs::read(path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut bent = bytes.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(path, bent).unwrap();
        test(bit / 8);
    }
    std::fs::write(path, bytes).unwrap();
}

/// Reads everything; each answer must be right or damage. Says whether damage was met.
fn reads_right_or_not_at_all(journal: &Journal, groups: &[Vec<Frame>]) -> bool {
    let mut is_damaged = false;
    let frames = groups.concat();
    for frame in &frames {
        match journal.read(frame.log, frame.index) {
            Ok(payload) => assert_eq!(payload.as_ref(), Some(&frame.payload)),
            Err(StorageError::Corrupt { what }) => {
                is_damaged = true;
                let place = format!("log {}, index {}", frame.log.0, frame.index.0);
                assert!(what.contains(&place), "{what}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    match journal.scan(Position(0), usize::MAX) {
        Ok(scan) => assert!(scan.frames.into_iter().map(|(_, frame)| frame).eq(frames)),
        Err(StorageError::Corrupt { what }) => {
            is_damaged = true;
            assert!(what.contains(".seg"), "{what}");
        }
        Err(other) => panic!("{other}"),
    }
    is_damaged
}

#[test]
fn a_flipped_bit_without_a_mark_is_refused_or_cuts_the_last_group() {
    let dir = tempfile::tempdir().unwrap();
    let groups = some_groups();
    killed(dir.path(), JournalOptions::default(), &groups[..3]);
    let last = std::fs::metadata(seg(dir.path(), 1)).unwrap().len() as usize;
    killed(dir.path(), JournalOptions::default(), &groups[3..]);
    let name = seg(dir.path(), 1).display().to_string();
    let (mut refused, mut cut) = (0, 0);
    for_each_flip(&seg(dir.path(), 1), |byte| {
        let opened = Journal::open(dir.path(), JournalOptions::default());
        if byte < last {
            let what = corrupt(opened);
            assert!(what.contains(&name), "byte {byte}: {what}");
            refused += 1;
        } else {
            let journal = opened.unwrap();
            assert_holds(&journal, &groups[..3]);
            kill(journal);
            cut += 1;
        }
    });
    assert!(refused > 1_000 && cut > 500);
}

#[test]
fn a_flipped_bit_in_any_but_the_last_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        segment_bytes: 160,
        ..JournalOptions::default()
    };
    killed(dir.path(), options, &some_groups());
    assert!(seg(dir.path(), 3).exists());
    for number in 1..=2 {
        for_each_flip(&seg(dir.path(), number), |_| {
            let what = corrupt(Journal::open(dir.path(), options));
            assert!(what.contains(&format!("{number:08}.seg")), "{what}");
        });
    }
}

#[test]
fn a_flipped_bit_before_the_mark_is_met_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    journal.close().unwrap();
    for_each_flip(&seg(dir.path(), 1), |byte| {
        let opened = Journal::open(dir.path(), JournalOptions::default());
        if byte < SEGMENT_HEADER {
            assert!(corrupt(opened).contains("00000001.seg"));
        } else {
            let journal = opened.unwrap();
            assert!(
                reads_right_or_not_at_all(&journal, &some_groups()),
                "byte {byte}"
            );
            kill(journal);
        }
    });
}

#[test]
fn a_journal_cut_before_its_mark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    journal.close().unwrap();
    let bytes = std::fs::read(seg(dir.path(), 1)).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(seg(dir.path(), 1), &bytes[..len]).unwrap();
        let what = corrupt(Journal::open(dir.path(), JournalOptions::default()));
        assert!(what.contains("00000001.seg"), "{what}");
    }
}

#[test]
fn damage_before_the_mark_is_never_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    journal.close().unwrap();
    // Without its index, everything is read again; the mark still stands.
    std::fs::remove_file(dir.path().join("index/00000000.idx")).unwrap();
    let file = seg(dir.path(), 1);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let what = corrupt(Journal::open(dir.path(), JournalOptions::default()));
    assert!(what.contains("log 0, index 4"), "{what}");
}

#[test]
fn a_flipped_bit_of_the_mark_or_an_index_costs_time_only() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    journal.close().unwrap();
    let mark = std::fs::read(dir.path().join("mark")).unwrap();
    for name in ["mark", "index/00000000.idx", "index/00000001.idx"] {
        for_each_flip(&dir.path().join(name), |_| {
            let journal = open(dir.path());
            assert_holds(&journal, &some_groups());
            kill(journal);
            if name != "mark" {
                std::fs::write(dir.path().join("mark"), &mark).unwrap();
            }
        });
    }
}

#[test]
fn an_index_that_is_damaged_while_open_never_gives_another_entry() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for group in some_groups() {
        journal.append(&group).unwrap();
    }
    for_each_flip(&dir.path().join("index/00000000.idx"), |byte| {
        assert!(
            reads_right_or_not_at_all(&journal, &some_groups()),
            "byte {byte}"
        );
    });
    std::fs::write(dir.path().join("index/00000000.idx"), b"").unwrap();
    assert!(reads_right_or_not_at_all(&journal, &some_groups()));
}

/// A journal of several segments.
fn rolled(dir: &Path) -> JournalOptions {
    let options = JournalOptions {
        segment_bytes: 160,
        ..JournalOptions::default()
    };
    killed(dir, options, &some_groups());
    options
}

#[test]
fn a_missing_segment_is_named() {
    for number in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let options = rolled(dir.path());
        std::fs::remove_file(seg(dir.path(), number)).unwrap();
        let what = corrupt(Journal::open(dir.path(), options));
        assert!(
            what.contains(&format!("{number:08}.seg is missing")),
            "{what}"
        );
    }
}

#[test]
fn a_missing_last_segment_is_seen_by_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let options = rolled(dir.path());
    Journal::open(dir.path(), options).unwrap().close().unwrap();
    std::fs::remove_file(seg(dir.path(), 3)).unwrap();
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("was durable"), "{what}");
    for number in 1..=2 {
        std::fs::remove_file(seg(dir.path(), number)).unwrap();
    }
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("segments are gone"), "{what}");
}

#[test]
fn a_foreign_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let options = rolled(dir.path());
    std::fs::write(seg(dir.path(), 4), [b'x'; 100]).unwrap();
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("not a hefu journal segment"), "{what}");
    crate::storage::durable::rename(&seg(dir.path(), 4), &dir.path().join("old.seg")).unwrap();
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("old.seg"), "{what}");
    crate::storage::durable::rename(&dir.path().join("old.seg"), &dir.path().join("lost+found"))
        .unwrap();
    assert_holds(&Journal::open(dir.path(), options).unwrap(), &some_groups());
}

#[test]
fn a_segment_of_another_journal_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = rolled(dir.path());
    rolled(other.path());
    std::fs::copy(seg(other.path(), 2), seg(dir.path(), 2)).unwrap();
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("belongs to another journal"), "{what}");
}

#[test]
fn a_segment_under_another_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = rolled(dir.path());
    std::fs::copy(seg(dir.path(), 1), seg(dir.path(), 2)).unwrap();
    let what = corrupt(Journal::open(dir.path(), options));
    assert!(what.contains("is segment 1 under another name"), "{what}");
}

#[test]
fn a_newer_format_is_named() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), SMALL, &[]);
    let mut head = std::fs::read(seg(dir.path(), 1)).unwrap();
    head[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), &head[16..]);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(seg(dir.path(), 1), head).unwrap();
    let what = corrupt(Journal::open(dir.path(), SMALL));
    assert!(what.contains("version 2"), "{what}");
}

#[test]
fn a_position_within_a_frame_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append(&some_groups()[0]).unwrap();
    let scan = journal.scan(Position(0), usize::MAX).unwrap();
    for position in 0..journal.end().0 {
        let is_start = scan.frames.iter().any(|(start, _)| start.0 == position);
        assert_eq!(
            journal.scan(Position(position), 0).is_ok(),
            is_start,
            "{position}"
        );
    }
}
