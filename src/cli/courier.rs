//! `hefu courier`: replication by files that somebody carries.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{Stream, StreamExt as _, stream};
use tokio::io::AsyncReadExt as _;

use super::{
    CliError, Exit,
    client::{
        ClientError,
        args::{Connection, Output},
        dynamic::{dynamic, json},
        table::table,
    },
};
use crate::{
    proto::{
        error::v1::ErrorReason,
        replication::v1::{self as pb, courier_service_client::CourierServiceClient},
    },
    replication::courier::{Summary, check},
    storage::durable,
    types::Refusal,
};

/// Bytes that are read from a file at a time.
const CHUNK_BYTES: usize = 512 * 1024;

/// Replication by files that somebody carries, for networks that must not touch.
#[derive(Debug, Args)]
#[command(after_help = "Example, a trip to the parent and back:\n  \
    hefu courier export --out up.hefu               # at the child\n  \
    hefu courier import up.hefu --receipt down.hefu # at the parent\n  \
    hefu courier receipt down.hefu                  # back at the child")]
pub struct Courier {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// At the child: write what the parent has not cosigned, as far as receipts tell
    #[command(
        after_help = "Example:\n  hefu courier export --out up.hefu --max-bytes 600000000   # fits a CD\n\n\
        A file without a limit brings the parent up to date. With one, the receipt comes back before\n\
        the next file is written; a receipt that was lost costs only that the same is carried again."
    )]
    Export {
        /// The file to write; it must not exist
        #[arg(long)]
        out: PathBuf,
        /// End the file behind the batch that reaches so many bytes
        #[arg(long, default_value_t = 0)]
        max_bytes: u64,
    },
    /// At the parent: take a child's file in, verified entry by entry, and write the receipt
    #[command(
        after_help = "Example:\n  hefu courier import up.hefu --receipt down.hefu\n\nSafe to \
        repeat: what is held is left as it is, and the receipt is written again.\nExit codes: 0 all \
        was taken, 5 a log or the file was refused, 7 the file is damaged"
    )]
    Import {
        /// The file
        file: PathBuf,
        /// The receipt to write; it must not exist
        #[arg(long)]
        receipt: PathBuf,
    },
    /// Back at the child: take the receipt in
    #[command(after_help = "Example:\n  hefu courier receipt down.hefu")]
    Receipt {
        /// The receipt
        file: PathBuf,
    },
    /// Say what is in a file, and whether it is whole; needs no node
    #[command(after_help = "Example:\n  hefu courier show up.hefu")]
    Show {
        /// The file
        file: PathBuf,
    },
}

impl Courier {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        match self.command {
            Command::Export { out, max_bytes } => export(connection, &out, max_bytes).await,
            Command::Import { file, receipt } => import(connection, &file, &receipt).await,
            Command::Receipt { file } => receive(connection, &file).await,
            Command::Show { file } => show(connection.output, &file).await,
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Other(format!("{}: {error}", path.display()))
}

/// The bytes of a file, in chunks. Where it cannot be read it ends early, which its reader finds.
async fn chunks(path: &Path) -> Result<impl Stream<Item = Bytes> + Send + use<>, CliError> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| failed(path, &error))?;
    let chunks = stream::unfold(file, |mut file| async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = file.read(&mut chunk).await.ok().filter(|n| *n > 0)?;
        chunk.truncate(length);
        Some((Bytes::from(chunk), file))
    });
    Ok(chunks.boxed())
}

/// Reads a file to its end before anything of it goes to a node.
async fn whole(path: &Path) -> Result<Summary, CliError> {
    let chunks = chunks(path).await?.map(Ok::<_, Refusal>);
    check(chunks.boxed()).await.map_err(|refusal| {
        let text = format!("{}: {}", path.display(), refusal.en);
        CliError::Client(ClientError::NotProven(text))
    })
}

/// A file in the making: under another name until it is whole.
struct Writing {
    path: PathBuf,
    part: PathBuf,
    file: std::fs::File,
}

