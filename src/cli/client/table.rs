//! Revisions as tables for people.

use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use prost_reflect::{DynamicMessage, Kind, ReflectMessage as _, Value};

use super::dynamic::{sub, text};

/// Characters of a cell, roughly, before it is cut.
const MAX_CELL: usize = 36;

/// An empty table with these headings.
#[must_use]
pub fn table<T: Into<comfy_table::Cell>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(
            header
                .into_iter()
                .map(Into::into)
                .collect::<Vec<comfy_table::Cell>>(),
        );
    table
}

/// Revisions, one a row: name, revision, what the record says briefly, when.
#[must_use]
pub fn revisions(revisions: &[DynamicMessage], record: &str) -> Table {
    let mut header = vec!["name".to_owned(), "rev".to_owned()];
    let mut rows = Vec::new();
    for (at, revision) in revisions.iter().enumerate() {
        let (Some(message), Some(info)) = (sub(revision, record), sub(revision, "info")) else {
            continue;
        };
        let mut cells = vec![text(&message, "name"), number(&info, "revision")];
        for part in [Some(message), sub(revision, "assessment")]
            .into_iter()
            .flatten()
        {
            for (name, value) in brief(&part) {
                if at == 0 {
                    header.push(name);
                }
                cells.push(value);
            }
        }
        if at == 0 {
            header.push("updated".to_owned());
        }
        cells.push(if flag(&info, "withdrawn") {
            "withdrawn".to_owned()
        } else {
            time(&info)
        });
        rows.push(cells);
    }
    let mut table = table(header);
    table.add_rows(rows);
    table
}

/// The fields that tell one record from another: its title, its place, its enums, its flags.
fn brief(message: &DynamicMessage) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    for field in message.descriptor().fields() {
        if field.is_list() {
            continue;
        }
        let value = message.get_field(&field);
        let cell = match (field.kind(), value.as_ref()) {
            (Kind::Enum(_), _) => enum_name(message, field.name()),
            (Kind::String, Value::String(text)) if field.name() == "title" => Some(cut(text)),
            (Kind::String, Value::String(text)) if field.name() == "risk" => {
                Some(text.rsplit('/').next().unwrap_or_default().to_owned())
            }
            (Kind::Bool, Value::Bool(held)) => Some(if *held { "yes" } else { "" }.to_owned()),
            (Kind::Message(_), Value::Message(inner)) if field.name() == "place" => {
                Some(text(inner, "division"))
            }
            (Kind::Message(_), Value::Message(inner)) if field.name() == "report" => {
                cells.extend(brief(inner));
                None
            }
            _ => None,
        };
        if let Some(cell) = cell {
            cells.push((field.name().to_owned(), cell));
        }
    }
    cells
}

/// The value of an enum field, without the prefix that all of its values share.
#[must_use]
pub fn enum_name(message: &DynamicMessage, field: &str) -> Option<String> {
    let field = message.descriptor().get_field_by_name(field)?;
    let value = message.get_field(&field);
    let (Kind::Enum(values), Value::EnumNumber(number)) = (field.kind(), value.as_ref()) else {
        return None;
    };
    let zero = values.default_value().name().to_owned();
    let prefix = zero.strip_suffix("UNSPECIFIED").unwrap_or_default();
    let name = values.get_value(*number)?.name().to_owned();
    Some(name.strip_prefix(prefix).unwrap_or(&name).to_owned())
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_CELL {
        return text.to_owned();
    }
    text.chars().take(MAX_CELL - 1).chain(['…']).collect()
}

/// A number of a message, as text.
#[must_use]
pub fn number(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value
        .and_then(|value| value.as_i64())
        .map(|n| n.to_string())
        .unwrap_or_default()
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message
        .get_field_by_name(field)
        .and_then(|value| value.as_bool())
        .unwrap_or(false)
}

fn time(info: &DynamicMessage) -> String {
    let Some(time) = sub(info, "update_time") else {
        return String::new();
    };
    let seconds = time
        .get_field_by_name("seconds")
        .and_then(|value| value.as_i64());
    let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map(|time| time.to_string()).unwrap_or_default()
}
