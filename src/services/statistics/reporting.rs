//! Who has reported: records, a signed nil report, or nothing.

use std::{collections::HashMap, ops::RangeInclusive};

use jiff::{Timestamp, ToSpan as _, civil::Date};

use super::{Statistics, violation};
use crate::{
    ledger::{
        Ledger,
        entry::{StoredEntry, timestamp},
        head::{EntryRef, Head},
    },
    proto::{
        statistics::v1::{self as pb, ReportingState},
        r#type::v1::Receipt,
    },
    registers::{AnyRegister, Counted, MAX_NIL_DAYS, counted, times},
    services::{
        asker::Asker,
        convert::{digest, int},
        status::storage,
    },
    storage::StorageError,
    types::{
        Agency, AgencyId, DivisionCode, Duty, FieldReason, LedgerTime, LogIndex, LogNo, NodeId,
        Reason, Refusal, RegisterId, Violations, beijing_midnight, parse_date,
    },
};

/// Records that are looked at to find out which of an agency was taken first.
const MAX_EXAMINED: usize = 20_000;
/// Revisions that are walked back to a record's first.
const MAX_REVISIONS: usize = 1_000;

/// A question, parsed.
struct Query {
    register: RegisterId,
    date: Date,
    division: Option<DivisionCode>,
    states: Vec<ReportingState>,
}

/// What an agency has in a period.
#[derive(Default)]
struct Found {
    records: u64,
    /// The head of the record that was taken first.
    first: Option<Head>,
    nil: Option<StoredEntry>,
}

impl Statistics {
    pub(super) fn reporting(
        &self,
        asker: &Asker,
        request: &pb::GetReportingRequest,
    ) -> Result<pb::GetReportingResponse, Refusal> {
        let query = query(request)?;
        let register = self.register(&query.register, |register| register.event().is_some())?;
        let at = beijing_midnight(query.date);
        let edition = self.shared.registers.rules().duties(at);
        let duties = edition.rules.duties.iter();
        let mut duties = duties
            .filter(|duty| duty.register == query.register.as_str())
            .peekable();
        if duties.peek().is_none() {
            let (en, zh) = (
                "has nobody who must report it, by the rule table",
                "规则表中没有应报告该登记册的单位",
            );
            return Err(violation("register", FieldReason::UnknownReference, en, zh));
        }
        let (mut reporters, mut missing, mut crossed) = (Vec::new(), 0, false);
        for duty in duties {
            let days = duty.every.period(query.date);
            let expected = self.expected(asker, &query, duty);
            let mut found = self.found(register, &days).map_err(storage)?;
            for agency in expected {
                let found = found.remove(&agency.id).unwrap_or_default();
                let row = self.row(&agency, duty, &days, &found).map_err(storage)?;
                missing += i32::from(row.state() == ReportingState::Missing);
                if query.states.is_empty() || query.states.contains(&row.state()) {
                    crossed |= asker.crosses(&agency.id);
                    reporters.push(row);
                }
            }
        }
        if crossed {
            let recorded = asker.account.crosses(false);
            recorded.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        }
        reporters.sort_by(|a, b| a.agency.cmp(&b.agency));
        Ok(pb::GetReportingResponse {
            reporters,
            rules: edition.label(),
            missing,
        })
    }

    /// Who must report, of those that the caller may read: at a node without children, its own agencies;
    /// at one that has some, or that has no parent, all whom its agency table names.
    fn expected(&self, asker: &Asker, query: &Query, duty: &Duty) -> Vec<Agency> {
        let (rules, access) = (self.shared.access.rules(), &self.shared.access);
        let logs = self.shared.ledger.published().logs.len();
        let leaf = self.child && logs <= 1;
        let nil = self.shared.registers.nil_reports();
        let wanted = |agency: &&Agency| {
            let inside = |asked: &DivisionCode| agency.divisions.iter().all(|d| asked.contains(d));
            duty.kinds.contains(&agency.kind)
                && (!leaf || agency.is_at(access.node()))
                && query.division.as_ref().is_none_or(inside)
                && asker.sees(&query.register, &agency.id)
                && nil.is_some_and(|nil| asker.sees(nil, &agency.id))
        };
        rules.agencies.iter().filter(wanted).cloned().collect()
    }

    /// What every agency has in a period.
    fn found(
        &self,
        register: &dyn AnyRegister,
        days: &RangeInclusive<Date>,
    ) -> Result<HashMap<AgencyId, Found>, StorageError> {
        let ledger = &self.shared.ledger;
        let mut found: HashMap<AgencyId, Found> = HashMap::new();
        let mut count = |counted: Counted| {
            found.entry(counted.agency).or_default().records += u64::from(counted.count);
        };
        counted(register, &ledger.state(), days, &mut count)?;
        let (from, to) = (*days.start(), *days.end());
        let end = beijing_midnight(to.saturating_add(1.day()));
        let names = times(register, ledger.state(), beijing_midnight(from), end);
        for name in names.take(MAX_EXAMINED) {
            let name = name?;
            let Some(head) = ledger.head(&name)?.filter(|head| !head.withdrawn) else {
                continue;
            };
            let held = found.entry(name.agency().clone()).or_default();
            if held.first.is_none_or(|first| head.created < first.created) {
                held.first = Some(head);
            }
        }
        self.nils(register, days, &mut found)?;
        Ok(found)
    }

