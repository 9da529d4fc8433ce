//! Figures and reporters: `hefu stats`, `hefu reporting`, `hefu report-nil`.

use clap::{Subcommand, ValueEnum};
use jiff::civil::Date;
use prost_reflect::{DynamicMessage, Value};

use super::{
    Client, ClientError,
    args::Output,
    commands::request_id,
    csv,
    due::DueArgs,
    dynamic::{RegisterApi, dynamic, json},
    method, table,
};
use crate::{
    cli::Exit,
    proto::statistics::v1::{self as pb, statistics_service_client::StatisticsServiceClient},
    types::beijing_time,
};

/// What figures are split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Level of a risk or hazard, class of an event or measure
    Level,
    /// State
    Status,
    /// Channel of hazards
    Channel,
    /// Divisions one level down
    Division,
    /// Agency
    Agency,
    /// Month
    Month,
}

/// A question about figures or reporters.
#[derive(Debug, Subcommand)]
pub enum FiguresCommand {
    /// Count and sum up a register, compared with the period before and the year before
    #[command(
        after_help = "Example:\n  hefu stats hazards --from 2024-01-01 --to 2024-12-31 --by level,status\n  \
        hefu stats incidents --from 2024-03-01 --to 2024-03-31 --division 320681"
    )]
    Stats {
        /// The register: risks, measures, incidents, hazards
        register: String,
        /// First day in Beijing, as 2024-01-01
        #[arg(long)]
        from: String,
        /// Last day, included
        #[arg(long)]
        to: String,
        /// A division, with everything under it
        #[arg(long, default_value = "")]
        division: String,
        /// One agency's records alone
        #[arg(long, default_value = "")]
        agency: String,
        /// What to split by, at most three
        #[arg(long, value_delimiter = ',')]
        by: Vec<By>,
    },
    /// Show who has reported, who has signed that there is nothing, and who is missing
    #[command(
        after_help = "Example:\n  hefu reporting incidents --date 2024-02-18\n  hefu reporting hazards \
        --date 2024-02-01 --division 320681 -o json\n\nExit codes: 0 nobody is missing, 6 somebody is"
    )]
    Reporting {
        /// The register: incidents, hazards
        register: String,
        /// A day of the period, in Beijing
        #[arg(long)]
        date: String,
        /// A division, with everything under it
        #[arg(long, default_value = "")]
        division: String,
    },
    /// Show what is due, what is overdue, and whose it is
    #[command(
        after_help = "Example:\n  hefu due\n  hefu due --within 3d --division 320681\n  hefu due --register \
        hazards --skip-overdue --watch"
    )]
    Due(DueArgs),
    /// Sign that there is nothing to report (零报告)
    #[command(
        after_help = "Example:\n  hefu report-nil incidents --agency qidong-emergency --from 2024-02-18 --post \
        值班主任\n  hefu report-nil hazards --agency qidong-emergency --from 2024-02-01 --to 2024-02-29 --post \
        值班主任"
    )]
    ReportNil {
        /// The register: incidents, hazards
        register: String,
        /// Your agency
        #[arg(long)]
        agency: String,
        /// First day in Beijing
        #[arg(long)]
        from: String,
        /// Last day, included; default: the first
        #[arg(long)]
        to: Option<String>,
        /// The statement
        #[arg(long, default_value = "本期无事项报告")]
        statement: String,
        /// The post that signs
        #[arg(long)]
        post: String,
    },
}

/// Runs a command.
///
/// # Errors
/// [`ClientError`].
pub async fn run(
    command: FiguresCommand,
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    match command {
        FiguresCommand::Stats {
            register,
            from,
            to,
            division,
            agency,
            by,
        } => {
            let request = pb::GetStatisticsRequest {
                register,
                division,
                from_date: from,
                to_date: to,
                group_by: by.iter().map(|by| dimension(*by).into()).collect(),
                agency,
            };
            stats(request, &by, client, output).await
        }
        FiguresCommand::Reporting {
            register,
            date,
            division,
        } => {
            let request = pb::GetReportingRequest {
                register,
                date,
                division,
                states: Vec::new(),
            };
            reporting(request, client, output).await
        }
        FiguresCommand::Due(due) => due.run(client, output).await,
        FiguresCommand::ReportNil {
            register,
            agency,
            from,
            to,
            statement,
            post,
        } => {
            let to = to.unwrap_or_else(|| from.clone());
            let cells = [register, from, to, statement, post];
            report_nil(&agency, &cells, client, output).await
        }
    }
}

fn dimension(by: By) -> pb::Dimension {
    match by {
        By::Level => pb::Dimension::Level,
        By::Status => pb::Dimension::Status,
        By::Channel => pb::Dimension::Channel,
        By::Division => pb::Dimension::Division,
        By::Agency => pb::Dimension::Agency,
        By::Month => pb::Dimension::Month,
    }
}

fn print<M: prost::Message>(name: &str, message: &M) {
    let shown = dynamic(&format!("hefu.statistics.v1.{name}"), message);
    shown.iter().for_each(|shown| println!("{}", json(shown)));
}

