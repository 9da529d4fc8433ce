//! `hefu verify`: trust nothing, hash everything, name what is wrong.

mod custody;

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use data_encoding::HEXLOWER;
use futures::TryFutureExt as _;
use prost_reflect::{DynamicMessage, Value};

use self::custody::CustodyArgs;
pub use self::custody::{custody, rows};
use super::{
    CliError, Exit,
    client::{
        Client, ClientError,
        args::Connection,
        dynamic::{RegisterApi, sub, subs, text},
        method,
        table::{number, table},
    },
};
use crate::{
    ledger::{
        audit::{Report, audit},
        head::{content_hash, etag},
        merkle::{Hash, Tree, leaf_hash},
        note::{Note, VerifierKey},
    },
    node::{DataFolder, NodeError},
    proto::ledger::v1::{
        Action, GetCheckpointRequest, ListEntriesRequest, ListLogsRequest, Log,
        ledger_service_client::LedgerServiceClient,
    },
    registers::Registers,
    storage::{
        Finding, Journal, JournalOptions, LogStore, MemoryState, Opened, SledOptions, SledState,
        SlotContent, SlotFile, StateStore,
    },
    types::{DivisionTable, LogNo, RuleTable},
};

/// Entries asked for at a time.
const PAGE: i32 = 1_000;

/// Check a data folder (its node must be stopped), or a live node: every entry is hashed again, every
/// root computed, every signature checked, and the registers compared with what the entries say. Or
/// check, offline, a custody file that `hefu custody --out` wrote, with public keys alone.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu verify /var/lib/hefu\n  hefu verify --live --server \
    https://city:7443 --cert admin.pem --key admin.key\n  hefu verify --custody \
    R-2024-0001.custody.json --vkeys trusted-keys.txt\n  hefu verify --evidence fork.json --vkeys \
    trusted-keys.txt\n\nExit codes: 0 everything verifies, 7 \
    something does not, 1 it could not be read"
)]
pub struct Verify {
    /// The data folder
    #[arg(required_unless_present_any = ["live", "custody", "evidence"])]
    folder: Option<PathBuf>,
    /// Ask the node at --server instead
    #[arg(long, conflicts_with = "folder")]
    live: bool,
    #[command(flatten)]
    custody: CustodyArgs,
}

impl Verify {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        if let Some(file) = &self.custody.custody {
            return self.custody.run(file, connection.output);
        }
        if let Some(file) = &self.custody.evidence {
            return self.custody.evidence(file, connection.output);
        }
        let report = match self.folder {
            Some(folder) => tokio::task::spawn_blocking(move || self::folder(&folder))
                .await
                .map_err(|e| CliError::Other(e.to_string()))??,
            None => {
                let client = connection.dial().await?;
                live(&client).await?
            }
        };
        print!("{}", report.summary);
        for defect in &report.defects {
            println!("DEFECT {defect}");
        }
        if report.defects.is_empty() {
            println!("everything verifies");
            return Ok(Exit::Done);
        }
        println!("{} defects", report.defects.len());
        Ok(Exit::NotProven)
    }
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Everything that is wrong; empty is good.
    pub defects: Vec<String>,
    /// What was looked at, in words.
    pub summary: String,
}

/// Verifies a data folder whose node is stopped.
///
/// # Errors
/// [`NodeError`] where it cannot be read at all.
pub fn folder(path: &std::path::Path) -> Result<Verified, NodeError> {
    let data = DataFolder::new(path);
    let mut verified = Verified::default();
    // First the frames as they lie on the disk: every flipped bit has a place and a name.
    for finding in Journal::read_only(&data.journal())?.walk() {
        if let Finding::Defect(defect) = finding {
            verified.defects.push(defect.to_string());
        }
    }
    if !verified.defects.is_empty() {
        return Ok(verified);
    }
    let journal = Journal::open(&data.journal(), JournalOptions::default())?;
    let state = if data.state().exists() {
        let (state, opened) = SledState::open(&data.state(), SledOptions::default())?;
        if let Opened::SetAside { why, .. } = opened {
            verified.defects.push(format!(
                "derived state: {why}; the next start derives it again"
            ));
            None
        } else {
            Some(state)
        }
    } else {
        None
    };
    let registers = Registers::new(DivisionTable::builtin().into(), RuleTable::builtin().into());
    let held = state.as_ref().map(|state| state as &dyn StateStore);
    let scratch = MemoryState::default();
    let report = audit(&journal, held, &scratch, &registers, &mut |_, _| ())?;
    verified
        .defects
        .extend(report.defects.iter().map(|defect| defect.0.clone()));
    verified
        .defects
        .extend(check_head(&data, &journal, &report)?);
    verified.summary = summary(&report);
    if let Some(state) = state {
        state.close()?;
    }
    journal.close()?;
    Ok(verified)
}

