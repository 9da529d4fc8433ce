//! The ledger's own service: logs, checkpoints, proofs, custody.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    asker::Asker,
    convert::{digest, int, negative},
    register::Shared,
    status::{status, storage},
};
use crate::{
    ledger::{
        LogView,
        entry::{StoredEntry, timestamp},
        head::EntryRef,
        merkle::{ProofError, leaf_hash},
        note::Note,
    },
    proto::ledger::v1::{self as pb, ledger_service_server::LedgerService},
    storage::StorageError,
    types::{Action, Limit, LogIndex, LogNo, Reason, RecordName, Refusal, Violations},
};

/// Entries of a page, by default and at most.
const PAGE: (i32, i32) = (100, 1_000);
/// Entries that are looked at for a page, at most: a caller may be allowed to see few of them.
const PAGE_ENTRIES: usize = 5_000;
/// Bytes at which a page ends.
const PAGE_BYTES: usize = 1024 * 1024;

/// The service.
#[derive(Clone)]
pub struct Ledgers(pub Arc<Shared>);

impl Ledgers {
    fn caller<M>(&self, request: &Request<M>) -> Result<Asker, Refusal> {
        Asker::of(&self.0.access, request)
    }

    /// A log that the caller may know of; another one is as absent.
    fn view(&self, caller: &Asker, origin: &str) -> Result<Arc<LogView>, Refusal> {
        let view = self.0.ledger.log(origin);
        let view = view.filter(|view| caller.sees_log(view));
        let view = view.ok_or_else(|| Refusal::new(Reason::LogNotFound))?;
        caller.account.names(&view.origin());
        Ok(view)
    }

    fn list_logs(&self, caller: &Asker) -> pb::ListLogsResponse {
        let published = self.0.ledger.published();
        let seen = published.logs.values().filter(|v| caller.sees_log(v));
        pb::ListLogsResponse {
            logs: seen.map(|view| log(view)).collect(),
        }
    }

    fn checkpoint(
        &self,
        caller: &Asker,
        origin: &str,
    ) -> Result<pb::GetCheckpointResponse, Refusal> {
        let view = self.view(caller, origin)?;
        let mut checkpoint = view.note.clone();
        for cosignature in self.0.ledger.cosignatures(view.log).map_err(storage)? {
            if cosignature.size == int(view.tree.size()) {
                checkpoint.push_str(last_line(&cosignature.note));
            }
        }
        Ok(pb::GetCheckpointResponse {
            checkpoint,
            log: Some(log(&view)),
        })
    }

    fn entries(
        &self,
        caller: &Asker,
        request: &pb::ListEntriesRequest,
    ) -> Result<pb::ListEntriesResponse, Refusal> {
        let view = self.view(caller, &request.origin)?;
        let size = view.tree.size();
        let start = index(request.start, "start")?;
        if start > size {
            return Err(Reason::IndexOutOfRange.into());
        }
        let count = match request.page_size {
            0 => PAGE.0,
            n if n < 0 => return Err(negative("page_size")),
            n => n.min(PAGE.1),
        };
        let count = usize::try_from(count).unwrap_or(0);
        let mut response = pb::ListEntriesResponse {
            entries: Vec::new(),
            size: int(size),
            next_start: request.start,
        };
        let mut bytes = 0;
        for index in (start..size).take(PAGE_ENTRIES) {
            response.next_start = int(index + 1);
            if let Some(entry) = self.logged(caller, view.log, index)? {
                bytes += entry.entry_bytes.len();
                response.entries.push(entry);
            }
            if bytes >= PAGE_BYTES || response.entries.len() >= count {
                break;
            }
        }
        Ok(response)
    }

    /// An entry: whole for one who may read its record, its hash for one who may prove it, nothing for
    /// others.
    fn logged(
        &self,
        caller: &Asker,
        log: LogNo,
        index: u64,
    ) -> Result<Option<pb::LoggedEntry>, Refusal> {
        let bytes = self
            .0
            .ledger
            .journal()
            .read(log, LogIndex(index))
            .map_err(storage)?;
        let bytes = bytes.ok_or_else(|| Refusal::new(Reason::IndexOutOfRange))?;
        let leaf = digest(&leaf_hash(&bytes));
        let at = EntryRef {
            log,
            index: LogIndex(index),
        };
        let parsed = StoredEntry::parse(at, bytes.clone()).ok();
        let sees = match &parsed {
            Some(entry) => caller.sees(entry.name.register(), entry.name.agency()),
            // What names no record is nobody's: whoever reads everything reads it.
            None => caller.sees_unnamed(),
        };
        if !sees && !caller.may(Action::Prove) {
            return Ok(None);
        }
        let crosses = |entry: &StoredEntry| caller.crosses(entry.name.agency());
        if sees && parsed.as_ref().is_none_or(crosses) {
            let recorded = caller.account.crosses(false);
            recorded.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        }
        Ok(Some(pb::LoggedEntry {
            index: int(index),
            entry_bytes: if sees { bytes } else { bytes::Bytes::new() },
            entry: parsed.filter(|_| sees).map(|entry| entry.message),
            leaf_hash: Some(leaf),
        }))
    }

