//! Lists and histories, a page at a time; every page is bounded in rows, bytes, and records looked at.

use aip_160::Comparator;
use jiff::Timestamp;

use super::{
    super::{AnyRegister, Filter},
    filter::Served,
    index,
    value::Value,
};
use crate::{
    ledger::{
        Ledger,
        entry::StoredEntry,
        head::{EntryRef, Head},
        keys,
    },
    storage::{KeyRange, StateStore, StorageError},
    types::{AgencyId, Collection, FieldReason, LogIndex, Reason, RecordName, Refusal, Violations},
};

/// Rows of a page where none are asked for.
pub const DEFAULT_ROWS: i32 = 50;
/// Rows of a page at most.
const MAX_ROWS: usize = 1_000;
/// Entry bytes at which a page ends.
const MAX_BYTES: usize = 1024 * 1024;
/// Records that one page looks at. Past it, the page ends with what it has.
const MAX_EXAMINED: usize = 20_000;

/// What to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Whose records.
    pub collection: Collection,
    /// AIP-160; empty matches all.
    pub filter: String,
    /// AIP-132; empty takes the cheapest order.
    pub order_by: String,
    /// Rows asked for.
    pub page_size: i32,
    /// Withdrawn records too.
    pub show_withdrawn: bool,
    /// Where the page before ended.
    pub cursor: Option<Vec<u8>>,
    /// Now, for what depends on it.
    pub now: Timestamp,
}

/// Whose history.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// The record.
    pub name: RecordName,
    /// Rows asked for.
    pub page_size: i32,
    /// Where the page before ended.
    pub cursor: Option<Vec<u8>>,
}

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// The revisions.
    pub rows: Vec<StoredEntry>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// Records looked at, those that do not match among them.
    pub examined: usize,
}

/// A walk over keys: which range, which way, and whether they are index keys.
struct Plan {
    range: KeyRange,
    reverse: bool,
    index: bool,
}

/// One page of a list. Records of agencies that are not `visible` are not there.
///
/// # Errors
/// [`Reason::FilterInvalid`], [`Reason::FilterTooComplex`], [`Reason::OrderInvalid`],
/// [`Reason::FieldInvalid`] for the page size; [`Reason::DataDamaged`] and its like for storage.
pub fn list(
    ledger: &Ledger,
    register: &dyn AnyRegister,
    query: &ListQuery,
    visible: &dyn Fn(&AgencyId) -> bool,
) -> Result<Page, Refusal> {
    let rows = rows(query.page_size)?;
    let filter = register.filter(&query.filter)?;
    let mut plan = plan(register, query, &filter)?;
    if let Some(cursor) = &query.cursor {
        resume(&mut plan, cursor);
    }
    let (mut page, mut bytes) = (Page::default(), 0);
    for pair in ledger.state().scan(plan.range, plan.reverse) {
        let (key, value) = pair.map_err(refuse)?;
        page.examined += 1;
        let found = match plan.index {
            true => index::name(register.about().id, &key)
                .map(|name| Ok((ledger.head(&name)?, name)))
                .transpose()
                .map_err(refuse)?
                .and_then(|(head, name)| Some((name, head?))),
            false => keys::name_of_head(&key).zip(Head::from_bytes(&value)),
        };
        if let Some((name, head)) = found
            && query.collection.contains(&name)
            && visible(name.agency())
            && (query.show_withdrawn || !head.withdrawn)
        {
            let entry = ledger.entry(head.entry).map_err(refuse)?;
            if register.matches(&filter, &entry, query.now) {
                bytes += entry.bytes.len();
                page.rows.push(entry);
            }
        }
        if page.rows.len() >= rows || bytes >= MAX_BYTES || page.examined >= MAX_EXAMINED {
            page.next = Some(key.to_vec());
            break;
        }
    }
    Ok(page)
}

fn plan(register: &dyn AnyRegister, query: &ListQuery, filter: &Filter) -> Result<Plan, Refusal> {
    let heads = KeyRange::prefix(&keys::heads(
        query.collection.register(),
        query.collection.agency(),
    ));
    let id = register.about().id;
    let mut words = query.order_by.split_whitespace();
    let (field, direction) = (words.next(), words.next());
    let reverse = match direction {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(order_invalid(register)),
    };
    if words.next().is_some() {
        return Err(order_invalid(register));
    }
    let served = filter.served();
    let exact = |served: &&Served| {
        served.comparator == Comparator::Equal && !matches!(served.operand, Value::Division(_))
    };
    match field {
        // One agency's records are few beside all of them: only an exact match beats its own range.
        None | Some("name") => {
            let by_name = field.is_some() || query.collection.agency().is_some();
            let best = if by_name {
                served.iter().find(exact)
            } else {
                served.first()
            };
            let index = best.is_some();
            Ok(Plan {
                range: best.map_or(heads, |best| range(id, best)),
                reverse,
                index,
            })
        }
        Some(field) => {
            let number = register
                .index_of(field)
                .ok_or_else(|| order_invalid(register))?;
            let same = served.iter().find(|served| served.index == number);
            let all = KeyRange::prefix(&index::field(id, number));
            Ok(Plan {
                range: same.map_or(all, |same| range(id, same)),
                reverse,
                index: true,
            })
        }
    }
}