fn summary(report: &Report) -> String {
    let mut logs = table(["log", "entries", "signed", "root", "quarantined"]);
    for log in report.logs.values() {
        logs.add_row([
            log.origin.clone(),
            log.size.to_string(),
            log.signed_size.to_string(),
            hex(&log.root),
            log.quarantined.clone().unwrap_or_default(),
        ]);
    }
    format!(
        "{logs}\n{} entries hashed, {} signatures and {} cosignatures checked, {} keys of the \
         derived state compared\n",
        report.entries, report.signatures, report.cosignatures, report.keys_compared
    )
}

/// The head file against the journal: what was signed must be there.
fn check_head(
    data: &DataFolder,
    journal: &Journal,
    report: &Report,
) -> Result<Option<String>, NodeError> {
    if !data.head().exists() {
        return Ok(Some("the head file is missing".to_owned()));
    }
    let (_, content) = SlotFile::open(&data.head())?;
    let value = match content {
        SlotContent::Blank => return Ok(None),
        SlotContent::Damaged => return Ok(Some("the head file is damaged".to_owned())),
        SlotContent::Value(value) => value,
    };
    let Some(own) = report.logs.get(&LogNo::OWN) else {
        return Ok(Some("the journal has no log of its own".to_owned()));
    };
    let note = value.split_first_chunk::<8>().and_then(|(end, note)| {
        let note: Note = std::str::from_utf8(note).ok()?.parse().ok()?;
        Some((u64::from_be_bytes(*end), note))
    });
    let Some((end, note)) = note else {
        return Ok(Some("the head file is unreadable".to_owned()));
    };
    let signed = match note.verify_log(&own.key) {
        Ok(signed) => signed,
        Err(error) => return Ok(Some(format!("the head file: {error}"))),
    };
    if signed.size > own.size || end > journal.end().0 {
        let (signed, held) = (signed.size, own.size);
        return Ok(Some(format!(
            "{signed} entries were signed, {held} are there"
        )));
    }
    if signed.size == own.size && signed.root != own.root {
        return Ok(Some("the head file signs another root".to_owned()));
    }
    Ok(None)
}

/// Verifies a live node: its logs entry by entry, and every register against them.
///
/// # Errors
/// [`ClientError`] where it cannot be read.
pub async fn live(client: &Client) -> Result<Verified, ClientError> {
    let mut ledger =
        LedgerServiceClient::new(client.0.clone()).max_decoding_message_size(16 * 1024 * 1024);
    let mut verified = Verified::default();
    let logs = ledger
        .list_logs(ListLogsRequest {})
        .await?
        .into_inner()
        .logs;
    let (mut heads, mut sizes) = (BTreeMap::new(), BTreeMap::new());
    let mut rows = table(["log", "entries", "root"]);
    for log in logs {
        let (tree, checkpoint) = walk(&mut ledger, &log, &mut heads, &mut verified).await?;
        if let Err(why) = check_checkpoint(&log, &tree, &checkpoint) {
            verified.defects.push(format!("{}: {why}", log.origin));
        }
        rows.add_row([
            log.origin.clone(),
            tree.size().to_string(),
            hex(&tree.root()),
        ]);
        sizes.insert(log.origin, tree.size());
    }
    let mut records = 0;
    for register in RegisterApi::all() {
        records += compare(client, &register, &mut heads, &sizes, &mut verified).await?;
    }
    for (name, held) in heads.iter().filter(|(_, held)| held.known) {
        let etag = &held.etag;
        verified.defects.push(format!(
            "{name}: the entries have {etag}, no register lists it"
        ));
    }
    let entries: u64 = sizes.values().sum();
    verified.summary =
        format!("{rows}\n{entries} entries hashed, {records} records compared with them\n");
    Ok(verified)
}

/// What the entries say of a record.
struct Held {
    etag: String,
    log: String,
    index: u64,
    known: bool,
}

