//! `hefu audit`: who did what at a node.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use jiff::Timestamp;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use super::{
    CliError, Exit,
    client::{
        ClientError,
        args::{Connection, Output},
        table::table,
    },
};
use crate::{
    audit,
    proto::{
        DESCRIPTORS,
        audit::v1::{
            AuditRecord, ExportAuditRecordsRequest, ListAuditRecordsRequest,
            audit_service_client::AuditServiceClient,
        },
    },
};

/// Bytes of an answer, at most.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Who did what: the audit trail of a node.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hefu audit list --refused --since 2026-11-23\n  hefu audit export \
                  trail.jsonl\n  hefu audit verify trail.jsonl"
)]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List records, newest first
    #[command(
        after_help = "Examples:\n  hefu audit list --caller agency/qidong-emergency\n  \
        hefu audit list --refused --since 2026-11-23T08:00:00+08:00 --limit 1000\n  \
        hefu audit list --resource agencies/qidong-emergency/risks/R-1 --output json"
    )]
    List(List),
    /// Write the trail to a file, with the hashes that prove it whole
    #[command(
        after_help = "Example:\n  hefu audit export trail.jsonl\n\nOne JSON object a line: \
        the first has the hash before, each further one a record, its exact bytes and the hash after it."
    )]
    Export {
        /// The file; one that exists is not replaced
        file: PathBuf,
        /// The first record
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Check an export, or the folder of a node that is stopped
    #[command(after_help = "Examples:\n  hefu audit verify trail.jsonl\n  \
        hefu audit verify /var/lib/hefu/audit\n\nExit codes: 0 whole, 7 something was changed")]
    Verify {
        /// An export, or the folder audit of a data folder
        path: PathBuf,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Only this caller: agency/ID, node/ID, admin/ID, auditor/ID
    #[arg(long, default_value = "")]
    caller: String,
    /// Only methods that contain this
    #[arg(long, default_value = "")]
    method: String,
    /// Only resources that begin with this
    #[arg(long, default_value = "")]
    resource: String,
    /// Only this reason, such as RECORD_NOT_FOUND
    #[arg(long, default_value = "")]
    reason: String,
    /// Only what was refused
    #[arg(long)]
    refused: bool,
    /// Only reads across agencies
    #[arg(long)]
    cross_agency: bool,
    /// Not before this day or time
    #[arg(long, value_parser = time)]
    since: Option<Timestamp>,
    /// Before this day or time
    #[arg(long, value_parser = time)]
    until: Option<Timestamp>,
    /// Records at most
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// A time, or the first moment of a day in China.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let day: jiff::civil::Date = text
        .parse()
        .map_err(|_| "write 2026-11-23 or 2026-11-23T08:00:00+08:00".to_owned())?;
    Ok(crate::types::beijing_midnight(day))
}

impl Audit {
    /// Runs it.
    ///
    /// # Errors
    /// Where the node refuses or a file cannot be read.
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        match self.command {
            Command::List(list) => list.run(connection).await,
            Command::Export { file, from } => export(connection, &file, from).await,
            Command::Verify { path } => verify(&path),
        }
    }
}

async fn client(
    connection: &Connection,
) -> Result<AuditServiceClient<tonic::transport::Channel>, ClientError> {
    let client = connection.dial().await?;
    Ok(AuditServiceClient::new(client.0).max_decoding_message_size(MAX_ANSWER_BYTES))
}

impl List {
    async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        let mut client = client(connection).await?;
        let stamp = |time: Timestamp| prost_types::Timestamp {
            seconds: time.as_second(),
            nanos: time.subsec_nanosecond(),
        };
        let mut request = ListAuditRecordsRequest {
            caller: self.caller,
            method: self.method,
            resource_prefix: self.resource,
            reason: self.reason,
            refused_only: self.refused,
            cross_agency_only: self.cross_agency,
            start_time: self.since.map(stamp),
            end_time: self.until.map(stamp),
            ..Default::default()
        };
        let mut records = Vec::new();
        while records.len() < self.limit {
            let left = (self.limit - records.len()).min(1_000);
            request.page_size = i32::try_from(left).unwrap_or(1_000);
            let page = client.list_audit_records(request.clone()).await;
            let page = page.map_err(ClientError::from)?.into_inner();
            records.extend(page.records);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        if connection.output == Output::Json {
            for record in records {
                println!("{}", json_of(&prost::Message::encode_to_vec(&record)));
            }
            return Ok(Exit::Done);
        }
        let mut rows = table(["time", "caller", "what", "on", "result"]);
        for record in &records {
            rows.add_row(row(record));
        }
        println!("{rows}");
        Ok(Exit::Done)
    }
}

