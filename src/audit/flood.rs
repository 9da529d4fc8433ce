//! Floods of refusals: past a few a second, those alike are counted instead of written, so that nobody
//! fills the disk by being refused.

use std::collections::BTreeMap;

use crate::proto::audit::v1::AuditRecord;

/// Refusals alike that are written each second; further ones are counted.
const WRITTEN: u64 = 20;
/// Kinds of refusals that are told apart each second; further ones count as one.
const KINDS: usize = 1_000;

/// Refusals since the last second ended.
#[derive(Default)]
pub(super) struct Flood(BTreeMap<(String, String, String), (u64, AuditRecord)>);

impl Flood {
    /// Whether the record is counted, and not to be written.
    pub fn folds(&mut self, record: &AuditRecord) -> bool {
        if record.reason.is_empty() || record.rows.is_some_and(|rows| rows != Default::default()) {
            return false;
        }
        let who = if record.caller.is_empty() {
            // A stranger's port changes with every connection.
            record.address.rsplit_once(':').map_or("", |(host, _)| host)
        } else {
            &record.caller
        };
        let mut kind = (who.to_owned(), record.method.clone(), record.reason.clone());
        if !self.0.contains_key(&kind) && self.0.len() >= KINDS {
            kind = Default::default();
        }
        let (seen, last) = self.0.entry(kind).or_default();
        *seen += 1;
        if *seen <= WRITTEN {
            return false;
        }
        last.clone_from(record);
        true
    }

    /// Ends the second: one record for each kind that was counted.
    pub fn end(&mut self) -> Vec<AuditRecord> {
        let counted = std::mem::take(&mut self.0).into_values();
        counted
            .filter(|(seen, _)| *seen > WRITTEN)
            .map(|(seen, last)| AuditRecord {
                count: i64::try_from(seen - WRITTEN).unwrap_or(i64::MAX),
                resource: String::new(),
                call_id: String::new(),
                ..last
            })
            .collect()
    }
}