async fn stats(
    request: pb::GetStatisticsRequest,
    by: &[By],
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    let mut service = StatisticsServiceClient::new(client.0.clone());
    let answer = service.get_statistics(request).await?.into_inner();
    if output == Output::Json {
        print("GetStatisticsResponse", &answer);
        return Ok(Exit::Done);
    }
    let total = answer.total.clone().unwrap_or_default();
    let figures = total.figures.clone().unwrap_or_default();
    let mut header: Vec<String> = by
        .iter()
        .map(|by| format!("{by:?}").to_lowercase())
        .collect();
    header.extend(["count", "before", "year before", "duplicates"].map(str::to_owned));
    header.extend(figures.sums.iter().map(|sum| sum.name.clone()));
    let mut rows = table::table(header);
    for row in &answer.rows {
        rows.add_row(cells(row.group.clone(), row));
    }
    let mut group = vec![String::new(); by.len()];
    if let Some(first) = group.first_mut() {
        "total".clone_into(first);
    }
    rows.add_row(cells(group, &total));
    println!("{rows}");
    println!(
        "before: {} to {}; ~ marks sums with estimates in them",
        answer.before_from_date, answer.before_to_date
    );
    if !answer.remark.is_empty() {
        println!("{}\n{}", answer.remark, answer.remark_zh);
    }
    Ok(Exit::Done)
}

fn cells(mut cells: Vec<String>, row: &pb::StatisticsRow) -> Vec<String> {
    let count = |figures: &Option<pb::Figures>| {
        let count = figures.as_ref().map(|figures| figures.count.to_string());
        count.unwrap_or_default()
    };
    let figures = row.figures.clone().unwrap_or_default();
    cells.extend([&row.figures, &row.before, &row.year_before].map(count));
    cells.push(figures.duplicates.to_string());
    let sum = |sum: &pb::Sum| format!("{}{}", if sum.approximate { "~" } else { "" }, sum.value);
    cells.extend(figures.sums.iter().map(sum));
    cells
}

async fn reporting(
    request: pb::GetReportingRequest,
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    let mut service = StatisticsServiceClient::new(client.0.clone());
    let answer = service.get_reporting(request).await?.into_inner();
    let exit = match answer.missing {
        0 => Exit::Done,
        _ => Exit::Behind,
    };
    if output == Output::Json {
        print("GetReportingResponse", &answer);
        return Ok(exit);
    }
    let time = |stamp: Option<prost_types::Timestamp>| {
        let time = stamp.and_then(|t| jiff::Timestamp::new(t.seconds, 0).ok());
        time.map(beijing_time).unwrap_or_default()
    };
    let header = [
        "agency",
        "node",
        "period",
        "state",
        "records",
        "reported",
        "held here",
        "deadline",
        "late",
    ];
    let mut rows = table::table(header);
    for row in &answer.reporters {
        let state = row
            .state()
            .as_str_name()
            .trim_start_matches("REPORTING_STATE_");
        let late = match (row.late, row.held_late) {
            (true, _) => "agency",
            (false, true) => "line",
            (false, false) => "",
        };
        rows.add_row([
            format!("{} {}", row.agency_name, row.agency),
            row.node.clone(),
            format!("{} {}", row.from_date, row.to_date),
            state.to_owned(),
            row.records.to_string(),
            time(row.reported_time),
            time(row.held_time),
            time(row.deadline),
            late.to_owned(),
        ]);
    }
    println!("{rows}\n{} missing; by {}", answer.missing, answer.rules);
    Ok(exit)
}

async fn report_nil(
    agency: &str,
    cells: &[String; 5],
    client: &Client,
    output: Output,
) -> Result<Exit, ClientError> {
    let register = RegisterApi::find("nilreports")
        .ok_or_else(|| ClientError::Usage("no register nilreports".to_owned()))?;
    let [of, from, to, statement, post] = cells;
    let day = |text: &str| {
        text.parse::<Date>()
            .map_err(|e| ClientError::Usage(format!("{text}: {e}")))
    };
    let item = match day(from)? == day(to)? {
        true => format!("{of}-{from}"),
        false => format!("{of}-{from}-{to}"),
    };
    let name = format!("agencies/{agency}/nilreports/{item}");
    let mut record = DynamicMessage::new(register.record.clone());
    let fields = [
        ("name", &name),
        ("register", of),
        ("from_date", from),
        ("to_date", to),
        ("statement", statement),
        ("post", post),
    ];
    for (field, value) in fields {
        csv::set_cell(&mut record, field, value).map_err(ClientError::Usage)?;
    }
    let submit = method(&register, "SubmitNilReport")?;
    let mut message = DynamicMessage::new(submit.input());
    message.set_field_by_name("request_id", Value::String(request_id(&record)));
    message.set_field_by_name("nilreport", Value::Message(record));
    let answer = client.unary(submit, message).await?;
    match output {
        Output::Json => println!("{}", json(&answer)),
        Output::Table => println!("{name}: signed; hefu custody {name} proves it"),
    }
    Ok(Exit::Done)
}
