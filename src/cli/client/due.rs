//! `hefu due`: clocks, as a table or as they change.

use clap::Args;
use jiff::Timestamp;

use super::{
    Client, ClientError,
    args::Output,
    dynamic::{dynamic, json},
    table,
};
use crate::{
    cli::Exit,
    proto::due::v1::{
        DueItem, ListDueRequest, WatchDueRequest, due_service_client::DueServiceClient,
    },
    types::beijing_time,
};

/// Items that are asked for at once.
const PAGE: i32 = 500;

/// What is asked.
#[derive(Debug, Args)]
pub struct DueArgs {
    /// One register: incidents, hazards
    #[arg(long, default_value = "")]
    register: String,
    /// A division, with everything under it
    #[arg(long, default_value = "")]
    division: String,
    /// One agency's records alone
    #[arg(long, default_value = "")]
    agency: String,
    /// How far to look ahead, such as 30m, 2h, 3d
    #[arg(long, default_value = "1h", value_parser = length)]
    within: jiff::SignedDuration,
    /// Leave out what is overdue
    #[arg(long)]
    skip_overdue: bool,
    /// Items at most
    #[arg(long, default_value_t = 200)]
    limit: usize,
    /// Follow what becomes due, becomes overdue and is done, one JSON object a line
    #[arg(long)]
    watch: bool,
}

impl DueArgs {
    /// Asks it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn run(self, client: &Client, output: Output) -> Result<Exit, ClientError> {
        let request = WatchDueRequest {
            register: self.register,
            division: self.division,
            agency: self.agency,
            within: Some(prost_types::Duration {
                seconds: self.within.as_secs(),
                nanos: self.within.subsec_nanos(),
            }),
            skip_overdue: self.skip_overdue,
        };
        match self.watch {
            true => watch(request, client).await,
            false => list(request, self.limit, client, output).await,
        }
    }
}

/// Prints what is due, the earliest first.
///
/// # Errors
/// [`ClientError`].
async fn list(
    asked: WatchDueRequest,
    limit: usize,
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    let mut service = DueServiceClient::new(client.0.clone());
    let (mut items, mut token) = (Vec::new(), String::new());
    let more = loop {
        let request = ListDueRequest {
            register: asked.register.clone(),
            division: asked.division.clone(),
            agency: asked.agency.clone(),
            within: asked.within,
            skip_overdue: asked.skip_overdue,
            page_size: PAGE,
            page_token: token,
        };
        let answer = service.list_due(request).await?.into_inner();
        items.extend(answer.items);
        token = answer.next_page_token;
        if token.is_empty() || items.len() >= limit {
            break !token.is_empty() || items.len() > limit;
        }
    };
    let due = |item: &DueItem| item.due_time.map(|at| (at.seconds, at.nanos));
    items.truncate(limit);
    items.sort_by_key(due);
    match output {
        Output::Json => items.iter().for_each(|item| print("DueItem", item)),
        Output::Table => println!("{}", rows(&items)),
    }
    if more {
        eprintln!("there is more: raise --limit, or narrow the question");
    }
    Ok(Exit::Done)
}

/// Prints every change until the stream ends.
///
/// # Errors
/// [`ClientError`].
async fn watch(asked: WatchDueRequest, client: &Client) -> Result<Exit, ClientError> {
    let mut service = DueServiceClient::new(client.0.clone());
    let mut changes = service.watch_due(asked).await?.into_inner();
    while let Some(change) = changes.message().await? {
        if change.item.is_some() {
            print("WatchDueResponse", &change);
        }
    }
    Ok(Exit::Done)
}

/// A length of time in words of jiff; a day has 24 hours.
fn length(text: &str) -> Result<jiff::SignedDuration, String> {
    let span: jiff::Span = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    span.to_duration(day).map_err(|e| e.to_string())
}

fn print<M: prost::Message>(name: &str, message: &M) {
    let shown = dynamic(&format!("hefu.due.v1.{name}"), message);
    shown.iter().for_each(|shown| println!("{}", json(shown)));
}

fn rows(items: &[DueItem]) -> comfy_table::Table {
    let time = |stamp: Option<prost_types::Timestamp>| {
        let time = stamp.and_then(|t| Timestamp::new(t.seconds, 0).ok());
        time.map(beijing_time).unwrap_or_default()
    };
    let mut rows = table::table(["due", "", "clock", "record", "title", "division", "unit"]);
    for item in items {
        rows.add_row([
            time(item.due_time),
            if item.overdue { "OVERDUE" } else { "" }.to_owned(),
            item.clock.clone(),
            item.name.clone(),
            item.title.clone(),
            item.division.clone(),
            item.unit.clone(),
        ]);
    }
    rows
}
