//! A client of any node: dials it, calls its registers, reads its errors.

pub mod args;
pub mod board;
pub mod commands;
pub mod csv;
pub mod dynamic;
mod figures;
mod hazard;
pub mod quota;
pub mod table;

use futures::{Stream, StreamExt as _};
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use tonic::{
    Request, Status, Streaming, client::Grpc, codec::CompressionEncoding, transport::Channel,
};

use self::dynamic::{DynamicCodec, RegisterApi, path, sub, subs, text};
use crate::{
    gateway::{client::DialError, explain::cause},
    services::status::decode,
};

/// Rows of one message of a list.
const ROWS: usize = 250;
/// Largest answer that is taken.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Why a client command fails. The text says what to do; the exit code says which kind it is.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node refused.
    #[error("{}", explain(.0))]
    Refused(Box<Status>),
    /// A file, a name or an option is wrong.
    #[error("{0}")]
    Usage(String),
    /// What the node proved does not verify.
    #[error("{0}")]
    NotProven(String),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// A status in words: reason, every field, and what to do, in the language of the environment.
#[must_use]
pub fn explain(status: &Status) -> String {
    let chinese = std::env::var("LANG").is_ok_and(|lang| lang.starts_with("zh"));
    let decoded = decode(status);
    let words = if chinese && !decoded.zh.is_empty() {
        &decoded.zh
    } else {
        &decoded.en
    };
    let reason = decoded
        .reason
        .map(|r| r.as_str_name().trim_start_matches("ERROR_REASON_"));
    let mut lines = vec![format!(
        "{}: {words}",
        reason.unwrap_or(status.code().description())
    )];
    for (field, reason, en, zh) in &decoded.violations {
        let words = if chinese && !zh.is_empty() { zh } else { en };
        lines.push(format!("  {field}: {words} ({reason})"));
    }
    lines.join("\n")
}

/// A connection to a node.
#[derive(Clone)]
pub struct Client(pub Channel);

impl Client {
    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.0.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    async fn ready(&self) -> Result<Grpc<Channel>, ClientError> {
        let mut grpc = self.grpc();
        let ready = grpc.ready().await;
        ready.map_err(|error| DialError::Connect {
            server: "the node".to_owned(),
            cause: cause(&error),
        })?;
        Ok(grpc)
    }

    fn uri(method: &MethodDescriptor) -> Result<http::uri::PathAndQuery, ClientError> {
        path(method)
            .parse()
            .map_err(|_| ClientError::Usage(path(method)))
    }

    /// Calls a method that takes one message and answers one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unary(
        &self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<DynamicMessage, ClientError> {
        let mut grpc = self.ready().await?;
        let codec = DynamicCodec(method.output());
        let answer = grpc
            .unary(Request::new(message), Self::uri(method)?, codec)
            .await?;
        Ok(answer.into_inner())
    }

    /// Calls a method that takes one message and answers a stream.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn server_streaming(
        &self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<Streaming<DynamicMessage>, ClientError> {
        let mut grpc = self.ready().await?;
        let codec = DynamicCodec(method.output());
        let answer = grpc
            .server_streaming(Request::new(message), Self::uri(method)?, codec)
            .await?;
        Ok(answer.into_inner())
    }

    /// Calls a method that takes a stream and answers one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn streaming(
        &self,
        method: &MethodDescriptor,
        messages: impl Stream<Item = DynamicMessage> + Send + 'static,
    ) -> Result<Streaming<DynamicMessage>, ClientError> {
        let mut grpc = self.ready().await?;
        let codec = DynamicCodec(method.output());
        let answer = grpc
            .streaming(Request::new(messages), Self::uri(method)?, codec)
            .await?;
        Ok(answer.into_inner())
    }

    /// Submits rows of one agency as a list; `each` sees every row's result as it comes.
    ///
    /// # Errors
    /// [`ClientError`]; rows that are refused are results, not errors.
    pub async fn submit_list(
        &self,
        register: &RegisterApi,
        rows: Vec<DynamicMessage>,
        options: ListOptions,
        mut each: impl FnMut(&DynamicMessage),
    ) -> Result<DynamicMessage, ClientError> {
        let method = method(register, &format!("Submit{}", register.plural))?;
        let messages = list_messages(register, method, rows, &options)?;
        let mut answers = self
            .streaming(method, futures::stream::iter(messages))
            .await?;
        let mut summary = None;
        while let Some(answer) = answers.next().await {
            let answer = answer?;
            for row in subs(&answer, "rows") {
                each(&row);
            }
            summary = sub(&answer, "summary").or(summary);
        }
        summary.ok_or_else(|| ClientError::Usage("the node sent no summary".to_owned()))
    }
}

/// How a list is submitted.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Check, write nothing.
    pub dry_run: bool,
    /// Withdraw what the list does not name.
    pub complete: bool,
    /// Why, for what is withdrawn.
    pub reason: String,
}

/// A register's method.
///
/// # Errors
/// [`ClientError::Usage`].
pub fn method<'a>(
    register: &'a RegisterApi,
    name: &str,
) -> Result<&'a MethodDescriptor, ClientError> {
    let found = register.method(name);
    found.ok_or_else(|| ClientError::Usage(format!("{} has no method {name}", register.id)))
}

/// The messages of a list: the collection in the first, the declaration in the last.
fn list_messages(
    register: &RegisterApi,
    method: &MethodDescriptor,
    rows: Vec<DynamicMessage>,
    options: &ListOptions,
) -> Result<Vec<DynamicMessage>, ClientError> {
    let first = rows
        .first()
        .map(|row| text(row, "name"))
        .unwrap_or_default();
    let parent = first.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    let parent = parent.ok_or_else(|| ClientError::Usage("the list has no rows".to_owned()))?;
    let other = rows.iter().map(|row| text(row, "name"));
    let mut other = other.filter(|name| name.rsplit_once('/').is_none_or(|(p, _)| p != parent));
    if let Some(other) = other.next() {
        let text = format!("a list is of one collection: {other} is not in {parent}");
        return Err(ClientError::Usage(text));
    }
    let count = rows.len();
    let field = register.plural.to_lowercase();
    let mut messages: Vec<_> = rows
        .chunks(ROWS)
        .map(|rows| {
            let mut message = DynamicMessage::new(method.input());
            let rows = rows.iter().cloned().map(Value::Message).collect();
            message.set_field_by_name(&field, Value::List(rows));
            message
        })
        .collect();
    if let Some(first) = messages.first_mut() {
        first.set_field_by_name("parent", Value::String(parent));
        first.set_field_by_name("validate_only", Value::Bool(options.dry_run));
    }
    if let (true, Some(last)) = (options.complete, messages.last_mut()) {
        let complete = crate::proto::r#type::v1::CompleteList {
            row_count: i64::try_from(count).unwrap_or(i64::MAX),
            reason: options.reason.clone(),
        };
        if let Some(complete) = dynamic::dynamic("hefu.type.v1.CompleteList", &complete) {
            last.set_field_by_name("complete", Value::Message(complete));
        }
    }
    Ok(messages)
}
