use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::types::ManualClock;

fn start() -> Timestamp {
    "2026-11-23T10:00:00Z".parse().unwrap()
}

fn record(caller: &str, reason: &str) -> AuditRecord {
    AuditRecord {
        caller: caller.into(),
        method: "/hefu.risk.v1.RiskService/GetRisk".into(),
        reason: reason.into(),
        code: i32::from(!reason.is_empty()) * 5,
        ..AuditRecord::default()
    }
}

struct Scene {
    folder: TempDir,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(start())),
        }
    }

    fn open(&self) -> Trail {
        Trail::open(self.folder.path(), 200, self.clock.clone()).unwrap()
    }

    fn days(&self, days: i64) {
        self.clock
            .advance(Duration::from_secs(86_400 * u64::try_from(days).unwrap()));
    }

    fn files(&self) -> Vec<PathBuf> {
        let items = std::fs::read_dir(self.folder.path()).unwrap();
        let mut files: Vec<_> = items.map(|item| item.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "audit"));
        files.sort();
        files
    }
}

#[test]
fn records_are_chained_over_files_and_restarts() {
    let scene = Scene::new();
    for day in 0..4 {
        let trail = scene.open();
        for n in 0..3 {
            trail
                .write(record(&format!("caller {day}.{n}"), ""))
                .unwrap();
        }
        scene.days(1);
    }
    let trail = scene.open();
    assert_eq!(scene.files().len(), 4);
    assert_eq!(trail.head().size, 12);
    let checked = verify(scene.folder.path()).unwrap();
    assert_eq!((checked.records, checked.oldest), (12, 0));
    assert_eq!(checked.hash, trail.head().hash);
    let (_, records) = trail.file_of(4).unwrap().unwrap();
    let callers: Vec<_> = records.iter().map(|r| r.record.caller.as_str()).collect();
    assert_eq!(callers, ["caller 1.0", "caller 1.1", "caller 1.2"]);
    assert!(trail.file_of(12).unwrap().is_none());
}

#[test]
fn old_files_go_and_the_chain_holds() {
    let scene = Scene::new();
    let trail = scene.open();
    for _ in 0..300 {
        trail.write(record("a", "")).unwrap();
        trail.sync().unwrap();
        scene.days(1);
    }
    let head = trail.head();
    assert_eq!(head.size, 300);
    assert!((98..=100).contains(&head.oldest), "{}", head.oldest);
    let checked = verify(scene.folder.path()).unwrap();
    assert_eq!((checked.oldest, checked.hash), (head.oldest, head.hash));
    // What is gone is answered with what is left.
    let (_, records) = trail.file_of(0).unwrap().unwrap();
    assert_eq!(
        records[0].record.sequence,
        i64::try_from(head.oldest).unwrap()
    );
}

#[test]
fn a_flood_is_folded_and_counted() {
    let scene = Scene::new();
    let trail = scene.open();
    for _ in 0..1_000 {
        trail.write(record("hostile", "RECORD_NOT_FOUND")).unwrap();
        trail.write(record("honest", "")).unwrap();
    }
    trail.write(record("other", "RECORD_NOT_FOUND")).unwrap();
    trail.sync().unwrap();
    let (_, records) = trail.file_of(0).unwrap().unwrap();
    let of = |caller: &str| {
        let found = records.iter().filter(|r| r.record.caller == caller);
        found.map(|r| r.record.count.max(1)).collect::<Vec<_>>()
    };
    let hostile = of("hostile");
    assert_eq!(hostile.len(), 21);
    assert_eq!(hostile.iter().sum::<i64>(), 1_000);
    assert_eq!((of("honest").len(), of("other").len()), (1_000, 1));
}

#[test]
fn a_cut_end_is_cut_off_and_the_trail_goes_on() {
    let scene = Scene::new();
    let trail = scene.open();
    for n in 0..3 {
        trail.write(record(&format!("{n}"), "")).unwrap();
    }
    drop(trail);
    let path = scene.files().remove(0);
    let whole = std::fs::read(&path).unwrap();
    let two = {
        let segment = Segment::read(&path).unwrap();
        whole.len() - frame_length(&segment.records[2])
    };
    for end in two..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(verify(scene.folder.path()).is_err(), end != two);
        let trail = scene.open();
        assert_eq!(trail.head().size, 2, "{end}");
        trail.write(record("next", "")).unwrap();
        drop(trail);
        assert_eq!(verify(scene.folder.path()).unwrap().records, 3);
    }
}

