//! The children that a node expects, and by which hour of the day.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    daily::{TimeOfDay, UtcOffset},
    id::NodeId,
    table::{self, Row, TableError},
};

const COLUMNS: &[&str] = &["node", "name", "due"];

/// A child that is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedChild {
    /// Its node id.
    pub node: NodeId,
    /// Its name, such as 启东市.
    pub name: String,
    /// The hour by which it must have come every day. `None`: it is always connected, and missing as soon as it
    /// is silent.
    pub due: Option<TimeOfDay>,
}

impl ExpectedChild {
    /// Since when it is missing, if it is. `heard` is when it last gave a sign of life, `silent` since when that
    /// counts as silence.
    #[must_use]
    pub fn missing(
        &self,
        heard: Option<Timestamp>,
        silent: Option<Timestamp>,
        now: Timestamp,
        zone: UtcOffset,
    ) -> Option<Timestamp> {
        let Some(due) = self.due else { return silent };
        let due = due.last(now, zone);
        let before = due
            .saturating_sub(SignedDuration::from_hours(24))
            .unwrap_or(due);
        heard.is_none_or(|heard| heard < before).then_some(due)
    }
}

/// All children that a node expects. The operator writes it; without one, nobody is expected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChildTable {
    children: BTreeMap<NodeId, ExpectedChild>,
}

impl ChildTable {
    /// Loads a table with the columns `node,name` and, if it likes, `due`, an `HH:MM` that may be empty.
    ///
    /// # Errors
    /// The first wrong line; nodes are unique.
    pub fn from_csv(text: &str) -> Result<Self, TableError> {
        let (mut lines, mut children) = (BTreeMap::new(), BTreeMap::new());
        for row in table::read(text, COLUMNS, 1)? {
            let child = Self::child(&row)?;
            if let Some(first) = lines.insert(child.node.clone(), row.line) {
                let key = child.node.to_string();
                let line = row.line;
                return Err(TableError::Duplicate { line, key, first });
            }
            children.insert(child.node.clone(), child);
        }
        Ok(Self { children })
    }

    fn child(row: &Row) -> Result<ExpectedChild, TableError> {
        Ok(ExpectedChild {
            node: row.parse("node")?,
            name: row.parse("name")?,
            due: row.parse_optional("due")?,
        })
    }

    /// All of them, by node.
    pub fn iter(&self) -> impl Iterator<Item = &ExpectedChild> {
        self.children.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}:00+08:00").parse().expect("a time")
    }

    #[test]
    fn a_child_with_an_hour_is_missing_from_that_hour_on() {
        let table = ChildTable::from_csv("node,name,due\nqidong,启东市,06:00\nrudong,如东县,\n");
        let table = table.expect("a table");
        let qidong = table.iter().next().expect("a row");
        let missing = |heard, now| qidong.missing(heard, None, at(now), UtcOffset::default());
        let came = Some(at("26T23:00"));
        assert_eq!(missing(came, "27T05:00"), None);
        assert_eq!(
            missing(came, "27T07:00"),
            None,
            "it came in the night before"
        );
        assert_eq!(
            missing(came, "28T05:59"),
            None,
            "the next night is not over"
        );
        assert_eq!(missing(came, "28T06:00"), Some(at("28T06:00")));
        assert_eq!(
            missing(Some(at("28T06:30")), "28T07:00"),
            None,
            "it came late"
        );
        assert_eq!(missing(None, "27T07:00"), Some(at("27T06:00")));
    }

    #[test]
    fn a_child_without_an_hour_is_missing_while_it_is_silent() {
        let table = ChildTable::from_csv("node,name\nrudong,如东县\n").expect("a table");
        let rudong = table.iter().next().expect("a row");
        let (now, since) = (at("27T07:00"), at("27T06:58"));
        let missing = |silent| rudong.missing(Some(since), silent, now, UtcOffset::default());
        assert_eq!(missing(None), None);
        assert_eq!(missing(Some(since)), Some(since));
    }

    #[test]
    fn wrong_tables_are_refused_by_line() {
        for (rows, expected) in [
            ("Q,启东,06:00\n", "line 2, column node"),
            ("qidong,,06:00\n", "line 2, column name"),
            (
                "qidong,启东,6\n",
                "line 2, column due: \"6\" is wrong: a time of day",
            ),
            (
                "qidong,启东,\nqidong,启东,\n",
                "line 3: qidong already stands",
            ),
        ] {
            let error = ChildTable::from_csv(&format!("node,name,due\n{rows}"));
            let error = error.expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{rows}: {error}");
        }
    }
}
