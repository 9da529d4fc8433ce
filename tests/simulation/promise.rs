//! What nodes have promised under their signatures, and whether they keep it.

use std::collections::BTreeMap;

use hefu::ledger::{Ledger, LogView, merkle::Hash, note::Note};

use crate::world::Wrong;

/// For every node and log: the largest tree that it has acknowledged or cosigned.
#[derive(Default)]
pub struct Promises {
    trees: BTreeMap<(String, String), (u64, Hash)>,
    /// Two different roots of one size, under one name.
    broken: Option<String>,
}

impl Promises {
    /// A node has put its name to a note, be it an own checkpoint that answers a submission, or a cosignature.
    pub fn note(&mut self, node: &str, note: &str) {
        let Ok(note) = note.parse::<Note>() else {
            return;
        };
        let checkpoint = note.checkpoint();
        let place = (node.to_owned(), checkpoint.origin.clone());
        let promised = self
            .trees
            .entry(place)
            .or_insert((checkpoint.size, checkpoint.root));
        if checkpoint.size == promised.0 && checkpoint.root != promised.1 {
            let (size, origin) = (checkpoint.size, &checkpoint.origin);
            self.broken = Some(format!("{node} gave two roots of {origin} at size {size}"));
        }
        if checkpoint.size > promised.0 {
            *promised = (checkpoint.size, checkpoint.root);
        }
    }

    /// Whether a node holds what it has promised.
    ///
    /// # Errors
    /// What it has lost.
    pub fn kept(&self, node: &str, ledger: &Ledger) -> Result<(), Wrong> {
        if let Some(broken) = &self.broken {
            return Err(Wrong(broken.clone()));
        }
        for ((by, origin), (size, root)) in &self.trees {
            if by != node {
                continue;
            }
            let held = ledger.log(origin);
            let found = held.as_ref().and_then(|view| root_of(ledger, view, *size));
            if found != Some(*root) {
                let held = held.map_or(0, |view| view.tree.size());
                return Err(Wrong(format!(
                    "{node} has promised {size} entries of {origin} and holds {held}, or others"
                )));
            }
        }
        Ok(())
    }

    /// How much a node has promised of a log.
    #[must_use]
    pub fn size(&self, node: &str, origin: &str) -> u64 {
        let place = (node.to_owned(), origin.to_owned());
        self.trees.get(&place).map_or(0, |(size, _)| *size)
    }
}

/// The root of a log's first entries; `None` where it is shorter.
#[must_use]
pub fn root_of(ledger: &Ledger, view: &LogView, size: u64) -> Option<Hash> {
    if size > view.tree.size() {
        return None;
    }
    ledger.root_at(view, size).ok()
}
