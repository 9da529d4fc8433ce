//! The table of administrative divisions: which codes exist, when, and what took their place.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::division::{DivisionCode, DivisionLevel};
use super::reason::FieldReason;
use super::table::{self, Row, TableError};
use super::violation::Violations;

const COLUMNS: &[&str] = &[
    "code",
    "name",
    "level",
    "parent_code",
    "valid_from",
    "valid_to",
    "successor",
];

/// One division.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    /// Its code.
    pub code: DivisionCode,
    /// Its name, such as 启东市.
    pub name: String,
    /// The division that it belongs to; `None` for a province.
    pub parent: Option<DivisionCode>,
    /// The first day on which it exists; `None` for ever so long.
    pub valid_from: Option<Date>,
    /// The first day on which it exists no more; `None` while it does.
    pub valid_to: Option<Date>,
    /// The division that took its place.
    pub successor: Option<DivisionCode>,
}

/// How a code stands on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DivisionStanding<'a> {
    /// It exists.
    Valid(&'a Division),
    /// No row has the code.
    Unknown,
    /// It does not exist yet.
    NotYet {
        /// The first day on which it does.
        from: Date,
    },
    /// It was abolished.
    Retired {
        /// The first day without it.
        on: Date,
        /// What took its place.
        successor: Option<&'a Division>,
    },
}

/// All divisions that a node knows. An operator can replace it; see `seeds/DIVISIONS.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DivisionTable {
    rows: BTreeMap<DivisionCode, Division>,
}

impl DivisionTable {
    /// The divisions of Nantong, as of 2023-06-30, with the county codes retired in 2020.
    #[must_use]
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "built in; a test loads it"
    )]
    pub fn builtin() -> Self {
        Self::from_csv(include_str!("../../seeds/divisions.csv")).expect("the built-in table loads")
    }

    /// Loads a table with the columns
    /// `code,name,level,parent_code,valid_from,valid_to,successor`; dates are `YYYY-MM-DD`, and
    /// `valid_to` is the first day on which the row holds no more.
    ///
    /// # Errors
    /// The first wrong line. Codes are unique; level and parent must agree with the code; parent
    /// and successor must be in the table; no row may outlive its parent.
    pub fn from_csv(text: &str) -> Result<Self, TableError> {
        let lines = table::read(text, COLUMNS, 0)?;
        let mut rows = BTreeMap::new();
        let mut first_lines = BTreeMap::new();
        for line in &lines {
            let division = Self::division(line)?;
            if let Some(first) = first_lines.insert(division.code.clone(), line.line) {
                let key = division.code.to_string();
                return Err(TableError::Duplicate {
                    line: line.line,
                    key,
                    first,
                });
            }
            rows.insert(division.code.clone(), division);
        }
        let table = Self { rows };
        lines
            .iter()
            .try_for_each(|line| table.check_references(line))?;
        Ok(table)
    }

    fn division(row: &Row) -> Result<Division, TableError> {
        let division = Division {
            code: row.parse("code")?,
            name: row.parse("name")?,
            parent: row.parse_optional("parent_code")?,
            valid_from: row.parse_optional("valid_from")?,
            valid_to: row.parse_optional("valid_to")?,
            successor: row.parse_optional("successor")?,
        };
        let level = division.code.level();
        if row.text("level") != level.as_str() {
            return Err(row.wrong("level", format!("must be {level} for {}", division.code)));
        }
        if division.parent.is_none() && level != DivisionLevel::Province {
            return Err(row.wrong("parent_code", "only a province has none"));
        }
        if let (Some(from), Some(to)) = (division.valid_from, division.valid_to)
            && from >= to
        {
            return Err(row.wrong("valid_to", format!("must be after valid_from, {from}")));
        }
        if division.successor.is_some() && division.valid_to.is_none() {
            return Err(row.wrong("successor", "needs the day of the change in valid_to"));
        }
        Ok(division)
    }

    fn check_references(&self, row: &Row) -> Result<(), TableError> {
        let own = Self::division(row)?;
        if let Some(code) = &own.parent {
            let Some(parent) = self.rows.get(code) else {
                return Err(row.wrong("parent_code", format!("{code} is not in the table")));
            };
            if !code.contains(&own.code) || *code == own.code {
                return Err(row.wrong("parent_code", format!("{code} does not contain it")));
            }
            if let Some(end) = parent.valid_to
                && own.valid_to.is_none_or(|to| to > end)
            {
                return Err(row.wrong("valid_to", format!("{code}, its parent, ends on {end}")));
            }
        }
        match &own.successor {
            Some(code) if !self.rows.contains_key(code) => {
                Err(row.wrong("successor", format!("{code} is not in the table")))
            }
            _ => Ok(()),
        }
    }

    /// The row of a code, whatever its dates.
    #[must_use]
    pub fn get(&self, code: &DivisionCode) -> Option<&Division> {
        self.rows.get(code)
    }

    /// How a code stands on a day.
    #[must_use]
    pub fn standing(&self, code: &DivisionCode, on: Date) -> DivisionStanding<'_> {
        let Some(division) = self.rows.get(code) else {
            return DivisionStanding::Unknown;
        };
        match (division.valid_from, division.valid_to) {
            (Some(from), _) if on < from => DivisionStanding::NotYet { from },
            (_, Some(to)) if on >= to => DivisionStanding::Retired {
                on: to,
                successor: division.successor.as_ref().and_then(|s| self.rows.get(s)),
            },
            _ => DivisionStanding::Valid(division),
        }
    }

    /// All rows, by code.
    pub fn iter(&self) -> impl Iterator<Item = &Division> {
        self.rows.values()
    }
}