    /// The proof of an entry that the caller may see or prove; another one is as absent.
    fn inclusion(
        &self,
        caller: &Asker,
        request: &pb::GetInclusionProofRequest,
    ) -> Result<pb::GetInclusionProofResponse, Refusal> {
        let view = self.view(caller, &request.origin)?;
        let at = index(request.index, "index")?;
        if at >= view.tree.size() || self.logged(caller, view.log, at)?.is_none() {
            return Err(Reason::IndexOutOfRange.into());
        }
        self.included(&view, request.index, request.size)
    }

    fn included(
        &self,
        view: &LogView,
        at: i64,
        size: i64,
    ) -> Result<pb::GetInclusionProofResponse, Refusal> {
        let newest = view.tree.size();
        let (at, size) = (index(at, "index")?, index(size, "size")?);
        let size = if size == 0 { newest } else { size };
        let ledger = &self.0.ledger;
        let path = ledger.inclusion(view, at, size).map_err(proof)?;
        Ok(pb::GetInclusionProofResponse {
            index: int(at),
            size: int(size),
            leaf_hash: Some(digest(&ledger.leaf(view, at).map_err(proof)?)),
            hashes: path.iter().map(digest).collect(),
            root: Some(digest(&ledger.root_at(view, size).map_err(proof)?)),
            checkpoint: if size == newest {
                view.note.clone()
            } else {
                String::new()
            },
        })
    }

    fn consistency(
        &self,
        caller: &Asker,
        request: &pb::GetConsistencyProofRequest,
    ) -> Result<pb::GetConsistencyProofResponse, Refusal> {
        let view = self.view(caller, &request.origin)?;
        let old = index(request.old_size, "old_size")?;
        let new = match index(request.new_size, "new_size")? {
            0 => view.tree.size(),
            size => size,
        };
        let ledger = &self.0.ledger;
        let path = ledger.consistency(&view, old, new).map_err(proof)?;
        Ok(pb::GetConsistencyProofResponse {
            old_size: int(old),
            new_size: int(new),
            hashes: path.iter().map(digest).collect(),
            old_root: Some(digest(&ledger.root_at(&view, old).map_err(proof)?)),
            new_root: Some(digest(&ledger.root_at(&view, new).map_err(proof)?)),
        })
    }

    fn custody(
        &self,
        caller: &Asker,
        request: &pb::GetCustodyRequest,
    ) -> Result<pb::GetCustodyResponse, Refusal> {
        let mut violations = Violations::new();
        let name: Option<RecordName> = violations.parse("name", &request.name);
        let name = violations.into_complete(name).map_err(Refusal::from)?;
        caller.account.names(&name);
        if !caller.may(Action::Prove) {
            caller.reads(&name)?;
        }
        let entry = self.revision(&name, request.revision)?;
        let (log_no, at) = (entry.at.log, entry.at.index.0);
        let published = self.0.ledger.published();
        let view = published
            .logs
            .get(&log_no)
            .ok_or_else(|| Refusal::new(Reason::LogNotFound))?;
        let receipts = self.0.ledger.receipts(log_no, entry.at.index);
        let mut cosignatures = receipts.map_err(storage)?;
        cosignatures.extend(self.own_cosignature(view, at)?);
        cosignatures.retain(|cosignature| cosignature.size <= int(view.tree.size()));
        for cosignature in &mut cosignatures {
            // Each node has cosigned a tree of its own size: the entry is proven in that very tree.
            let proof = self.included(view, int(at), cosignature.size)?;
            cosignature.inclusion = proof.hashes;
        }
        cosignatures.sort_by_key(|cosignature| cosignature.time.map(|t| (t.seconds, t.nanos)));
        Ok(pb::GetCustodyResponse {
            entry: self.logged(caller, log_no, at)?,
            log: Some(log(view)),
            inclusion: Some(self.included(view, int(at), 0)?),
            checkpoint: view.note.clone(),
            cosignatures,
        })
    }

