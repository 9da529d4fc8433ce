//! Tests of what only a journal on a disk can get wrong.

mod recovery;

use std::path::Path;

use super::*;
use crate::storage::suite::{assert_holds, entry, groups, log_suite, scan_all};

/// Small enough that a few groups roll over segments and settle.
pub(super) const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 300,
    settle_bytes: 500,
};

pub(super) fn open(dir: &Path) -> Journal {
    Journal::open(dir, JournalOptions::default()).unwrap()
}

fn open_small(dir: &Path) -> Journal {
    Journal::open(dir, SMALL).unwrap()
}

/// Closes without settling, as a kill would.
pub(super) fn kill(journal: Journal) {
    journal
        .writer(|writer| {
            writer.poison();
            Ok(())
        })
        .unwrap();
}

#[test]
fn it_keeps_the_contract() {
    log_suite(open);
}

#[test]
fn it_keeps_the_contract_with_small_segments() {
    log_suite(open_small);
}
