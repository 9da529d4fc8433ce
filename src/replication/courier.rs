//! Courier files: replication between networks that must not touch.
//!
//! A child writes what it would have sent, somebody carries the file to the parent, which takes it in
//! through [`super::Mirror`], as if it had come over a stream, and writes what it would have answered;
//! carried back, that receipt counts as cosignatures do. `courier.proto` says how the file is laid out.

mod export;
mod file;
mod import;
mod receipt;

pub use export::export;
pub use file::{Chunks, Incoming, Summary, check};
pub use import::import;
pub use receipt::receive;

use crate::types::{Reason, Refusal};

/// What a file moved of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The origin.
    pub origin: String,
    /// Entries held, or cosigned, before.
    pub before: u64,
    /// Entries held, or cosigned, now.
    pub after: u64,
    /// Why nothing more was taken.
    pub refused: Option<(i32, String)>,
}

fn misplaced(en: String, zh: String) -> Refusal {
    Refusal::new(Reason::CourierMisplaced).because(en, zh)
}

/// A file that goes on behind what is held.
fn gap(start: u64, held: u64) -> Refusal {
    misplaced(
        format!(
            "the file goes on at entry {start} and {held} are held; import the file before it \
             first, or export again"
        ),
        format!("文件从第 {start} 条开始，而现有 {held} 条，请先导入前一个文件，或重新导出"),
    )
}