    /// Nil reports that cover a period, the one that was taken first of each agency.
    fn nils(
        &self,
        register: &dyn AnyRegister,
        days: &RangeInclusive<Date>,
        found: &mut HashMap<AgencyId, Found>,
    ) -> Result<(), StorageError> {
        let (ledger, registers) = (&self.shared.ledger, &self.shared.registers);
        let Some(nils) = registers.nil_reports().and_then(|id| registers.get(id)) else {
            return Ok(());
        };
        let earliest = days.start().saturating_sub(MAX_NIL_DAYS.days());
        let latest = days.start().saturating_add(1.day());
        let (from, to) = (beijing_midnight(earliest), beijing_midnight(latest));
        for name in times(nils, ledger.state(), from, to) {
            let Some(head) = ledger.head(&name?)?.filter(|head| !head.withdrawn) else {
                continue;
            };
            let entry = ledger.entry(head.entry)?;
            let silence = nils.silence(&entry.message.record);
            let covers = silence.is_some_and(|silence| {
                silence.register.as_str() == register.about().id
                    && silence.days.start() <= days.start()
                    && silence.days.end() >= days.end()
            });
            if covers {
                let held = found.entry(entry.name.agency().clone()).or_default();
                if held
                    .nil
                    .as_ref()
                    .is_none_or(|nil| entry.created < nil.created)
                {
                    held.nil = Some(entry);
                }
            }
        }
        Ok(())
    }

    fn row(
        &self,
        agency: &Agency,
        duty: &Duty,
        days: &RangeInclusive<Date>,
        found: &Found,
    ) -> Result<pb::Reporting, StorageError> {
        let ledger = &self.shared.ledger;
        let deadline = duty.deadline(days);
        let state = match (found.records, &found.nil) {
            (1.., Some(_)) => ReportingState::NilContradicted,
            (1.., None) => ReportingState::Reported,
            (0, Some(_)) => ReportingState::Nil,
            (0, None) if self.shared.clock.now() < deadline => ReportingState::Due,
            (0, None) => ReportingState::Missing,
        };
        // Whichever came first: a nil report, or a record, by its first revision.
        let record = found
            .first
            .map(|head| first_entry(ledger, head))
            .transpose()?;
        let record = record.filter(|_| found.records > 0);
        let nil = found
            .nil
            .as_ref()
            .map(|nil| first_entry(ledger, nil.head()));
        let told = [record, nil.transpose()?].into_iter().flatten();
        let told = told.min_by_key(|entry| entry.time);
        let held = told
            .as_ref()
            .map(|entry| self.held(entry.at))
            .transpose()?
            .flatten();
        let late = told
            .as_ref()
            .is_some_and(|entry| entry.time.timestamp() > deadline);
        let stamp = |at: Timestamp| timestamp(LedgerTime::from(at));
        Ok(pb::Reporting {
            agency: agency.id.to_string(),
            agency_name: agency.name.clone(),
            node: agency
                .nodes
                .first()
                .map(NodeId::to_string)
                .unwrap_or_default(),
            from_date: days.start().to_string(),
            to_date: days.end().to_string(),
            state: state.into(),
            records: int(found.records),
            nil_report: found
                .nil
                .as_ref()
                .map(|nil| nil.name.to_string())
                .unwrap_or_default(),
            receipt: found.nil.as_ref().and_then(|nil| self.receipt(nil)),
            reported_time: told.as_ref().map(|entry| timestamp(entry.time)),
            held_time: held.map(stamp),
            deadline: Some(stamp(deadline)),
            late,
            held_late: !late && held.is_some_and(|held| held > deadline),
        })
    }

    fn receipt(&self, entry: &StoredEntry) -> Option<Receipt> {
        let published = self.shared.ledger.published();
        Some(Receipt {
            log: published.logs.get(&entry.at.log)?.origin().to_owned(),
            index: int(entry.at.index.0),
            leaf_hash: Some(digest(&entry.leaf_hash())),
            time: Some(timestamp(entry.time)),
            checkpoint: String::new(),
        })
    }

    /// When this node first signed that it holds an entry of another log.
    fn held(&self, at: EntryRef) -> Result<Option<Timestamp>, StorageError> {
        if at.log == LogNo::OWN {
            return Ok(None);
        }
        let ledger = &self.shared.ledger;
        let published = ledger.published();
        let Some(view) = published.logs.get(&at.log) else {
            return Ok(None);
        };
        let cosigned = ledger.cosigned_here(view, at.index.0)?;
        Ok(cosigned.map(|(time, _, _)| time.timestamp()))
    }
}

/// The first revision of a record; a later one where it has very many.
fn first_entry(ledger: &Ledger, head: Head) -> Result<StoredEntry, StorageError> {
    let mut entry = ledger.entry(head.entry)?;
    for _ in 0..MAX_REVISIONS {
        let Some(previous) = entry.message.previous else {
            break;
        };
        entry = ledger.entry(EntryRef {
            log: head.entry.log,
            index: LogIndex(previous),
        })?;
    }
    Ok(entry)
}

fn query(request: &pb::GetReportingRequest) -> Result<Query, Refusal> {
    let mut v = Violations::new();
    let register: Option<RegisterId> = v.parse("register", &request.register);
    let division: Option<DivisionCode> = v.parse_optional("division", &request.division);
    let date = parse_date(&mut v, "date", &request.date);
    let mut states = Vec::new();
    for (at, number) in request.states.iter().enumerate() {
        match ReportingState::try_from(*number) {
            Ok(state) if state != ReportingState::Unspecified => states.push(state),
            _ => {
                let (en, zh) = ("is no state", "不是报告状态");
                v.field(&format!("states[{at}]"), FieldReason::UnknownEnum, en, zh);
            }
        }
    }
    let query = register.zip(date).map(|(register, date)| Query {
        register,
        date,
        division,
        states,
    });
    v.into_complete(query).map_err(Refusal::from)
}