/// Reads a log from its first entry to the checkpoint that stands when it begins.
async fn walk(
    ledger: &mut LedgerServiceClient<tonic::transport::Channel>,
    log: &Log,
    heads: &mut BTreeMap<String, Held>,
    verified: &mut Verified,
) -> Result<(Tree, String), ClientError> {
    let origin = log.origin.clone();
    let request = GetCheckpointRequest {
        origin: origin.clone(),
    };
    let answer = ledger
        .get_checkpoint(request)
        .map_ok(tonic::Response::into_inner)
        .await?;
    let size = answer
        .checkpoint
        .parse::<Note>()
        .map_or(0, |note| note.checkpoint().size);
    let known: Vec<_> = RegisterApi::all()
        .into_iter()
        .map(|register| register.id)
        .collect();
    let mut tree = Tree::default();
    while tree.size() < size {
        let start = i64::try_from(tree.size()).unwrap_or(i64::MAX);
        let request = ListEntriesRequest {
            origin: origin.clone(),
            start,
            page_size: PAGE,
        };
        let page = ledger.list_entries(request).await?.into_inner();
        if page.entries.is_empty() {
            verified
                .defects
                .push(format!("{origin}: entry {start} of {size} is not served"));
            break;
        }
        for logged in page.entries {
            if tree.size() >= size {
                break;
            }
            let index = tree.size();
            tree.push(leaf_hash(&logged.entry_bytes), |_| ());
            let entry = prost::Message::decode(logged.entry_bytes);
            let Ok(entry): Result<crate::proto::ledger::v1::Entry, _> = entry else {
                continue;
            };
            let revision = u64::try_from(entry.revision).unwrap_or(0);
            let register = entry.name.split('/').nth(2).unwrap_or_default().to_owned();
            let held = Held {
                etag: etag(revision, &content_hash(&entry.record)),
                log: origin.clone(),
                index,
                known: known.contains(&register) && entry.action() != Action::Unspecified,
            };
            heads.insert(entry.name, held);
        }
    }
    Ok((tree, answer.checkpoint))
}

fn check_checkpoint(log: &Log, tree: &Tree, checkpoint: &str) -> Result<(), String> {
    if checkpoint.is_empty() && tree.size() == 0 {
        return Ok(());
    }
    let note: Note = checkpoint.parse().map_err(|e| format!("{e}"))?;
    let key: VerifierKey = log.verifier_key.parse().map_err(|e| format!("{e}"))?;
    let signed = note.verify_log(&key).map_err(|e| e.to_string())?;
    if (signed.size, signed.root) == (tree.size(), tree.root()) {
        return Ok(());
    }
    Err("the entries do not hash to the signed root".to_owned())
}

/// Every record that a register lists must be the one that the entries made; what was compared is
/// taken out of `heads`.
async fn compare(
    client: &Client,
    register: &RegisterApi,
    heads: &mut BTreeMap<String, Held>,
    sizes: &BTreeMap<String, u64>,
    verified: &mut Verified,
) -> Result<u64, ClientError> {
    let list = method(register, &format!("List{}", register.plural))?;
    let (mut token, mut count) = (String::new(), 0);
    loop {
        let mut request = DynamicMessage::new(list.input());
        let parent = format!("agencies/-/{}", register.id);
        request.set_field_by_name("parent", Value::String(parent));
        request.set_field_by_name("show_withdrawn", Value::Bool(true));
        request.set_field_by_name("page_size", Value::I32(PAGE));
        request.set_field_by_name("page_token", Value::String(token));
        let page = client.unary(list, request).await?;
        for revision in subs(&page, "revisions") {
            count += 1;
            let record = sub(&revision, &register.singular.to_lowercase());
            let name = record
                .map(|record| text(&record, "name"))
                .unwrap_or_default();
            let Some(info) = sub(&revision, "info") else {
                continue;
            };
            let (log, index) = (text(&info, "log"), number(&info, "index"));
            let index: u64 = index.parse().unwrap_or(u64::MAX);
            // What came after the walk began was not hashed by it.
            let newer = sizes.get(&log).is_none_or(|size| index >= *size);
            let held = heads.remove(&name);
            let same = held.as_ref().is_some_and(|held| {
                held.etag == text(&info, "etag") && held.log == log && held.index == index
            });
            if !same && !newer {
                let etag = text(&info, "etag");
                verified
                    .defects
                    .push(format!("{name}: the register has {etag}, the entries not"));
            }
        }
        token = text(&page, "next_page_token");
        if token.is_empty() {
            return Ok(count);
        }
    }
}

fn hex(hash: &Hash) -> String {
    HEXLOWER.encode(&hash[..8])
}