/// The index keys that a comparison selects.
fn range(id: &str, served: &Served) -> KeyRange {
    let all = KeyRange::prefix(&index::field(id, served.index));
    let exact = match &served.operand {
        Value::Division(code) => index::under(id, served.index, code.prefix()),
        operand => index::exact(id, served.index, operand),
    };
    let exact = KeyRange::prefix(&exact);
    match served.comparator {
        Comparator::LessThan => KeyRange {
            start: all.start,
            end: Some(exact.start),
        },
        Comparator::LessThanOrEqual => KeyRange {
            start: all.start,
            end: exact.end,
        },
        Comparator::GreaterThan => KeyRange {
            start: exact.end.unwrap_or(exact.start),
            end: all.end,
        },
        Comparator::GreaterThanOrEqual => KeyRange {
            start: exact.start,
            end: all.end,
        },
        _ => exact,
    }
}

/// Goes on behind the last key of the page before.
fn resume(plan: &mut Plan, cursor: &[u8]) {
    let inside = cursor >= plan.range.start.as_slice()
        && plan
            .range
            .end
            .as_ref()
            .is_none_or(|end| cursor < end.as_slice());
    if !inside {
        return;
    }
    if plan.reverse {
        plan.range.end = Some(cursor.to_vec());
    } else {
        plan.range.start = [cursor, &[0]].concat();
    }
}

/// The records of a register whose event lies from `from` on and before `to`, withdrawn ones included.
pub fn times<'a>(
    register: &'a dyn AnyRegister,
    state: &'a dyn StateStore,
    from: Timestamp,
    to: Timestamp,
) -> impl Iterator<Item = Result<RecordName, StorageError>> + 'a {
    let id = register.about().id;
    let field = register.event();
    let pairs = field.into_iter().flat_map(move |number| {
        let key = |at| index::exact(id, number, &Value::Time(at));
        let range = KeyRange {
            start: key(from),
            end: Some(key(to)),
        };
        state.scan(range, false)
    });
    pairs.filter_map(move |pair| pair.map(|(key, _)| index::name(id, &key)).transpose())
}

fn order_invalid(register: &dyn AnyRegister) -> Refusal {
    let mut fields = vec!["name"];
    fields.extend(register.indexed());
    let fields = fields.join(", ");
    Refusal::new(Reason::OrderInvalid)
        .because(
            format!("order by one of {fields}, with desc for the reverse"),
            format!("可按 {fields} 之一排序，加 desc 为倒序"),
        )
        .with("fields", fields)
}

/// A record's revisions, newest first, by their back-pointers.
///
/// # Errors
/// [`Reason::RecordNotFound`]; as [`list`] for the rest.
pub fn history(ledger: &Ledger, query: &HistoryQuery) -> Result<Page, Refusal> {
    let rows = rows(query.page_size)?;
    let head = ledger.head(&query.name).map_err(refuse)?;
    let head = head.ok_or_else(|| Refusal::new(Reason::RecordNotFound))?;
    let cursor = query
        .cursor
        .as_deref()
        .and_then(|bytes| bytes.try_into().ok());
    let mut next = Some(cursor.map_or(head.entry.index.0, u64::from_be_bytes));
    let (mut page, mut bytes) = (Page::default(), 0);
    while let Some(index) = next {
        if page.rows.len() >= rows || bytes >= MAX_BYTES {
            page.next = Some(index.to_be_bytes().to_vec());
            break;
        }
        let at = EntryRef {
            log: head.entry.log,
            index: LogIndex(index),
        };
        let entry = ledger.entry(at).map_err(refuse)?;
        bytes += entry.bytes.len();
        next = entry.message.previous;
        page.rows.push(entry);
    }
    Ok(page)
}

fn rows(page_size: i32) -> Result<usize, Refusal> {
    let asked = if page_size == 0 {
        DEFAULT_ROWS
    } else {
        page_size
    };
    match usize::try_from(asked) {
        Ok(rows) => Ok(rows.min(MAX_ROWS)),
        Err(_) => {
            let mut v = Violations::new();
            let (en, zh) = ("it must be 0 or more", "不得为负数");
            v.field("page_size", FieldReason::OutOfRange, en, zh);
            Err(v.into())
        }
    }
}

fn refuse(error: StorageError) -> Refusal {
    tracing::error!(%error, "reading a list");
    match error {
        StorageError::Corrupt { .. } => Reason::DataDamaged.into(),
        StorageError::Full { .. } | StorageError::Failed { .. } | StorageError::Poisoned => {
            Reason::StorageFailed.into()
        }
    }
}
