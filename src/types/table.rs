//! Reads reference tables in CSV, with errors that name line and column.

use std::str::FromStr;

use csv::StringRecord;

use super::violation::excerpt;

/// Why a reference table could not be loaded. The operator who replaced it reads this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not CSV, not UTF-8, or a row with too many or too few fields.
    #[error("line {line}: {cause}")]
    Syntax {
        /// The line, from 1.
        line: u64,
        /// What the reader found.
        cause: String,
    },
    /// The first line does not name the columns.
    #[error("line 1 must be {expected:?}, not {found:?}")]
    Header {
        /// The columns, joined by commas.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A field with a wrong value.
    #[error("line {line}, column {column}: {cause}")]
    Field {
        /// The line, from 1.
        line: u64,
        /// The column's name.
        column: &'static str,
        /// What is wrong and what to do.
        cause: String,
    },
    /// A key for the second time.
    #[error("line {line}: {key} already stands in line {first}")]
    Duplicate {
        /// The line of the second.
        line: u64,
        /// The key.
        key: String,
        /// The line of the first.
        first: u64,
    },
    /// No rows at all.
    #[error("the table has no rows")]
    Empty,
}

/// One row of a table whose columns are known.
pub(super) struct Row {
    columns: &'static [&'static str],
    record: StringRecord,
    /// The line on which it begins, from 1.
    pub line: u64,
}

impl Row {
    /// The text of a column; empty where it is.
    pub fn text(&self, column: &'static str) -> &str {
        let at = self.columns.iter().position(|c| *c == column);
        at.and_then(|i| self.record.get(i)).unwrap_or_default()
    }

    /// A column that must have a value.
    pub fn parse<T: FromStr<Err: ToString>>(&self, column: &'static str) -> Result<T, TableError> {
        self.parse_optional(column)?
            .ok_or_else(|| self.wrong(column, "must not be empty"))
    }

    /// A column that may be empty.
    pub fn parse_optional<T: FromStr<Err: ToString>>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, TableError> {
        match self.text(column) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|e: T::Err| {
                self.wrong(
                    column,
                    format!("{} is wrong: {}", excerpt(text), e.to_string()),
                )
            }),
        }
    }

    /// An error in a column of this row.
    pub fn wrong(&self, column: &'static str, cause: impl Into<String>) -> TableError {
        TableError::Field {
            line: self.line,
            column,
            cause: cause.into(),
        }
    }
}

/// Reads all rows of a CSV text with exactly `columns`, of which the last `optional` may be left out
/// together. White space around fields is dropped, and so is the byte order mark that spreadsheets
/// write.
pub(super) fn read(
    text: &str,
    columns: &'static [&'static str],
    optional: usize,
) -> Result<Vec<Row>, TableError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut lines = Lines {
        text,
        line: 1,
        byte: 0,
    };
    let header = reader.headers().map_err(|e| syntax(&e, &mut lines))?;
    let required = columns
        .iter()
        .copied()
        .take(columns.len().saturating_sub(optional));
    if header.iter().ne(columns.iter().copied()) && header.iter().ne(required) {
        let found = header.iter().collect::<Vec<_>>().join(",");
        return Err(TableError::Header {
            expected: columns.join(","),
            found,
        });
    }
    let rows = reader.records().map(|record| {
        let record = record.map_err(|e| syntax(&e, &mut lines))?;
        let line = lines.of(record.position());
        Ok(Row {
            columns,
            record,
            line,
        })
    });
    let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
    if rows.is_empty() {
        Err(TableError::Empty)
    } else {
        Ok(rows)
    }
}

/// Counts lines up to growing positions. The reader's own count is one short behind a line that ends
/// in CR LF and behind empty lines, because it takes a record's position before it skips them.
struct Lines<'a> {
    text: &'a str,
    line: u64,
    byte: usize,
}

impl Lines<'_> {
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let bytes = self.text.as_bytes();
        let start = position
            .and_then(|p| usize::try_from(p.byte()).ok())
            .unwrap_or(self.byte);
        let tail = bytes.get(start..).unwrap_or_default();
        let skipped = tail
            .iter()
            .take_while(|b| matches!(b, b'\r' | b'\n'))
            .count();
        let passed = bytes.get(self.byte..start + skipped).unwrap_or_default();
        self.line += passed.iter().map(|b| u64::from(*b == b'\n')).sum::<u64>();
        self.byte = start + skipped;
        self.line
    }
}

fn syntax(error: &csv::Error, lines: &mut Lines<'_>) -> TableError {
    let line = lines.of(error.position());
    let cause = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            format!("has {len} fields instead of {expected_len}")
        }
        _ => "is no readable CSV".to_owned(),
    };
    TableError::Syntax { line, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[&str] = &["id", "size"];

    fn error(text: &str) -> String {
        let rows = read(text, COLUMNS, 0);
        let parsed = rows.and_then(|rows| {
            rows.iter()
                .map(|r| r.parse::<u8>("size"))
                .collect::<Result<Vec<_>, _>>()
        });
        parsed.expect_err("refused").to_string()
    }

    #[test]
    fn rows_are_read_with_their_lines() {
        let rows = read(
            "\u{feff}id,size\r\na, 1 \r\n\r\n\"b\nc\",\r\nd,3\r\n",
            COLUMNS,
            0,
        )
        .expect("a table");
        let lines: Vec<_> = rows.iter().map(|r| (r.line, r.text("id"))).collect();
        assert_eq!(lines, [(2, "a"), (4, "b\nc"), (6, "d")]);
        assert_eq!(rows[0].parse("size"), Ok(1));
        assert_eq!(rows[1].parse_optional::<u8>("size"), Ok(None));
    }

    #[test]
    fn errors_name_line_and_column() {
        assert_eq!(error(""), "line 1 must be \"id,size\", not \"\"");
        assert_eq!(error("id,size\n"), "the table has no rows");
        assert_eq!(
            error("size,id\n1,a\n"),
            "line 1 must be \"id,size\", not \"size,id\""
        );
        assert_eq!(
            error("id,size\na,1\nb\n"),
            "line 3: has 1 fields instead of 2"
        );
        assert_eq!(
            error("id,size\na,1\nb,\n"),
            "line 3, column size: must not be empty"
        );
        let wrong = error("id,size\na,x\n");
        assert!(
            wrong.starts_with("line 2, column size: \"x\" is wrong: invalid digit"),
            "{wrong}"
        );
    }
}
