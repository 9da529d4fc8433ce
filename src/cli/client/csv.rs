//! CSV rows as messages: a header cell is the path of a field, such as `place.latitude`.

use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage as _, Value,
};

/// Mistakes that are told at once.
const MAX_MISTAKES: usize = 20;

/// Everything wrong with a file, with lines and columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

/// Reads a whole file. `complete_name` makes a resource name out of a bare item number.
///
/// # Errors
/// [`Mistakes`]: up to 20, each with its line and column.
pub fn read(
    bytes: &[u8],
    record: &MessageDescriptor,
    complete_name: impl Fn(&str) -> String,
) -> Result<Vec<DynamicMessage>, Mistakes> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(bytes);
    let header = reader
        .headers()
        .map_err(|e| Mistakes(vec![e.to_string()]))?
        .clone();
    let columns: Vec<_> = header.iter().map(|path| column(record, path)).collect();
    let unknown = |(path, column): (&str, &Option<Column>)| {
        column
            .is_none()
            .then(|| format!("line 1: no field {path} in {}", record.name()))
    };
    let mistakes: Vec<_> = header.iter().zip(&columns).filter_map(unknown).collect();
    if !mistakes.is_empty() {
        return Err(Mistakes(mistakes));
    }
    let columns: Vec<_> = columns.into_iter().flatten().collect();
    let (mut rows, mut mistakes) = (Vec::new(), Vec::new());
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                mistakes.push(error.to_string());
                continue;
            }
        };
        let line = row.position().map_or(0, csv::Position::line);
        let mut message = DynamicMessage::new(record.clone());
        for ((path, column), cell) in header.iter().zip(&columns).zip(&row) {
            if cell.is_empty() {
                continue;
            }
            let name = (path == "name").then(|| complete_name(cell));
            if let Err(why) = column.set(&mut message, name.as_deref().unwrap_or(cell)) {
                mistakes.push(format!("line {line}, column {path}: {why}"));
            }
        }
        rows.push(message);
        if mistakes.len() >= MAX_MISTAKES {
            break;
        }
    }
    if mistakes.is_empty() {
        Ok(rows)
    } else {
        Err(Mistakes(mistakes))
    }
}

/// A column: the fields from the record down to its cell.
struct Column(Vec<FieldDescriptor>);

fn column(record: &MessageDescriptor, path: &str) -> Option<Column> {
    let (mut fields, mut at) = (Vec::new(), Some(record.clone()));
    for name in path.split('.') {
        let field = at?.get_field_by_name(name)?;
        at = match field.kind() {
            Kind::Message(inner) if inner.full_name() != "google.protobuf.Timestamp" => Some(inner),
            _ => None,
        };
        fields.push(field);
    }
    at.is_none().then_some(Column(fields))
}

/// Sets one field of a message from a cell; `path` as in a header.
///
/// # Errors
/// What is wrong with the path or the cell, for a person.
pub fn set_cell(message: &mut DynamicMessage, path: &str, cell: &str) -> Result<(), String> {
    let descriptor = message.descriptor();
    let found = column(&descriptor, path);
    let found = found.ok_or_else(|| format!("no field {path} in {}", descriptor.name()))?;
    let set = found.set(message, cell);
    set.map_err(|why| format!("{path}: {why}"))
}

impl Column {
    fn set(&self, message: &mut DynamicMessage, cell: &str) -> Result<(), String> {
        set(message, &self.0, cell)
    }
}

fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], cell: &str) -> Result<(), String> {
    match path {
        [] => Ok(()),
        [field] if field.cardinality() == Cardinality::Repeated => {
            let values = cell
                .split(';')
                .map(str::trim)
                .filter(|part| !part.is_empty());
            let values: Result<Vec<_>, _> = values.map(|part| value(field, part)).collect();
            message.set_field(field, Value::List(values?));
            Ok(())
        }
        [field] => {
            message.set_field(field, value(field, cell)?);
            Ok(())
        }
        [outer, rest @ ..] => match message.get_field_mut(outer).as_message_mut() {
            Some(inner) => set(inner, rest, cell),
            None => Err("is inside no message".to_owned()),
        },
    }
}

