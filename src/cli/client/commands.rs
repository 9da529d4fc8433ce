//! The client commands: everything that a person does at a node without writing code.

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
    time::Duration,
};

use futures::StreamExt as _;
use indicatif::ProgressBar;
use prost_reflect::{DynamicMessage, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Client, ClientError, ListOptions,
    args::{Command, Connection, Output},
    board, csv,
    dynamic::{RegisterApi, dynamic, json, sub, subs, text},
    figures, hazard, method, quota, table,
};
use crate::{
    cli::{Exit, verify},
    proto::{
        ledger::v1::{self as ledger, ledger_service_client::LedgerServiceClient},
        node::v1::{self as node, node_service_client::NodeServiceClient},
    },
};

/// Runs a client command.
///
/// # Errors
/// [`ClientError`].
pub async fn run(command: Command, connection: &Connection) -> Result<Exit, ClientError> {
    let client = connection.dial().await?;
    let shown = Shown {
        client: &client,
        output: connection.output,
    };
    match command {
        Command::Submit {
            register,
            file,
            agency,
            complete,
            reason,
            dry_run,
        } => {
            let options = ListOptions {
                dry_run,
                complete,
                reason,
            };
            shown
                .submit(&find(&register)?, &file, agency.as_deref(), options)
                .await
        }
        Command::Report { file, agency } => shown.report(&file, agency.as_deref()).await,
        Command::Hazard { command } => hazard::run(command, &client, connection.output).await,
        Command::Figures(command) => figures::run(command, &client, connection.output).await,
        Command::Get { name } => shown.get(&name).await,
        Command::List {
            register,
            agency,
            filter,
            order_by,
            limit,
            withdrawn,
        } => {
            let (register, parent) = collection(&register, &agency)?;
            shown
                .list(&register, &parent, &filter, &order_by, limit, withdrawn)
                .await
        }
        Command::History { name } => shown.history(&name).await,
        Command::Watch {
            register,
            agency,
            filter,
            from,
            from_start,
            count,
        } => {
            let (register, parent) = collection(&register, &agency)?;
            shown
                .watch(&register, &parent, &filter, from, from_start, count)
                .await
        }
        Command::Withdraw {
            name,
            reason,
            cascade,
            etag,
        } => shown.withdraw(&name, reason, cascade, etag).await,
        Command::Custody {
            name,
            revision,
            out,
        } => shown.custody(name, revision, out).await,
        Command::Checkpoint { origin } => shown.checkpoint(origin).await,
        Command::Status => shown.status().await,
        Command::Quota => {
            quota::show(&shown.client, shown.output).await?;
            Ok(Exit::Done)
        }
    }
}

fn find(register: &str) -> Result<RegisterApi, ClientError> {
    RegisterApi::find(register).ok_or_else(|| {
        let known: Vec<_> = RegisterApi::all().into_iter().map(|r| r.id).collect();
        ClientError::Usage(format!(
            "no register {register}; there are {}",
            known.join(", ")
        ))
    })
}

/// A register, and one agency's collection in it.
fn collection(register: &str, agency: &str) -> Result<(RegisterApi, String), ClientError> {
    let register = find(register)?;
    let parent = format!("agencies/{agency}/{}", register.id);
    Ok((register, parent))
}

fn of_name(name: &str) -> Result<RegisterApi, ClientError> {
    RegisterApi::of_name(name).ok_or_else(|| {
        ClientError::Usage(format!("{name}: a name is agencies/AGENCY/REGISTER/ITEM"))
    })
}

/// Reads the rows of a CSV file.
fn rows(
    register: &RegisterApi,
    file: &PathBuf,
    agency: Option<&str>,
) -> Result<Vec<DynamicMessage>, ClientError> {
    let failed = |e: std::io::Error| ClientError::Usage(format!("{}: {e}", file.display()));
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut bytes).map_err(failed)?;
    } else {
        bytes = std::fs::read(file).map_err(failed)?;
    }
    let complete = |cell: &str| match agency {
        Some(agency) if !cell.contains('/') => format!("agencies/{agency}/{}/{cell}", register.id),
        _ => cell.to_owned(),
    };
    csv::read(&bytes, &register.record, complete)
        .map_err(|e| ClientError::Usage(format!("{}:\n{e}", file.display())))
}