/// A power cut leaves anything behind what was synced; what was synced must be there.
#[test]
fn what_was_not_synced_may_be_anything_and_is_cut_off() {
    let scene = Scene::new();
    let trail = scene.open();
    for n in 0..6 {
        trail.write(record(&format!("{n}"), "")).unwrap();
        if n == 2 {
            trail.sync().unwrap();
        }
    }
    drop(trail);
    let path = scene.files().remove(0);
    let whole = std::fs::read(&path).unwrap();
    let segment = Segment::read(&path).unwrap();
    let tail: usize = segment.records[3..].iter().map(frame_length).sum();
    let durable = whole.len() - tail;
    for at in [durable, durable + 3, durable + 50, whole.len() - 60] {
        for filling in [0, 0xff] {
            let mut spoilt = whole.clone();
            spoilt[at..].fill(filling);
            std::fs::write(&path, spoilt).unwrap();
            let trail = scene.open();
            assert!((3..6).contains(&trail.head().size), "{at}");
            trail.write(record("next", "")).unwrap();
            trail.sync().unwrap();
            drop(trail);
            verify(scene.folder.path()).unwrap();
            std::fs::write(&path, &whole).unwrap();
            std::fs::write(scene.folder.path().join("mark"), scene_mark(&segment)).unwrap();
        }
    }
    // What was synced is never cut off in silence.
    for end in [durable - 1, durable - 40] {
        std::fs::write(&path, &whole[..end]).unwrap();
        let opened = Trail::open(scene.folder.path(), 200, scene.clock.clone());
        assert!(matches!(opened, Err(AuditError::Damaged { .. })));
        verify(scene.folder.path()).unwrap_err();
    }
}

/// The mark after the first three records, as a file.
fn scene_mark(segment: &Segment) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mark");
    let (mut file, _) = SlotFile::open(&path).unwrap();
    let value = [3_u64.to_be_bytes().as_slice(), &segment.records[2].hash].concat();
    file.write(&value).unwrap();
    std::fs::read(path).unwrap()
}

fn frame_length(chained: &Chained) -> usize {
    segment::frame(&chained.bytes, &chained.hash).len()
}

#[test]
fn every_flipped_bit_is_found() {
    let scene = Scene::new();
    let trail = scene.open();
    for n in 0..4 {
        trail.write(record(&format!("{n}"), "")).unwrap();
        if n == 1 {
            scene.days(1);
        }
    }
    drop(trail);
    for path in scene.files() {
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            verify(scene.folder.path()).unwrap_err();
        }
        std::fs::write(&path, whole).unwrap();
    }
    assert_eq!(verify(scene.folder.path()).unwrap().records, 4);
}

#[test]
fn what_was_taken_out_or_swapped_is_found() {
    let scene = Scene::new();
    let trail = scene.open();
    for n in 0..6 {
        trail.write(record(&format!("{n}"), "")).unwrap();
        if n % 2 == 1 {
            scene.days(1);
        }
    }
    drop(trail);
    let files = scene.files();
    let path = &files[0];
    let whole = std::fs::read(path).unwrap();
    let segment = Segment::read(path).unwrap();
    let first = frame_length(&segment.records[0]);
    let header = whole.len() - first - frame_length(&segment.records[1]);
    let without = [&whole[..header], &whole[header + first..]].concat();
    let swapped = [&without, &whole[header..header + first]].concat();
    for wrong in [without, swapped, whole[..header + first].to_vec()] {
        std::fs::write(path, wrong).unwrap();
        verify(scene.folder.path()).unwrap_err();
    }
    std::fs::write(path, whole).unwrap();
    let aside = scene.folder.path().join("aside");
    let middle = std::fs::read(&files[1]).unwrap();
    std::fs::write(&aside, middle).unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    let error = verify(scene.folder.path()).unwrap_err().to_string();
    assert!(error.contains("record 2 is missing"), "{error}");
}

#[test]
fn a_trail_that_cannot_be_written_says_so_for_good() {
    let scene = Scene::new();
    let trail = scene.open();
    let failing = trail.failing();
    trail.write(record("a", "")).unwrap();
    // A file that is open for reading only fails as a full disk would.
    trail.lock().file = File::open(scene.files().remove(0)).unwrap();
    trail.write(record("b", "")).unwrap_err();
    assert!(*failing.borrow());
    assert!(trail.write(record("c", "")).is_err() && trail.sync().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is written, at whatever times, with whatever restarts: it is there, in order, and verifies.
    #[test]
    fn the_trail_is_what_was_written(
        steps in prop::collection::vec((0_u8..10, "[a-z]{1,400}", 0_i64..3), 1..60),
    ) {
        let scene = Scene::new();
        let mut trail = scene.open();
        let mut written = Vec::new();
        for (step, text, days) in steps {
            match step {
                0 => trail = { drop(trail); scene.open() },
                1 => scene.days(days),
                2 => trail.sync().unwrap(),
                _ => {
                    trail.event(text.clone()).unwrap();
                    written.push(text.chars().take(MAX_TEXT).collect::<String>());
                }
            }
        }
        let mut read = Vec::new();
        while let Some((_, records)) = trail.file_of(read.len() as u64).unwrap() {
            read.extend(records.into_iter().map(|r| r.record.event));
        }
        prop_assert_eq!(read, written.clone());
        let checked = verify(scene.folder.path()).unwrap();
        prop_assert_eq!(checked.records, written.len() as u64);
        prop_assert_eq!(checked.hash, trail.head().hash);
    }
}