fn value(field: &FieldDescriptor, cell: &str) -> Result<Value, String> {
    let number = |_| format!("{cell:?} is no number");
    match field.kind() {
        Kind::String => Ok(Value::String(cell.to_owned())),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => cell.parse().map(Value::I32).map_err(number),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => cell.parse().map(Value::I64).map_err(number),
        Kind::Uint32 | Kind::Fixed32 => cell.parse().map(Value::U32).map_err(number),
        Kind::Uint64 | Kind::Fixed64 => cell.parse().map(Value::U64).map_err(number),
        Kind::Double => cell
            .parse()
            .map(Value::F64)
            .map_err(|_| format!("{cell:?} is no number")),
        Kind::Float => cell
            .parse()
            .map(Value::F32)
            .map_err(|_| format!("{cell:?} is no number")),
        Kind::Bool => cell
            .parse()
            .map(Value::Bool)
            .map_err(|_| format!("{cell:?} is not true or false")),
        Kind::Enum(values) => enum_value(&values, cell),
        Kind::Message(timestamp) => time(timestamp, cell),
        Kind::Bytes => Err("a column cannot hold bytes".to_owned()),
    }
}

/// An enum's value by its full name, or without the prefix that all share.
fn enum_value(values: &EnumDescriptor, cell: &str) -> Result<Value, String> {
    let zero = values.default_value().name().to_owned();
    let prefix = zero
        .strip_suffix("UNSPECIFIED")
        .unwrap_or_default()
        .to_owned();
    let found = values
        .get_value_by_name(cell)
        .or_else(|| values.get_value_by_name(&format!("{prefix}{cell}")));
    found
        .map(|found| Value::EnumNumber(found.number()))
        .ok_or_else(|| {
            let names = values.values().filter(|value| value.number() != 0);
            let names: Vec<_> = names
                .map(|v| v.name().trim_start_matches(&prefix).to_owned())
                .collect();
            format!("{cell:?} is not one of {}", names.join(", "))
        })
}

fn time(descriptor: MessageDescriptor, cell: &str) -> Result<Value, String> {
    let time: jiff::Timestamp = cell
        .parse()
        .map_err(|_| format!("{cell:?} is no RFC 3339 time"))?;
    let mut message = DynamicMessage::new(descriptor);
    message.set_field_by_name("seconds", Value::I64(time.as_second()));
    message.set_field_by_name("nanos", Value::I32(time.subsec_nanosecond()));
    Ok(Value::Message(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::dynamic::{RegisterApi, json};

    fn rows(id: &str, text: &str) -> Result<Vec<DynamicMessage>, Mistakes> {
        let register = RegisterApi::find(id).unwrap();
        read(text.as_bytes(), &register.record, |item| {
            format!("agencies/a-b/{id}/{item}")
        })
    }

    #[test]
    fn cells_become_fields() {
        let text = "\u{feff}name,level,consequences,place.latitude,place.datum,review_cycle_days\n\
                    R-1,MAJOR,FIRE;EXPLOSION,32.05,CGCS2000,\n";
        let row = json(&rows("risks", text).unwrap()[0]);
        assert_eq!(row["name"], "agencies/a-b/risks/R-1");
        assert_eq!(row["level"], "RISK_LEVEL_MAJOR");
        assert_eq!(row["consequences"][1], "CONSEQUENCE_TYPE_EXPLOSION");
        assert_eq!(row["place"]["latitude"], 32.05);
        assert!(row.get("review_cycle_days").is_none());
        let text = "name,occurred_time\nI-1,2024-02-18T08:00:00+08:00\n";
        let row = json(&rows("incidents", text).unwrap()[0]);
        assert_eq!(row["occurred_time"], "2024-02-18T00:00:00Z");
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let text = "name,level,place.latitude\nR-1,PURPLE,32\nR-2,LOW,north\n";
        let Mistakes(told) = rows("risks", text).unwrap_err();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("line 2, column level:") && told[0].contains("MAJOR"));
        assert!(told[1].starts_with("line 3, column place.latitude:"));
        let Mistakes(told) = rows("risks", "name,colour,place\n").unwrap_err();
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn the_seeds_can_be_read() {
        for (id, text, count) in [
            ("risks", include_str!("../../../seeds/risks.csv"), 1_280),
            (
                "measures",
                include_str!("../../../seeds/measures.csv"),
                1_801,
            ),
            (
                "incidents",
                include_str!("../../../seeds/incidents.csv"),
                30,
            ),
            (
                "incidents",
                include_str!("../../../seeds/incident-follow-ups.csv"),
                46,
            ),
            ("hazards", include_str!("../../../seeds/hazards.csv"), 362),
            (
                "hazards",
                include_str!("../../../seeds/hazard-follow-ups.csv"),
                564,
            ),
        ] {
            assert_eq!(rows(id, text).unwrap().len(), count, "{id}");
        }
    }
}