    /// A record's revision by walking back from its head.
    fn revision(&self, name: &RecordName, revision: i64) -> Result<StoredEntry, Refusal> {
        let wanted = index(revision, "revision")?;
        let absent = || Refusal::new(Reason::RecordNotFound);
        let head = self
            .0
            .ledger
            .head(name)
            .map_err(storage)?
            .ok_or_else(absent)?;
        let mut entry = self.0.ledger.entry(head.entry).map_err(storage)?;
        while wanted != 0 && entry.revision() != wanted {
            let previous = entry.message.previous.filter(|_| entry.revision() > wanted);
            let index = LogIndex(previous.ok_or_else(absent)?);
            entry = self
                .0
                .ledger
                .entry(EntryRef {
                    log: head.entry.log,
                    index,
                })
                .map_err(storage)?;
        }
        Ok(entry)
    }

    /// The first statement of this node itself that it holds an entry of a log from below.
    fn own_cosignature(&self, view: &LogView, at: u64) -> Result<Option<pb::Cosignature>, Refusal> {
        let key = self.0.ledger.key().cosigner_key();
        let note = self.0.ledger.checkpoint_from(view.log, at + 1);
        let note: Option<Note> = note.map_err(storage)?;
        let cosigned = note.and_then(|note| Some((note.verify_cosignature(key).ok()?, note)));
        Ok(cosigned.map(|(time, note)| pb::Cosignature {
            node: key.name().rsplit('/').next().unwrap_or_default().to_owned(),
            size: int(note.checkpoint().size),
            time: Some(timestamp(time)),
            note: note.to_string(),
            verifier_key: key.to_string(),
            inclusion: Vec::new(),
            carried_time: None,
        }))
    }
}

fn log(view: &LogView) -> pb::Log {
    pb::Log {
        origin: view.origin().to_owned(),
        size: int(view.tree.size()),
        verifier_key: view.key.to_string(),
        own: view.log == LogNo::OWN,
        quarantined: view.quarantined.clone().unwrap_or_default(),
    }
}

fn last_line(note: &str) -> &str {
    let body = note.trim_end_matches('\n');
    note.get(body.rfind('\n').map_or(0, |at| at + 1)..)
        .unwrap_or_default()
}

fn index(value: i64, field: &str) -> Result<u64, Refusal> {
    u64::try_from(value).map_err(|_| negative(field))
}

fn proof(error: ProofError<StorageError>) -> Refusal {
    match error {
        ProofError::OutOfRange => Reason::IndexOutOfRange.into(),
        ProofError::Source(error) => storage(error),
    }
}

#[tonic::async_trait]
impl LedgerService for Ledgers {
    async fn list_logs(
        &self,
        request: Request<pb::ListLogsRequest>,
    ) -> Result<Response<pb::ListLogsResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        Ok(Response::new(Self::list_logs(self, &caller)))
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<pb::GetCheckpointResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        self.checkpoint(&caller, &request.get_ref().origin)
            .map(Response::new)
            .map_err(status)
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        let entries = self.entries(&caller, request.get_ref()).map_err(status)?;
        let looked_at = entries.next_start.saturating_sub(request.get_ref().start);
        let paid = caller.meter.pace(Limit::Reads, looked_at.unsigned_abs());
        paid.await.map_err(status)?;
        Ok(Response::new(entries))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<pb::GetInclusionProofRequest>,
    ) -> Result<Response<pb::GetInclusionProofResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        let proof = self.inclusion(&caller, request.get_ref());
        proof.map(Response::new).map_err(status)
    }

    async fn get_consistency_proof(
        &self,
        request: Request<pb::GetConsistencyProofRequest>,
    ) -> Result<Response<pb::GetConsistencyProofResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        self.consistency(&caller, request.get_ref())
            .map(Response::new)
            .map_err(status)
    }

    async fn get_custody(
        &self,
        request: Request<pb::GetCustodyRequest>,
    ) -> Result<Response<pb::GetCustodyResponse>, Status> {
        let caller = self.caller(&request).map_err(status)?;
        self.custody(&caller, request.get_ref())
            .map(Response::new)
            .map_err(status)
    }
}