/// Parses a required division code and checks that it is in force on a day.
pub fn check_division(
    v: &mut Violations,
    path: &str,
    table: &DivisionTable,
    text: &str,
    on: Date,
) -> Option<DivisionCode> {
    let code: DivisionCode = v.parse(path, text)?;
    let (reason, en, zh) = match table.standing(&code, on) {
        DivisionStanding::Valid(_) => return Some(code),
        DivisionStanding::Unknown => (
            FieldReason::UnknownDivision,
            format!("{code} is no division of the table: check the code"),
            format!("区划代码 {code} 不在区划表中：请核对"),
        ),
        DivisionStanding::NotYet { from } => (
            FieldReason::UnknownDivision,
            format!("{code} is a division only from {from} on: check the code"),
            format!("区划代码 {code} 自 {from} 起才有效：请核对"),
        ),
        DivisionStanding::Retired {
            on,
            successor: Some(next),
        } => (
            FieldReason::RetiredDivision,
            format!(
                "{code} was abolished on {on}: use {} ({})",
                next.code, next.name
            ),
            format!(
                "区划代码 {code} 已于 {on} 撤销：请使用 {}（{}）",
                next.code, next.name
            ),
        ),
        DivisionStanding::Retired {
            on,
            successor: None,
        } => (
            FieldReason::RetiredDivision,
            format!("{code} was abolished on {on}: use the code in force"),
            format!("区划代码 {code} 已于 {on} 撤销：请使用现行代码"),
        ),
    };
    v.field(path, reason, en, zh);
    None
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "code,name,level,parent_code,valid_from,valid_to,successor\n";

    fn error(rows: &str) -> String {
        DivisionTable::from_csv(&format!("{HEADER}320000,江苏省,province,,,,\n{rows}"))
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn the_builtin_table_has_nantong() {
        let table = DivisionTable::builtin();
        let today = date(2024, 12, 31);
        let count = |level: DivisionLevel| {
            let in_force = |d: &&Division| {
                d.code.level() == level
                    && matches!(table.standing(&d.code, today), DivisionStanding::Valid(_))
            };
            table.iter().filter(in_force).count()
        };
        use DivisionLevel::{City, County, Province, Town, Village};
        let counts = [Province, City, County, Town, Village].map(count);
        assert_eq!(counts, [1, 1, 8, 136, 2005]);
        assert_eq!(table.iter().count(), 2151 + 3);
    }

    #[test]
    fn codes_retired_in_2020_name_their_successors() {
        let table = DivisionTable::builtin();
        for (old, new) in [
            ("320602", "320613"),
            ("320611", "320613"),
            ("320684", "320614"),
        ] {
            let old = old.parse().expect("a code");
            assert!(matches!(
                table.standing(&old, date(2020, 7, 2)),
                DivisionStanding::Valid(_)
            ));
            let DivisionStanding::Retired {
                on,
                successor: Some(next),
            } = table.standing(&old, date(2020, 7, 3))
            else {
                panic!("{old} is not retired");
            };
            assert_eq!((on, next.code.as_str()), (date(2020, 7, 3), new));
            let before = table.standing(&next.code, date(2020, 7, 2));
            assert_eq!(
                before,
                DivisionStanding::NotYet {
                    from: date(2020, 7, 3)
                }
            );
        }
    }

    #[test]
    fn violations_say_what_to_use() {
        let table = DivisionTable::builtin();
        let check = |text: &str| {
            let mut v = Violations::new();
            let code = check_division(&mut v, "division", &table, text, date(2024, 2, 18));
            (
                code.is_some(),
                v.into_iter().next().map(|v| (v.reason, v.en)),
            )
        };
        assert_eq!(check("320681"), (true, None));
        let reason = |text: &str| check(text).1.map(|(reason, _)| reason);
        assert_eq!(reason(""), Some(FieldReason::Required));
        assert_eq!(reason("32068"), Some(FieldReason::BadFormat));
        assert_eq!(reason("320699"), Some(FieldReason::UnknownDivision));
        let retired = "320684 was abolished on 2020-07-03: use 320614 (海门区)".to_owned();
        assert_eq!(
            check("320684"),
            (false, Some((FieldReason::RetiredDivision, retired)))
        );
    }

    #[test]
    fn wrong_tables_are_refused_by_line() {
        for (rows, expected) in [
            (
                "3206,南通市,city,320000,,,\n",
                "line 3, column code: \"3206\" is wrong",
            ),
            (
                "320600,,city,320000,,,\n",
                "line 3, column name: must not be empty",
            ),
            (
                "320600,南通市,county,320000,,,\n",
                "line 3, column level: must be city",
            ),
            (
                "320600,南通市,city,,,,\n",
                "line 3, column parent_code: only a province",
            ),
            (
                "320600,南通市,city,330000,,,\n",
                "line 3, column parent_code: 330000 is not in",
            ),
            (
                "330600,绍兴市,city,320000,,,\n",
                "line 3, column parent_code: 320000 does not",
            ),
            (
                "320600,南通市,city,320000,2020-13-01,,\n",
                "line 3, column valid_from: \"2020-13-01\"",
            ),
            (
                "320600,南通市,city,320000,2020-01-02,2020-01-02,\n",
                "line 3, column valid_to: must",
            ),
            (
                "320600,南通市,city,320000,,,320000\n",
                "line 3, column successor: needs",
            ),
            (
                "320600,南通市,city,320000,,2020-01-01,320700\n",
                "line 3, column successor: 320700",
            ),
            (
                "320600,甲,city,320000,,,\n320600,乙,city,320000,,,\n",
                "line 4: 320600 already",
            ),
            (
                "320600,甲,city,320000,,2020-01-01,\n320681,乙,county,320600,,,\n",
                "line 4, column valid_to: 320600, its parent, ends on 2020-01-01",
            ),
        ] {
            let error = error(rows);
            assert!(error.starts_with(expected), "{rows}: {error}");
        }
    }

    proptest! {
        #[test]
        fn exactly_the_days_between_the_dates_are_valid(from in 1_i16..28, days in 1_i16..60, on in 0_i16..120) {
            let day = |n: i16| date(2024, 1, 1).saturating_add(jiff::Span::new().days(n));
            let (start, end) = (day(from), day(from + days));
            let text = format!("{HEADER}320000,江苏省,province,,{start},{end},\n");
            let table = DivisionTable::from_csv(&text).expect("a table");
            let code = "320000".parse().expect("a code");
            let valid = matches!(table.standing(&code, day(on)), DivisionStanding::Valid(_));
            prop_assert_eq!(valid, (from..from + days).contains(&on));
        }
    }
}
