//! The agencies that may call, and the divisions that each may write for.

use std::collections::BTreeMap;

use super::division::DivisionCode;
use super::id::{AgencyId, NodeId};
use super::reason::FieldReason;
use super::table::{self, Row, TableError};
use super::violation::Violations;

const COLUMNS: &[&str] = &["id", "name", "divisions", "kind", "node"];

/// An organisation that submits and reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agency {
    /// Its id, as its certificate names it.
    pub id: AgencyId,
    /// Its name, such as 启东市应急管理局.
    pub name: String,
    /// The divisions that it may write for and read in, each with everything under it. At least one.
    pub divisions: Vec<DivisionCode>,
    /// What it is, in the operator's own words, such as `county-department`.
    pub kind: String,
    /// The nodes whose logs may hold its records; it submits to the first. Empty where the table does
    /// not say: then it submits nowhere.
    pub nodes: Vec<NodeId>,
}

impl Agency {
    /// True when the division is one of its own or lies within one.
    #[must_use]
    pub fn may_write(&self, division: &DivisionCode) -> bool {
        self.divisions.iter().any(|own| own.contains(division))
    }

    /// Whether it submits to that node.
    #[must_use]
    pub fn is_at(&self, node: &NodeId) -> bool {
        self.nodes.first() == Some(node)
    }

    /// Records a violation when the agency may not write for the division.
    pub fn check_division(&self, v: &mut Violations, path: &str, division: &DivisionCode) {
        if !self.may_write(division) {
            let own: Vec<&str> = self.divisions.iter().map(DivisionCode::as_str).collect();
            v.field(
                path,
                FieldReason::NotPermittedDivision,
                format!(
                    "{division} is not of {}: it writes for {}",
                    self.id,
                    own.join(", ")
                ),
                format!(
                    "{division} 不属于 {}：该单位的区划为 {}",
                    self.name,
                    own.join("、")
                ),
            );
        }
    }
}

/// All agencies that a node knows. The operator writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgencyTable {
    agencies: BTreeMap<AgencyId, Agency>,
}

impl AgencyTable {
    /// Loads a table with the columns `id,name,divisions,kind` and, if it likes, `node`. Divisions
    /// and nodes are separated by `;`: an agency that moved names its node of today, then the former
    /// ones, whose logs still hold what it submitted there.
    ///
    /// # Errors
    /// The first wrong line; ids are unique.
    pub fn from_csv(text: &str) -> Result<Self, TableError> {
        let mut lines = BTreeMap::new();
        let mut agencies = BTreeMap::new();
        for row in table::read(text, COLUMNS, 1)? {
            let agency = Self::agency(&row)?;
            if let Some(first) = lines.insert(agency.id.clone(), row.line) {
                let key = agency.id.to_string();
                return Err(TableError::Duplicate {
                    line: row.line,
                    key,
                    first,
                });
            }
            agencies.insert(agency.id.clone(), agency);
        }
        Ok(Self { agencies })
    }

    fn agency(row: &Row) -> Result<Agency, TableError> {
        let code = |text: &str| {
            let text = text.trim();
            text.parse()
                .map_err(|e| row.wrong("divisions", format!("{text:?} is wrong: {e}")))
        };
        let node = |text: &str| {
            let text = text.trim();
            text.parse()
                .map_err(|e| row.wrong("node", format!("{text:?} is wrong: {e}")))
        };
        let divisions: String = row.parse("divisions")?;
        let nodes: Option<String> = row.parse_optional("node")?;
        Ok(Agency {
            id: row.parse("id")?,
            name: row.parse("name")?,
            divisions: divisions.split(';').map(code).collect::<Result<_, _>>()?,
            kind: row.parse("kind")?,
            nodes: nodes
                .iter()
                .flat_map(|text| text.split(';'))
                .map(node)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The agency of an id.
    #[must_use]
    pub fn get(&self, id: &AgencyId) -> Option<&Agency> {
        self.agencies.get(id)
    }

    /// All agencies, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Agency> {
        self.agencies.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "id,name,divisions,kind\n\
        qidong-emergency,启东市应急管理局,320681,county-department\n\
        tongzhou-bay,通州湾示范区,320623105;320612104,zone\n";

    fn error(rows: &str) -> String {
        let text = format!("id,name,divisions,kind,node\n{rows}");
        AgencyTable::from_csv(&text)
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn an_agency_writes_for_its_divisions_and_below() {
        let table = AgencyTable::from_csv(TABLE).expect("a table");
        let id = "qidong-emergency".parse().expect("an id");
        let agency = table.get(&id).expect("listed");
        let check = |code: &str| {
            let mut v = Violations::new();
            agency.check_division(&mut v, "place.division", &code.parse().expect("a code"));
            v.into_iter().next().map(|v| v.reason)
        };
        assert_eq!(check("320681"), None);
        assert_eq!(check("320681100200"), None);
        assert_eq!(check("320600"), Some(FieldReason::NotPermittedDivision));
        assert_eq!(check("320682"), Some(FieldReason::NotPermittedDivision));
        assert_eq!(
            table.iter().map(|a| a.divisions.len()).collect::<Vec<_>>(),
            [1, 2]
        );
    }

    #[test]
    fn the_node_is_optional() {
        let text = "id,name,divisions,kind,node\nab,甲,320681,x,qidong;haian\ncd,乙,320681,x,\n";
        let table = AgencyTable::from_csv(text).expect("a table");
        let nodes: Vec<_> = table.iter().map(|a| a.nodes.len()).collect();
        assert_eq!(nodes, [2, 0]);
        let moved = table.iter().next().expect("a row");
        assert!(moved.is_at(&"qidong".parse().expect("a node")));
        assert!(!moved.is_at(&"haian".parse().expect("a node")));
    }

    #[test]
    fn wrong_tables_are_refused_by_line() {
        for (rows, expected) in [
            ("", "the table has no rows"),
            (
                "A,甲,320681,x,\n",
                "line 2, column id: \"A\" is wrong: an agency id must have 2",
            ),
            ("ab,,320681,x,\n", "line 2, column name: must not be empty"),
            ("ab,甲,,x,\n", "line 2, column divisions: must not be empty"),
            (
                "ab,甲,320681;3206,x,\n",
                "line 2, column divisions: \"3206\" is wrong: a division",
            ),
            (
                "ab,甲,320681;,x,\n",
                "line 2, column divisions: \"\" is wrong",
            ),
            ("ab,甲,320681,,\n", "line 2, column kind: must not be empty"),
            (
                "ab,甲,320681,x,\nab,乙,320681,x,\n",
                "line 3: ab already stands in line 2",
            ),
        ] {
            let error = error(rows);
            assert!(error.starts_with(expected), "{rows}: {error}");
        }
    }
}