fn request(
    register: &RegisterApi,
    name: &str,
    fields: &[(&str, Value)],
) -> Result<DynamicMessage, ClientError> {
    let mut message = DynamicMessage::new(method(register, name)?.input());
    for (field, value) in fields {
        message.set_field_by_name(field, value.clone());
    }
    Ok(message)
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A UUID (version 8) that follows from what is sent: a retry after a cut is the same request.
#[must_use]
pub fn request_id(message: &DynamicMessage) -> String {
    use prost::Message as _;
    let hash: [u8; 32] = Sha256::digest(message.encode_to_vec()).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(hash.split_at(16).0);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// A client and how it shows what it gets.
struct Shown<'a> {
    client: &'a Client,
    output: Output,
}

impl Shown<'_> {
    fn print(&self, message: &DynamicMessage) {
        println!("{}", json(message));
    }

    async fn submit(
        &self,
        register: &RegisterApi,
        file: &PathBuf,
        agency: Option<&str>,
        options: ListOptions,
    ) -> Result<Exit, ClientError> {
        let rows = rows(register, file, agency)?;
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(rows.len() as u64),
            false => ProgressBar::hidden(),
        };
        let mut refused = 0;
        let summary = self
            .client
            .submit_list(register, rows, options, |row| {
                bar.inc(1);
                if let Some(why) = refusal(row) {
                    refused += 1;
                    bar.suspend(|| eprintln!("{why}"));
                }
                if self.output == Output::Json {
                    bar.suspend(|| self.print(row));
                }
            })
            .await?;
        bar.finish_and_clear();
        match self.output {
            Output::Json => self.print(&summary),
            Output::Table => println!("{}", summary_line(&summary)),
        }
        Ok(if refused == 0 {
            Exit::Done
        } else {
            Exit::RowsRefused
        })
    }

    async fn report(&self, file: &PathBuf, agency: Option<&str>) -> Result<Exit, ClientError> {
        let register = find("incidents")?;
        let submit = method(&register, "SubmitIncident")?;
        let mut names = Vec::new();
        for row in rows(&register, file, agency)? {
            let (name, id) = (text(&row, "name"), request_id(&row));
            let fields = [
                ("incident", Value::Message(row)),
                ("request_id", Value::String(id)),
            ];
            let message = request(&register, "SubmitIncident", &fields)?;
            let answer = self.client.unary(submit, message).await?;
            if self.output == Output::Json {
                self.print(&answer);
            }
            names.push(name);
        }
        names.sort();
        names.dedup();
        let mut revisions = Vec::new();
        for name in &names {
            revisions.extend(self.revision(&register, name).await?);
        }
        if self.output == Output::Table {
            println!("{}", table::revisions(&revisions, "incident"));
        }
        Ok(Exit::Done)
    }

    async fn revision(
        &self,
        register: &RegisterApi,
        name: &str,
    ) -> Result<Option<DynamicMessage>, ClientError> {
        let get = format!("Get{}", register.singular);
        let message = request(register, &get, &[("name", string(name))])?;
        let answer = self.client.unary(method(register, &get)?, message).await?;
        Ok(sub(&answer, "revision"))
    }

    async fn get(&self, name: &str) -> Result<Exit, ClientError> {
        let register = of_name(name)?;
        let revision = self.revision(&register, name).await?;
        if let Some(revision) = revision {
            let shown = json(&revision);
            match self.output {
                Output::Json => println!("{shown}"),
                Output::Table => println!("{shown:#}"),
            }
        }
        Ok(Exit::Done)
    }

    /// All pages of a listing method, up to a limit.
    async fn pages(
        &self,
        register: &RegisterApi,
        name: &str,
        fields: &[(&str, Value)],
        limit: usize,
    ) -> Result<Vec<DynamicMessage>, ClientError> {
        let list = method(register, name)?;
        let (mut found, mut token) = (Vec::new(), String::new());
        while found.len() < limit {
            let size = (limit - found.len()).min(1_000);
            let mut message = request(register, name, fields)?;
            let size = i32::try_from(size).unwrap_or(1_000);
            message.set_field_by_name("page_size", Value::I32(size));
            message.set_field_by_name("page_token", Value::String(token));
            let answer = self.client.unary(list, message).await?;
            found.extend(subs(&answer, "revisions"));
            token = text(&answer, "next_page_token");
            if token.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    fn show(&self, register: &RegisterApi, revisions: &[DynamicMessage]) {
        match self.output {
            Output::Json => revisions.iter().for_each(|revision| self.print(revision)),
            Output::Table => {
                println!(
                    "{}",
                    table::revisions(revisions, &register.singular.to_lowercase())
                );
            }
        }
    }

    async fn list(
        &self,
        register: &RegisterApi,
        parent: &str,
        filter: &str,
        order_by: &str,
        limit: usize,
        withdrawn: bool,
    ) -> Result<Exit, ClientError> {
        let fields = [
            ("parent", string(parent)),
            ("filter", string(filter)),
            ("order_by", string(order_by)),
            ("show_withdrawn", Value::Bool(withdrawn)),
        ];
        let name = format!("List{}", register.plural);
        let found = self.pages(register, &name, &fields, limit).await?;
        self.show(register, &found);
        Ok(Exit::Done)
    }

    async fn history(&self, name: &str) -> Result<Exit, ClientError> {
        let register = of_name(name)?;
        let list = format!("List{}Revisions", register.singular);
        let found = self
            .pages(&register, &list, &[("name", string(name))], usize::MAX)
            .await?;
        self.show(&register, &found);
        Ok(Exit::Done)
    }

    /// Follows changes; after a cut it dials again and resumes behind the last one.
    async fn watch(
        &self,
        register: &RegisterApi,
        parent: &str,
        filter: &str,
        mut from: String,
        mut from_start: bool,
        count: Option<usize>,
    ) -> Result<Exit, ClientError> {
        let name = format!("Watch{}", register.plural);
        let watch = method(register, &name)?;
        let (mut seen, mut pause) = (0, Duration::from_millis(500));
        loop {
            let fields = [
                ("parent", string(parent)),
                ("filter", string(filter)),
                ("position", string(&from)),
                ("from_start", Value::Bool(from_start)),
            ];
            let message = request(register, &name, &fields)?;
            let cut = match self.client.server_streaming(watch, message).await {
                Ok(mut answers) => loop {
                    match answers.next().await {
                        Some(Ok(answer)) => {
                            pause = Duration::from_millis(500);
                            from = text(&answer, "position");
                            from_start = false;
                            if sub(&answer, "revision").is_none() {
                                continue;
                            }
                            self.print(&answer);
                            seen += 1;
                            if count.is_some_and(|count| seen >= count) {
                                return Ok(Exit::Done);
                            }
                        }
                        Some(Err(status)) => break ClientError::from(status),
                        None => break ClientError::Usage("the stream ended".to_owned()),
                    }
                },
                Err(error) => error,
            };
            if !passing(&cut) {
                return Err(cut);
            }
            eprintln!("{cut}; dialling again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }

    async fn withdraw(
        &self,
        name: &str,
        reason: String,
        cascade: bool,
        etag: String,
    ) -> Result<Exit, ClientError> {
        let register = of_name(name)?;
        let withdraw = format!("Withdraw{}", register.singular);
        let fields = [
            ("name", string(name)),
            ("reason", Value::String(reason)),
            ("cascade", Value::Bool(cascade)),
            ("etag", Value::String(etag)),
        ];
        let message = request(&register, &withdraw, &fields)?;
        let answer = self
            .client
            .unary(method(&register, &withdraw)?, message)
            .await?;
        self.print(&answer);
        Ok(Exit::Done)
    }

    async fn custody(
        &self,
        name: String,
        revision: i64,
        out: Option<PathBuf>,
    ) -> Result<Exit, ClientError> {
        let mut client = LedgerServiceClient::new(self.client.0.clone());
        let request = ledger::GetCustodyRequest { name, revision };
        let answer = client.get_custody(request).await?.into_inner();
        let (custody, ladder) = verify::custody(&answer).map_err(ClientError::NotProven)?;
        if let Some(file) = out {
            std::fs::write(&file, custody.text())
                .map_err(|e| ClientError::Usage(format!("{}: {e}", file.display())))?;
            eprintln!("{} written", file.display());
        }
        match self.output {
            Output::Table => println!("{}", verify::rows(&ladder)),
            Output::Json => {
                let shown = dynamic("hefu.ledger.v1.GetCustodyResponse", &answer);
                shown.iter().for_each(|shown| self.print(shown));
            }
        }
        Ok(Exit::Done)
    }

    async fn checkpoint(&self, origin: String) -> Result<Exit, ClientError> {
        let mut client = LedgerServiceClient::new(self.client.0.clone());
        let answer = client
            .get_checkpoint(ledger::GetCheckpointRequest { origin })
            .await?;
        let answer = answer.into_inner();
        match self.output {
            Output::Table => print!("{}", answer.checkpoint),
            Output::Json => {
                let shown = dynamic("hefu.ledger.v1.GetCheckpointResponse", &answer);
                shown.iter().for_each(|shown| self.print(shown));
            }
        }
        Ok(Exit::Done)
    }

    async fn status(&self) -> Result<Exit, ClientError> {
        let mut client = NodeServiceClient::new(self.client.0.clone());
        let status = client
            .get_status(node::GetStatusRequest {})
            .await?
            .into_inner();
        match self.output {
            Output::Json => {
                let shown = dynamic("hefu.node.v1.GetStatusResponse", &status);
                shown.iter().for_each(|shown| self.print(shown));
            }
            Output::Table => board::print(&status),
        }
        Ok(match status.health() {
            node::Health::Serving => Exit::Done,
            node::Health::ReadOnly => Exit::ReadOnly,
            node::Health::Failed | node::Health::Unspecified => Exit::Failed,
        })
    }
}

/// Whether waiting may help.
fn passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(status) => {
            matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Unknown
            )
        }
        ClientError::Dial(_) => true,
        ClientError::Usage(text) => text == "the stream ended",
        ClientError::NotProven(_) => false,
    }
}

/// A refused row in words; `None` for one that was taken.
#[must_use]
pub fn refusal(row: &DynamicMessage) -> Option<String> {
    let refused = i32::from(crate::proto::r#type::v1::Outcome::Refused);
    let outcome = row.get_field_by_name("outcome")?.as_enum_number()?;
    if outcome != refused {
        return None;
    }
    let (number, name) = (table::number(row, "row"), text(row, "name"));
    let mut lines = vec![format!(
        "row {number} ({name}) refused: {}",
        text(row, "message")
    )];
    for violation in subs(row, "violations") {
        let (field, words) = (text(&violation, "field"), text(&violation, "description"));
        lines.push(format!(
            "  {field}: {words} ({})",
            text(&violation, "reason")
        ));
    }
    Some(lines.join("\n"))
}

fn summary_line(summary: &DynamicMessage) -> String {
    let fields = [
        "rows",
        "created",
        "revised",
        "unchanged",
        "refused",
        "withdrawn",
    ];
    let counts = fields.map(|field| format!("{field} {}", table::number(summary, field)));
    counts.join(", ")
}
