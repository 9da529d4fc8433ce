//! The ledger's keys in the derived state. Tags are on disk and stay; numbers are big-endian, so
//! that key order is number order. `i` and `a` belong to registers.
//!
//! | key | value |
//! |---|---|
//! | `!applied` | what the state reflects: a journal position u64, and frames behind it u32 |
//! | `!format` | version of this layout, u32 |
//! | `l` log u32 | `hefu.ledger.v1.Log`: origin and key |
//! | `o` origin | log u32 |
//! | `s` log u32 | entries applied, u64 |
//! | `k` log u32 | newest checkpoint received, a note with this node's cosignature |
//! | `c` log u32, size u64 | checkpoint received at that size, a note |
//! | `g` log u32, node | `hefu.ledger.v1.Cosignature`: another node's newest one |
//! | `r` log u32, node 0 size u64 | `hefu.ledger.v1.Cosignature`: that node's first one of that size |
//! | `e` log u32 | `hefu.ledger.v1.Evidence`: why the log is quarantined |
//! | `t` log u32, level u8, number u64 | a full tile: 64 hashes |
//! | `h` register 0 agency 0 item | [`super::head::Head`] of a record |
//! | `q` agency 0 uuid | what a request_id did: log u32, index u64, hash |
//! | `n` register 0 log u32 | records of a register in a log: live u64, withdrawn u64 |
//! | `b` agency | bytes of the agency's entries in the own log, u64 |
//! | `u` log u32 | entries that are carried but not indexed, u64 |

use crate::types::{AgencyId, LogNo, RecordName, RegisterId, RequestId};

/// The version of the layout. A state of another version is rebuilt.
pub const FORMAT: u32 = 4;
/// See the table.
pub const APPLIED: &[u8] = b"!applied";
/// See the table.
pub const FORMAT_KEY: &[u8] = b"!format";
/// Prefix of all logs.
pub const LOGS: &[u8] = b"l";
/// Prefix of all quarantined logs.
pub const EVIDENCE: &[u8] = b"e";
/// Prefix of the counts of all registers.
pub const COUNTS: &[u8] = b"n";
/// The prefix under which registers keep their index keys.
pub const INDEX: u8 = b'i';
/// The prefix under which registers keep what statistics count.
pub const TALLIES: u8 = b'a';

fn of_log(tag: u8, log: LogNo) -> Vec<u8> {
    let mut key = vec![tag];
    key.extend_from_slice(&log.0.to_be_bytes());
    key
}

/// See the table.
#[must_use]
pub fn log(log: LogNo) -> Vec<u8> {
    of_log(b'l', log)
}

/// See the table.
#[must_use]
pub fn origin(origin: &str) -> Vec<u8> {
    [b"o", origin.as_bytes()].concat()
}

/// See the table.
#[must_use]
pub fn size(log: LogNo) -> Vec<u8> {
    of_log(b's', log)
}

/// See the table.
#[must_use]
pub fn newest_checkpoint(log: LogNo) -> Vec<u8> {
    of_log(b'k', log)
}

/// Prefix of a log's checkpoints by size.
#[must_use]
pub fn checkpoints(log: LogNo) -> Vec<u8> {
    of_log(b'c', log)
}

/// See the table.
#[must_use]
pub fn checkpoint(log: LogNo, size: u64) -> Vec<u8> {
    let mut key = of_log(b'c', log);
    key.extend_from_slice(&size.to_be_bytes());
    key
}

/// Prefix of a log's cosignatures.
#[must_use]
pub fn cosignatures(log: LogNo) -> Vec<u8> {
    of_log(b'g', log)
}

/// See the table.
#[must_use]
pub fn cosignature(log: LogNo, node: &str) -> Vec<u8> {
    [&cosignatures(log), node.as_bytes()].concat()
}

/// Prefix of the cosignatures of a log by one node, by size.
#[must_use]
pub fn receipts(log: LogNo, node: &str) -> Vec<u8> {
    let mut key = of_log(b'r', log);
    key.extend_from_slice(node.as_bytes());
    key.push(0);
    key
}

/// See the table.
#[must_use]
pub fn receipt(log: LogNo, node: &str, size: u64) -> Vec<u8> {
    let mut key = receipts(log, node);
    key.extend_from_slice(&size.to_be_bytes());
    key
}

/// See the table.
#[must_use]
pub fn evidence(log: LogNo) -> Vec<u8> {
    of_log(b'e', log)
}

/// See the table.
#[must_use]
pub fn unindexed(log: LogNo) -> Vec<u8> {
    of_log(b'u', log)
}

/// See the table.
#[must_use]
pub fn stored(agency: &AgencyId) -> Vec<u8> {
    [b"b", agency.as_str().as_bytes()].concat()
}

/// See the table.
#[must_use]
pub fn tile(log: LogNo, level: u8, number: u64) -> Vec<u8> {
    let mut key = of_log(b't', log);
    key.push(level);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// See the table.
#[must_use]
pub fn head(name: &RecordName) -> Vec<u8> {
    let mut key = heads(name.register(), Some(name.agency()));
    key.extend_from_slice(name.item().as_str().as_bytes());
    key
}

/// Prefix of the heads of a register, or of one agency's in it.
#[must_use]
pub fn heads(register: &RegisterId, agency: Option<&AgencyId>) -> Vec<u8> {
    let mut key = vec![b'h'];
    key.extend_from_slice(register.as_str().as_bytes());
    key.push(0);
    if let Some(agency) = agency {
        key.extend_from_slice(agency.as_str().as_bytes());
        key.push(0);
    }
    key
}

/// The record that a head's key belongs to; `None` for any other key.
#[must_use]
pub fn name_of_head(key: &[u8]) -> Option<RecordName> {
    let mut parts = std::str::from_utf8(key.strip_prefix(b"h")?)
        .ok()?
        .splitn(3, '\0');
    let (register, agency, item) = (parts.next()?, parts.next()?, parts.next()?);
    format!("agencies/{agency}/{register}/{item}").parse().ok()
}

/// See the table. `submitter` is the SPIFFE ID: two submitters may use the same UUID.
#[must_use]
pub fn request(submitter: &str, id: &RequestId) -> Vec<u8> {
    [b"q", submitter.as_bytes(), &[0], id.as_bytes()].concat()
}

/// See the table.
#[must_use]
pub fn count(register: &RegisterId, log: LogNo) -> Vec<u8> {
    [
        COUNTS,
        register.as_str().as_bytes(),
        &[0],
        &log.0.to_be_bytes(),
    ]
    .concat()
}

/// The register and log that a count's key belongs to.
#[must_use]
pub fn of_count(key: &[u8]) -> Option<(RegisterId, LogNo)> {
    let (register, log) = key.strip_prefix(COUNTS)?.split_last_chunk::<4>()?;
    let register = std::str::from_utf8(register.strip_suffix(&[0])?).ok()?;
    Some((register.parse().ok()?, LogNo(u32::from_be_bytes(*log))))
}