impl Writing {
    fn begin(path: &Path) -> Result<Self, CliError> {
        if path.exists() {
            let text = format!("{} exists; name another file", path.display());
            return Err(CliError::Client(ClientError::Usage(text)));
        }
        let part = path.with_added_extension("part");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&part)
            .map_err(|error| failed(&part, &error))?;
        Ok(Self {
            path: path.to_owned(),
            part,
            file,
        })
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), CliError> {
        let written = self.file.write_all(chunk);
        written.map_err(|error| failed(&self.part, &error))
    }

    fn end(self) -> Result<(), CliError> {
        let synced = self.file.sync_all();
        synced.map_err(|error| failed(&self.part, &error))?;
        durable::rename(&self.part, &self.path).map_err(|error| failed(&self.path, &error))
    }
}

async fn client(
    connection: &Connection,
) -> Result<CourierServiceClient<tonic::transport::Channel>, CliError> {
    Ok(CourierServiceClient::new(connection.dial().await?.0))
}

async fn export(connection: &Connection, out: &Path, max_bytes: u64) -> Result<Exit, CliError> {
    let mut writing = Writing::begin(out)?;
    let request = pb::ExportCourierRequest {
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
    };
    let answers = client(connection).await?.export_courier(request).await;
    let mut answers = answers.map_err(ClientError::from)?.into_inner();
    while let Some(answer) = answers.next().await {
        writing.write(&answer.map_err(ClientError::from)?.chunk)?;
    }
    writing.end()?;
    show(connection.output, out).await
}

async fn import(connection: &Connection, file: &Path, receipt: &Path) -> Result<Exit, CliError> {
    whole(file).await?;
    let mut writing = Writing::begin(receipt)?;
    let requests = chunks(file).await?;
    let requests = requests.map(|chunk| pb::ImportCourierRequest { chunk });
    let answers = client(connection).await?.import_courier(requests).await;
    let mut answers = answers.map_err(ClientError::from)?.into_inner();
    let mut last = pb::ImportCourierResponse::default();
    while let Some(answer) = answers.next().await {
        last = answer.map_err(ClientError::from)?;
        writing.write(&last.receipt_chunk)?;
    }
    writing.end()?;
    let exit = exit(&last.logs);
    match connection.output {
        Output::Json => print("hefu.replication.v1.ImportCourierResponse", &last),
        Output::Table => rows(&last.logs, ["log", "held before", "held now", "refused"]),
    }
    Ok(exit)
}

async fn receive(connection: &Connection, file: &Path) -> Result<Exit, CliError> {
    whole(file).await?;
    let requests = chunks(file).await?;
    let requests = requests.map(|chunk| pb::ImportReceiptRequest { chunk });
    let answer = client(connection).await?.import_receipt(requests).await;
    let answer = answer.map_err(ClientError::from)?.into_inner();
    match connection.output {
        Output::Json => print("hefu.replication.v1.ImportReceiptResponse", &answer),
        Output::Table => rows(
            &answer.logs,
            ["log", "cosigned before", "cosigned now", "refused"],
        ),
    }
    Ok(exit(&answer.logs))
}

async fn show(output: Output, file: &Path) -> Result<Exit, CliError> {
    let Summary { header, logs, .. } = whole(file).await?;
    if output == Output::Json {
        print("hefu.replication.v1.CourierHeader", &header);
        return Ok(Exit::Done);
    }
    let what = match header.kind() {
        pb::CourierKind::Receipt => "a receipt",
        _ => "batches",
    };
    println!(
        "{}: {what}, from {} to {}, whole",
        file.display(),
        header.from,
        header.to
    );
    let mut table = table(["log", "from", "to"]);
    for (origin, (start, end)) in logs {
        table.add_row([origin, start.to_string(), end.to_string()]);
    }
    println!("{table}");
    Ok(Exit::Done)
}

fn print(name: &str, message: &impl prost::Message) {
    let shown = dynamic(name, message);
    shown.iter().for_each(|shown| println!("{}", json(shown)));
}

fn rows(logs: &[pb::CourierLog], heads: [&str; 4]) {
    let mut table = table(heads);
    for log in logs {
        let reason = match log.reason() {
            ErrorReason::Unspecified => String::new(),
            reason => {
                let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
                format!("{name}: {}", log.message)
            }
        };
        table.add_row([
            log.origin.clone(),
            log.size_before.to_string(),
            log.size_after.to_string(),
            reason,
        ]);
    }
    println!("{table}");
}

fn exit(logs: &[pb::CourierLog]) -> Exit {
    match logs.iter().all(|log| log.reason == 0) {
        true => Exit::Done,
        false => Exit::Refused,
    }
}
