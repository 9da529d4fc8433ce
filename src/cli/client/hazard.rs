//! `hefu hazard`: one step of a hazard's way, from the revision that stands.

use clap::Subcommand;
use prost_reflect::{DynamicMessage, Value};

use super::{
    Client, ClientError,
    args::Output,
    commands::request_id,
    csv,
    dynamic::{RegisterApi, json, sub, text},
    method, table,
};
use crate::cli::Exit;

/// What is done to a hazard.
#[derive(Debug, Subcommand)]
pub enum HazardCommand {
    /// Bring a hazard into another state
    #[command(
        after_help = "Example:\n  hefu hazard move agencies/qidong-emergency/hazards/H-2024-001 --to \
        confirmed\n  hefu hazard move agencies/qidong-emergency/hazards/H-2024-001 --to \
        acceptance-requested \\\n    --set rectified_time=2024-03-11T10:00:00+08:00"
    )]
    Move {
        /// Its name
        name: String,
        /// The state: confirmed, rectifying, acceptance-requested, passed, closed
        #[arg(long)]
        to: String,
        /// Sets a field besides, such as acceptance.comment=整改到位; several times
        #[arg(long, value_name = "FIELD=VALUE")]
        set: Vec<String>,
    },
    /// Move the deadline, with the approval that allows it
    #[command(
        after_help = "Example:\n  hefu hazard extend agencies/qidong-emergency/hazards/H-2024-001 \\\n    \
        --deadline 2024-04-18T18:00:00+08:00 --document '启应急延〔2024〕1号' \\\n    --approved-by \
        启东市应急管理局 --approved 2024-03-10T09:00:00+08:00 --reason 备件到货延迟"
    )]
    Extend {
        /// Its name
        name: String,
        /// The new deadline, RFC 3339
        #[arg(long)]
        deadline: String,
        /// Number of the approving document
        #[arg(long)]
        document: String,
        /// The unit that approved it
        #[arg(long)]
        approved_by: String,
        /// When it approved, RFC 3339
        #[arg(long)]
        approved: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
}

impl HazardCommand {
    fn name(&self) -> &str {
        match self {
            Self::Move { name, .. } | Self::Extend { name, .. } => name,
        }
    }

    fn apply(&self, hazard: &mut DynamicMessage) -> Result<(), ClientError> {
        match self {
            Self::Move { to, set, .. } => moved(hazard, &to.to_uppercase().replace('-', "_"), set),
            Self::Extend {
                deadline,
                document,
                approved_by,
                approved,
                reason,
                ..
            } => {
                let cells = [
                    ("document_number", document),
                    ("approved_by", approved_by),
                    ("approved_time", approved),
                    ("deadline", deadline),
                    ("reason", reason),
                ];
                extended(hazard, &cells)
            }
        }
    }
}

/// Reads the standing hazard, changes it, and submits it if nobody else did meanwhile.
///
/// # Errors
/// [`ClientError`].
pub async fn run(
    command: HazardCommand,
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    let register = RegisterApi::find("hazards")
        .ok_or_else(|| ClientError::Usage("no register hazards".to_owned()))?;
    let name = command.name().to_owned();
    let get = method(&register, "GetHazard")?;
    let mut message = DynamicMessage::new(get.input());
    message.set_field_by_name("name", Value::String(name.clone()));
    let standing = sub(&client.unary(get, message).await?, "revision");
    let parts =
        standing.and_then(|revision| Some((sub(&revision, "hazard")?, sub(&revision, "info")?)));
    let (mut hazard, info) =
        parts.ok_or_else(|| ClientError::Usage(format!("{name}: the node sent no revision")))?;
    command.apply(&mut hazard)?;
    let submit = method(&register, "SubmitHazard")?;
    let mut message = DynamicMessage::new(submit.input());
    message.set_field_by_name("request_id", Value::String(request_id(&hazard)));
    message.set_field_by_name("etag", Value::String(text(&info, "etag")));
    let state = table::enum_name(&hazard, "state").unwrap_or_default();
    message.set_field_by_name("hazard", Value::Message(hazard));
    let answer = client.unary(submit, message).await?;
    match output {
        Output::Json => println!("{}", json(&answer)),
        Output::Table => {
            let info = sub(&answer, "info");
            let revision = info.map(|info| table::number(&info, "revision"));
            println!("{name}: {state}, revision {}", revision.unwrap_or_default());
        }
    }
    Ok(Exit::Done)
}

fn moved(hazard: &mut DynamicMessage, state: &str, set: &[String]) -> Result<(), ClientError> {
    cell(hazard, "state", state)?;
    for pair in set {
        let (field, value) = pair
            .split_once('=')
            .ok_or_else(|| ClientError::Usage(format!("{pair}: write FIELD=VALUE")))?;
        cell(hazard, field, value)?;
    }
    Ok(())
}

fn extended(hazard: &mut DynamicMessage, cells: &[(&str, &String)]) -> Result<(), ClientError> {
    let descriptor = super::dynamic::pool().get_message_by_name("hefu.hazard.v1.Extension");
    let descriptor = descriptor.ok_or_else(|| ClientError::Usage("no extensions".to_owned()))?;
    let mut extension = DynamicMessage::new(descriptor);
    for (field, value) in cells {
        cell(&mut extension, field, value)?;
    }
    if let Some(extensions) = hazard
        .get_field_by_name_mut("extensions")
        .and_then(Value::as_list_mut)
    {
        extensions.push(Value::Message(extension));
    }
    Ok(())
}

fn cell(message: &mut DynamicMessage, field: &str, value: &str) -> Result<(), ClientError> {
    csv::set_cell(message, field, value).map_err(ClientError::Usage)
}