fn row(record: &AuditRecord) -> [String; 5] {
    let time = record.time.as_ref().and_then(|time| {
        let time = Timestamp::new(time.seconds, time.nanos).ok()?;
        Some(time.to_string().chars().take(19).collect::<String>() + "Z")
    });
    let who = record.caller.splitn(4, '/').nth(3).unwrap_or_default();
    let who = if who.is_empty() {
        record.address.clone()
    } else {
        who.to_owned()
    };
    let method = record.method.rsplit('/').next().unwrap_or_default();
    let what = [method, record.event.as_str()].join(" ");
    let mut result = match (record.code, record.reason.as_str()) {
        (0, _) => String::new(),
        (1, "") => "cut by the caller".to_owned(),
        (_, reason) => reason.to_owned(),
    };
    if let Some(rows) = &record.rows {
        for (count, word) in [
            (rows.created, "created"),
            (rows.revised, "revised"),
            (rows.unchanged, "unchanged"),
            (rows.withdrawn, "withdrawn"),
            (rows.refused, "refused"),
        ] {
            if count > 0 {
                result = format!("{result} {count} {word}");
            }
        }
    }
    if record.count > 0 {
        result = format!("{result} ({} more like it)", record.count);
    }
    [
        time.unwrap_or_default(),
        who,
        what.trim().to_owned(),
        record.resource.clone(),
        result.trim().to_owned(),
    ]
}

/// A record as JSON, by the descriptors.
fn json_of(record: &[u8]) -> Value {
    let pool = DescriptorPool::decode(DESCRIPTORS).ok();
    let descriptor = pool.and_then(|pool| pool.get_message_by_name("hefu.audit.v1.AuditRecord"));
    let message = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, record).ok());
    message
        .and_then(|message| serde_json::to_value(message).ok())
        .unwrap_or_default()
}

async fn export(connection: &Connection, path: &Path, from: u64) -> Result<Exit, CliError> {
    let failed = |e: std::io::Error| CliError::Other(format!("{}: {e}", path.display()));
    let mut client = client(connection).await?;
    let start = i64::try_from(from).unwrap_or(i64::MAX);
    let request = ExportAuditRecordsRequest { start };
    let parts = client.export_audit_records(request).await;
    let mut parts = parts.map_err(ClientError::from)?.into_inner();
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path);
    let mut file = std::io::BufWriter::new(file.map_err(failed)?);
    let (mut count, bar) = (0_u64, ProgressBar::new_spinner());
    while let Some(part) = parts.message().await.map_err(ClientError::from)? {
        if count == 0 {
            let before = part.hash_before.unwrap_or_default().value;
            writeln!(file, "{}", json!({ "hash_before": BASE64.encode(before) }))
                .map_err(failed)?;
        }
        for chained in part.records {
            let line = json!({
                "record": json_of(&chained.record_bytes),
                "record_bytes": BASE64.encode(&chained.record_bytes),
                "hash": BASE64.encode(chained.hash.unwrap_or_default().value),
            });
            writeln!(file, "{line}").map_err(failed)?;
            count += 1;
        }
        bar.set_position(count);
    }
    bar.finish_and_clear();
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    println!("{count} records in {}", path.display());
    Ok(Exit::Done)
}

fn verify(path: &Path) -> Result<Exit, CliError> {
    let whole = if path.is_dir() {
        let checked = audit::verify(path).map_err(|e| ClientError::NotProven(e.to_string()))?;
        (checked.records, checked.hash)
    } else {
        verify_file(path)?
    };
    let (records, hash) = whole;
    println!(
        "{records} records, each follows the one before it; the last hash is {}",
        BASE64.encode(hash)
    );
    Ok(Exit::Done)
}

fn verify_file(path: &Path) -> Result<(u64, audit::Hash), CliError> {
    let failed = |e: std::io::Error| CliError::Other(format!("{}: {e}", path.display()));
    let file = BufReader::new(fs::File::open(path).map_err(failed)?);
    let (mut hash, mut count): (Option<audit::Hash>, u64) = (None, 0);
    for (number, line) in (1_u64..).zip(file.lines()) {
        let line = line.map_err(failed)?;
        let wrong = |what: &str| {
            let text = format!("{}, line {number}: {what}", path.display());
            CliError::Client(ClientError::NotProven(text))
        };
        let line: Value = serde_json::from_str(&line).map_err(|_| wrong("it is no JSON"))?;
        let bytes = |key: &str| BASE64.decode(line.get(key)?.as_str()?).ok();
        let hash_of = |key: &str| -> Option<audit::Hash> { bytes(key)?.try_into().ok() };
        let Some(before) = hash else {
            let before = hash_of("hash_before").ok_or_else(|| wrong("no hash before"))?;
            hash = Some(before);
            continue;
        };
        let record = bytes("record_bytes").ok_or_else(|| wrong("no record"))?;
        let after = hash_of("hash").ok_or_else(|| wrong("no hash"))?;
        let chain = audit::verify_chain(before, [(record.as_slice(), after)]);
        chain.map_err(|_| wrong("the record does not follow the one before it"))?;
        if line.get("record") != Some(&json_of(&record)) {
            return Err(wrong(
                "the record for reading is not the one that was hashed",
            ));
        }
        (hash, count) = (Some(after), count + 1);
    }
    Ok((count, hash.unwrap_or_default()))
}
