//! AIP-160 filters, typed against a register's fields when they are parsed.

use aip_160::{
    Arg, Comparable, Comparator, Expression, Filter as Syntax, parse_filter_with_max_depth,
};
use jiff::Timestamp;

use super::value::{Kind, Value};
use crate::{
    ledger::entry::StoredEntry,
    types::{DivisionCode, Reason, Refusal},
};

/// Longest filter, in bytes.
pub const MAX_BYTES: usize = 2_048;
/// Most comparisons in a filter.
pub const MAX_TERMS: usize = 64;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 16;

/// The fields that every register has, beside its own.
const COMMON: [(&str, Common); 4] = [
    ("name", Common::Name),
    ("agency", Common::Agency),
    ("create_time", Common::CreateTime),
    ("update_time", Common::UpdateTime),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Common {
    Name,
    Agency,
    CreateTime,
    UpdateTime,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Own { at: usize, index: Option<u8> },
    Common(Common),
}

/// A parsed filter; an empty one matches everything.
#[derive(Debug, Clone, Default)]
pub struct Filter(Option<Node>, usize);

#[derive(Debug, Clone)]
enum Node {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Condition(Condition),
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Condition {
    target: Target,
    comparator: Comparator,
    operand: Value<'static>,
}

/// A comparison that an index serves.
#[derive(Debug, Clone)]
pub struct Served {
    /// The index's field number.
    pub index: u8,
    /// The comparison: `=`, or an order.
    pub comparator: Comparator,
    /// What is compared with.
    pub operand: Value<'static>,
}

impl Filter {
    /// Parses a filter over these fields: name, kind, and index number of each.
    ///
    /// # Errors
    /// [`Reason::FilterTooComplex`] past the limits; [`Reason::FilterInvalid`] with what is allowed.
    pub fn parse(text: &str, fields: &[(&'static str, Kind, Option<u8>)]) -> Result<Self, Refusal> {
        if text.len() > MAX_BYTES {
            let en = format!("{} bytes, at most {MAX_BYTES}", text.len());
            let zh = format!("{} 字节，至多 {MAX_BYTES}", text.len());
            return Err(Refusal::new(Reason::FilterTooComplex).because(en, zh));
        }
        let syntax: Syntax = parse_filter_with_max_depth(text, MAX_DEPTH)
            .map_err(|e| Refusal::new(Reason::FilterInvalid).because(&e, &e))?;
        let Some(expression) = syntax.expression else {
            return Ok(Self::default());
        };
        let mut terms = 0;
        let node = compile(&expression, fields, &mut terms)?;
        Ok(Self(Some(node), terms))
    }

    /// How many comparisons it has.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.1
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Evaluates it, given what decides one comparison.
    #[must_use]
    pub fn evaluate(&self, holds: &dyn Fn(&Condition) -> bool) -> bool {
        self.0.as_ref().is_none_or(|node| node.evaluate(holds))
    }

    /// The comparisons that every match must meet and that an index serves, best first.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        let conjuncts = match &self.0 {
            None => Vec::new(),
            Some(Node::And(nodes)) => nodes.iter().collect(),
            Some(node) => vec![node],
        };
        let served = conjuncts.into_iter().filter_map(|node| match node {
            Node::Condition(condition) => condition.served(),
            _ => None,
        });
        let mut served: Vec<_> = served.collect();
        served.sort_by_key(|served| match (&served.operand, served.comparator) {
            (Value::Text(_), _) => 0,
            (Value::Division(_), _) => 1,
            (_, Comparator::Equal) => 2,
            _ => 3,
        });
        served
    }
}

impl Node {
    fn evaluate(&self, holds: &dyn Fn(&Condition) -> bool) -> bool {
        match self {
            Self::And(nodes) => nodes.iter().all(|node| node.evaluate(holds)),
            Self::Or(nodes) => nodes.iter().any(|node| node.evaluate(holds)),
            Self::Not(node) => !node.evaluate(holds),
            Self::Condition(condition) => holds(condition),
        }
    }
}

impl Condition {
    /// The place of the register's own field that it compares; `None` for a common field.
    #[must_use]
    pub fn own_field(&self) -> Option<usize> {
        match self.target {
            Target::Own { at, .. } => Some(at),
            Target::Common(_) => None,
        }
    }

    /// Whether it holds for a value. Nothing holds for an absent one but `!=`.
    #[must_use]
    pub fn holds(&self, value: &Value<'_>) -> bool {
        use std::cmp::Ordering;
        let (order, within) = match (value, &self.operand) {
            (Value::Text(a), Value::Text(b)) => (Some(a.cmp(b)), a.contains(b.as_ref())),
            (Value::Number(a), Value::Number(b)) => (Some(a.cmp(b)), false),
            (Value::Time(a), Value::Time(b)) => (Some(a.cmp(b)), false),
            (Value::Bool(a), Value::Bool(b)) => (Some(a.cmp(b)), false),
            (Value::Division(a), Value::Division(b)) => {
                (b.contains(a).then_some(Ordering::Equal), false)
            }
            _ => (None, false),
        };
        match self.comparator {
            Comparator::Equal => order == Some(Ordering::Equal),
            Comparator::NotEqual => order != Some(Ordering::Equal),
            Comparator::LessThan => order == Some(Ordering::Less),
            Comparator::LessThanOrEqual => order.is_some_and(Ordering::is_le),
            Comparator::GreaterThan => order == Some(Ordering::Greater),
            Comparator::GreaterThanOrEqual => order.is_some_and(Ordering::is_ge),
            Comparator::Has => within,
        }
    }

    /// Whether it holds for a common field of an entry.
    #[must_use]
    pub fn holds_common(&self, entry: &StoredEntry) -> bool {
        let Target::Common(common) = self.target else {
            return false;
        };
        let name = entry.name.to_string();
        let value = match common {
            Common::Name => Value::Text(name.into()),
            Common::Agency => Value::Text(entry.name.agency().as_str().into()),
            Common::CreateTime => Value::Time(entry.created.timestamp()),
            Common::UpdateTime => Value::Time(entry.time.timestamp()),
        };
        self.holds(&value)
    }

    fn served(&self) -> Option<Served> {
        let Target::Own {
            index: Some(index), ..
        } = self.target
        else {
            return None;
        };
        let ordered = matches!(self.operand, Value::Number(_) | Value::Time(_));
        let serves = match self.comparator {
            Comparator::Equal => true,
            Comparator::NotEqual | Comparator::Has => false,
            _ => ordered,
        };
        serves.then(|| Served {
            index,
            comparator: self.comparator,
            operand: self.operand.clone(),
        })
    }
}

type Fields<'a> = &'a [(&'static str, Kind, Option<u8>)];

fn compile(
    expression: &Expression,
    fields: Fields<'_>,
    terms: &mut usize,
) -> Result<Node, Refusal> {
    let mut all = |nodes: &[Expression]| -> Result<Vec<Node>, Refusal> {
        nodes
            .iter()
            .map(|node| compile(node, fields, terms))
            .collect()
    };
    match expression {
        Expression::And(nodes) | Expression::Sequence(nodes) => Ok(Node::And(all(nodes)?)),
        Expression::Or(nodes) => Ok(Node::Or(all(nodes)?)),
        Expression::Not(node) => Ok(Node::Not(Box::new(compile(node, fields, terms)?))),
        Expression::Restriction(restriction) => {
            *terms += 1;
            if *terms > MAX_TERMS {
                let (en, zh) = (
                    format!("at most {MAX_TERMS} terms"),
                    format!("至多 {MAX_TERMS} 项"),
                );
                return Err(Refusal::new(Reason::FilterTooComplex).because(en, zh));
            }
            condition(
                &restriction.comparable,
                restriction.comparator,
                &restriction.arg,
                fields,
            )
            .map(Node::Condition)
        }
        _ => Err(invalid(
            "a word alone searches nothing: write field = value",
            "须写成 字段 = 值",
        )),
    }
}

fn condition(
    comparable: &Comparable,
    comparator: Comparator,
    arg: &Arg,
    fields: Fields<'_>,
) -> Result<Condition, Refusal> {
    let path = comparable.field_path();
    let path = path.ok_or_else(|| invalid("the left side must be a field", "左边应为字段"))?;
    let own = fields.iter().position(|(name, ..)| *name == path);
    let own = own.and_then(|at| fields.get(at).map(|(_, kind, index)| (at, *kind, *index)));
    let common = COMMON
        .iter()
        .find(|(name, _)| *name == path)
        .map(|(_, common)| *common);
    let (target, kind) = match (own, common) {
        (Some((at, kind, index)), _) => (Target::Own { at, index }, kind),
        (None, Some(common @ (Common::Name | Common::Agency))) => {
            (Target::Common(common), Kind::Text)
        }
        (None, Some(common)) => (Target::Common(common), Kind::Time),
        (None, None) => return Err(unknown_field(fields)),
    };
    let value = arg.as_value();
    let value = value.ok_or_else(|| invalid("the right side must be a value", "右边应为值"))?;
    let operand = operand(kind, value.as_str(), &path)?;
    let allowed = match kind {
        Kind::Text => true,
        Kind::Enum(_) | Kind::Time => comparator != Comparator::Has,
        Kind::Bool | Kind::Division => {
            matches!(comparator, Comparator::Equal | Comparator::NotEqual)
        }
    };
    if !allowed {
        let en = format!("{path} cannot be compared like that");
        let zh = format!("{path} 不能这样比较");
        return Err(invalid(&en, &zh));
    }
    Ok(Condition {
        target,
        comparator,
        operand,
    })
}

fn operand(kind: Kind, text: &str, path: &str) -> Result<Value<'static>, Refusal> {
    let bad = |en: &str, zh: &str| invalid(&format!("{path} {en}"), &format!("{path} {zh}"));
    match kind {
        Kind::Text => Ok(Value::Text(text.to_owned().into())),
        Kind::Enum(value) => match value(text) {
            Some(number) if number != 0 => Ok(Value::Number(number.into())),
            _ => Err(bad(
                "takes a value of its enum, such as in the proto",
                "应为其枚举值之一",
            )),
        },
        Kind::Time => text
            .parse::<Timestamp>()
            .map(Value::Time)
            .map_err(|_| bad("takes a quoted RFC 3339 time", "应为带引号的 RFC 3339 时间")),
        Kind::Bool => text
            .parse()
            .map(Value::Bool)
            .map_err(|_| bad("takes true or false", "应为 true 或 false")),
        Kind::Division => text
            .parse::<DivisionCode>()
            .map(Value::Division)
            .map_err(|_| {
                bad(
                    "takes a code of 6, 9 or 12 digits",
                    "应为 6、9 或 12 位区划代码",
                )
            }),
    }
}

fn unknown_field(fields: Fields<'_>) -> Refusal {
    let own = fields.iter().map(|(name, ..)| *name);
    let mut names: Vec<_> = own.chain(COMMON.iter().map(|(name, _)| *name)).collect();
    names.sort_unstable();
    let names = names.join(", ");
    invalid(
        &format!("no such field; the fields are {names}"),
        &format!("没有该字段；字段有 {names}"),
    )
    .with("fields", names)
}

fn invalid(en: &str, zh: &str) -> Refusal {
    Refusal::new(Reason::FilterInvalid).because(en, zh)
}
