//! Statistics of the registers, and who has reported.

mod period;
mod reporting;

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};

use jiff::civil::Date;
use tonic::{Request, Response, Status};

use self::period::Periods;
use super::{
    access::Caller,
    asker::Asker,
    convert::int,
    register::Shared,
    status::{status, storage},
};
use crate::{
    proto::statistics::v1::{self as pb, statistics_service_server::StatisticsService},
    registers::{AnyRegister, Counted, Part, counted},
    types::{
        AgencyId, AgencyTable, DivisionCode, DivisionLevel, FieldReason, Reason, Refusal,
        RegisterId, Violations, parse_date,
    },
};

/// What figures may be split by at once.
const MAX_GROUPS: usize = 3;
/// Rows of an answer.
const MAX_ROWS: usize = 10_000;
/// Days of a period.
const MAX_DAYS: i32 = 3_660;

/// The service.
#[derive(Clone)]
pub struct Statistics {
    /// What all services share.
    pub shared: Arc<Shared>,
    /// The node has a parent.
    pub child: bool,
}

/// A question, parsed.
struct Query {
    register: RegisterId,
    division: Option<DivisionCode>,
    days: RangeInclusive<Date>,
    groups: Vec<pb::Dimension>,
    agency: Option<AgencyId>,
}

/// Figures of one group in the period, the one before, and a year before.
#[derive(Clone, Copy, Default)]
struct Row([Sums; 3]);

#[derive(Clone, Copy, Default)]
struct Sums {
    count: u64,
    duplicates: u64,
    sums: [i64; crate::registers::SUMS],
    approximate: [bool; crate::registers::SUMS],
}

impl Sums {
    fn add(&mut self, counted: &Counted) {
        let count = u64::from(counted.count);
        if counted.duplicate {
            self.duplicates += count;
            return;
        }
        self.count += count;
        let marks = self.sums.iter_mut().zip(&mut self.approximate);
        for ((sum, approximate), more) in marks.zip(&counted.sums) {
            *sum = sum.saturating_add(*more);
            *approximate |= counted.approximate && *more != 0;
        }
    }

    fn figures(&self, names: &[&str]) -> pb::Figures {
        let sums = names.iter().zip(self.sums).zip(self.approximate);
        let sum = |((name, value), approximate): ((&&str, i64), bool)| pb::Sum {
            name: (*name).to_owned(),
            value,
            approximate,
        };
        pb::Figures {
            count: int(self.count),
            duplicates: int(self.duplicates),
            sums: sums.map(sum).collect(),
        }
    }
}

impl Statistics {
    fn figures(
        &self,
        asker: &Asker,
        request: &pb::GetStatisticsRequest,
    ) -> Result<pb::GetStatisticsResponse, Refusal> {
        let query = query(request)?;
        let register = self.register(&query.register, |register| register.counts())?;
        let periods = Periods::of(&query.days);
        let rules = self.shared.access.rules();
        let mut scope = Scope::new(asker, &query, &rules.agencies);
        let (mut rows, mut total) = (BTreeMap::<Vec<String>, Row>::new(), Row::default());
        let by_month = query.groups.contains(&pb::Dimension::Month);
        for (at, days) in periods.all().into_iter().enumerate() {
            let mut each = |counted: Counted| {
                let Some(division) = scope.division(&counted) else {
                    return;
                };
                if let Some(sums) = total.0.get_mut(at) {
                    sums.add(&counted);
                }
                if !query.groups.is_empty() && (at == 0 || !by_month) {
                    let group = query.group(register, &counted, &division);
                    if let Some(sums) = rows.entry(group).or_default().0.get_mut(at) {
                        sums.add(&counted);
                    }
                }
            };
            let state = self.shared.ledger.state();
            counted(register, &state, &days, &mut each).map_err(storage)?;
        }
        if scope.crossed {
            let recorded = asker.account.crosses(false);
            recorded.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        }
        if rows.len() > MAX_ROWS {
            let (en, zh) = (
                format!("more than {MAX_ROWS} rows: narrow the question"),
                format!("超过 {MAX_ROWS} 行，请缩小范围"),
            );
            return Err(violation("group_by", FieldReason::TooMany, &en, &zh));
        }
        let names = register.sums();
        let (remark, remark_zh) = remark(register, &total);
        Ok(pb::GetStatisticsResponse {
            rows: rows
                .iter()
                .map(|(group, row)| answer(group, row, names, by_month))
                .collect(),
            total: Some(answer(&[], &total, names, false)),
            before_from_date: periods.before.start().to_string(),
            before_to_date: periods.before.end().to_string(),
            remark,
            remark_zh,
            agencies: i32::try_from(scope.counted).unwrap_or(i32::MAX),
        })
    }

    /// A register that can answer such a question.
    fn register(
        &self,
        id: &RegisterId,
        can: impl Fn(&dyn AnyRegister) -> bool,
    ) -> Result<&dyn AnyRegister, Refusal> {
        let registers = &self.shared.registers;
        let found = registers.get(id).filter(|register| can(*register));
        found.ok_or_else(|| {
            let known = registers.iter().filter(|(_, register)| can(*register));
            let known: Vec<_> = known.map(|(id, _)| id.as_str()).collect();
            let known = known.join(", ");
            let (en, zh) = (
                format!("must be one of {known}"),
                format!("应为 {known} 之一"),
            );
            violation("register", FieldReason::UnknownReference, &en, &zh)
        })
    }
}

/// Channels overlap: whoever reads figures of them is told what was done about it.
fn remark(register: &dyn AnyRegister, total: &Row) -> (String, String) {
    if register.label(Part::Channel, 1).is_empty() {
        return (String::new(), String::new());
    }
    let duplicates = total.0.first().map_or(0, |sums| sums.duplicates);
    (
        format!(
            "channels overlap: {duplicates} records that say they are the same as another one are left out of \
             count and sums; what nobody has marked so may still be counted twice"
        ),
        format!(
            "各渠道有交叉：已注明与其他记录重复的 {duplicates} 条不计入数量与合计；未注明的重复仍可能重复计数"
        ),
    )
}

fn answer(group: &[String], row: &Row, names: &[&str], alone: bool) -> pb::StatisticsRow {
    let [figures, before, year_before] = row.0.map(|sums| Some(sums.figures(names)));
    pb::StatisticsRow {
        group: group.to_vec(),
        figures,
        before: before.filter(|_| !alone),
        year_before: year_before.filter(|_| !alone),
    }
}

fn violation(field: &str, reason: FieldReason, en: &str, zh: &str) -> Refusal {
    let mut v = Violations::new();
    v.field(field, reason, en, zh);
    v.into()
}

fn query(request: &pb::GetStatisticsRequest) -> Result<Query, Refusal> {
    let mut v = Violations::new();
    let register: Option<RegisterId> = v.parse("register", &request.register);
    let division: Option<DivisionCode> = v.parse_optional("division", &request.division);
    if division
        .as_ref()
        .is_some_and(|code| code.level() == DivisionLevel::Village)
    {
        let (en, zh) = ("go down to towns", "统计至乡镇街道一级");
        v.field("division", FieldReason::OutOfRange, en, zh);
    }
    let agency: Option<AgencyId> = v.parse_optional("agency", &request.agency);
    let from = parse_date(&mut v, "from_date", &request.from_date);
    let to = parse_date(&mut v, "to_date", &request.to_date);
    if let (Some(from), Some(to)) = (from, to) {
        if to < from {
            v.field(
                "to_date",
                FieldReason::OutOfOrder,
                "is before from_date",
                "早于 from_date",
            );
        } else if period::days(&(from..=to)) > MAX_DAYS {
            let (en, zh) = (
                format!("at most {MAX_DAYS} days"),
                format!("至多 {MAX_DAYS} 天"),
            );
            v.field("to_date", FieldReason::OutOfRange, en, zh);
        }
    }
    let groups = groups(&mut v, &request.group_by);
    let query = register
        .zip(from.zip(to))
        .map(|(register, (from, to))| Query {
            register,
            division,
            days: from..=to,
            groups,
            agency,
        });
    v.into_complete(query).map_err(Refusal::from)
}

fn groups(v: &mut Violations, group_by: &[i32]) -> Vec<pb::Dimension> {
    let mut groups = Vec::new();
    if group_by.len() > MAX_GROUPS {
        let (en, zh) = (
            format!("at most {MAX_GROUPS}"),
            format!("至多 {MAX_GROUPS} 项"),
        );
        v.field("group_by", FieldReason::TooMany, en, zh);
    }
    for (at, number) in group_by.iter().enumerate().take(MAX_GROUPS) {
        let field = format!("group_by[{at}]");
        match pb::Dimension::try_from(*number) {
            Ok(pb::Dimension::Unspecified) | Err(_) => {
                let (en, zh) = ("is no dimension", "不是统计维度");
                v.field(&field, FieldReason::UnknownEnum, en, zh);
            }
            Ok(known) if groups.contains(&known) => {
                let (en, zh) = ("stands twice", "重复");
                v.field(&field, FieldReason::NotAllowed, en, zh);
            }
            Ok(known) => groups.push(known),
        }
    }
    groups
}

impl Query {
    fn group(&self, register: &dyn AnyRegister, counted: &Counted, division: &str) -> Vec<String> {
        let value = |dimension: &pb::Dimension| match dimension {
            pb::Dimension::Level => register.label(Part::Level, counted.level).to_owned(),
            pb::Dimension::Status => register.label(Part::Status, counted.status).to_owned(),
            pb::Dimension::Channel => register.label(Part::Channel, counted.channel).to_owned(),
            pb::Dimension::Division => below(self.division.as_ref(), division),
            pb::Dimension::Agency => counted.agency.to_string(),
            pb::Dimension::Month => counted.day.strftime("%Y-%m").to_string(),
            pb::Dimension::Unspecified => String::new(),
        };
        self.groups.iter().map(value).collect()
    }
}

/// The division one level below the one that was asked for, in which a code lies.
fn below(asked: Option<&DivisionCode>, code: &str) -> String {
    let digits = match asked.map(DivisionCode::level) {
        Some(DivisionLevel::Province) => 4,
        None | Some(DivisionLevel::City) => 6,
        Some(_) => 9,
    };
    let kept = code.get(..digits).unwrap_or(code);
    if kept.is_empty() {
        return String::new();
    }
    format!("{kept:0<6}")
}

/// Which counters count for a caller and a question; what it finds of an agency it remembers.
struct Scope<'a> {
    caller: &'a Caller,
    query: &'a Query,
    agencies: &'a AgencyTable,
    seen: HashMap<AgencyId, Option<Home>>,
    counted: usize,
    crossed: bool,
}

/// The division that stands for an agency's records without a place, if it lies in what was asked.
type Home = Option<String>;

impl<'a> Scope<'a> {
    fn new(caller: &'a Caller, query: &'a Query, agencies: &'a AgencyTable) -> Self {
        Self {
            caller,
            query,
            agencies,
            seen: HashMap::new(),
            counted: 0,
            crossed: false,
        }
    }

    /// Where it counts; `None` where it does not.
    fn division(&mut self, counted: &Counted) -> Option<String> {
        if !self.seen.contains_key(&counted.agency) {
            let home = self.home(&counted.agency);
            self.counted += usize::from(home.is_some());
            self.crossed |= home.is_some() && self.caller.crosses(&counted.agency);
            self.seen.insert(counted.agency.clone(), home);
        }
        let home = self.seen.get(&counted.agency)?.as_ref()?;
        if counted.division.is_empty() {
            return home.clone();
        }
        let inside = |asked: &DivisionCode| counted.division.starts_with(asked.prefix());
        let inside = self.query.division.as_ref().is_none_or(inside);
        inside.then(|| counted.division.clone())
    }

    fn home(&self, agency: &AgencyId) -> Option<Home> {
        let asked = self.query.agency.as_ref();
        let wanted = asked.is_none_or(|asked| asked == agency);
        if !wanted || !self.caller.sees(&self.query.register, agency) {
            return None;
        }
        let known = self.agencies.get(agency);
        let own = known
            .map(|agency| agency.divisions.as_slice())
            .unwrap_or_default();
        let inside =
            |asked: &DivisionCode| !own.is_empty() && own.iter().all(|d| asked.contains(d));
        let inside = self.query.division.as_ref().is_none_or(inside);
        let first = own.first().map(|code| code.as_str().to_owned());
        Some(inside.then(|| first.unwrap_or_default()))
    }
}

#[tonic::async_trait]
impl StatisticsService for Statistics {
    async fn get_statistics(
        &self,
        request: Request<pb::GetStatisticsRequest>,
    ) -> Result<Response<pb::GetStatisticsResponse>, Status> {
        let asker = Asker::of(&self.shared.access, &request).map_err(status)?;
        let (own, request) = (self.clone(), request.into_inner());
        // Ten years of a city are thousands of counters: not on a thread that others wait for.
        let _one = asker.meter.scan().await;
        let answer = tokio::task::spawn_blocking(move || own.figures(&asker, &request));
        let answer = answer.await.map_err(|_| status(Reason::Internal.into()))?;
        answer.map(Response::new).map_err(status)
    }

    async fn get_reporting(
        &self,
        request: Request<pb::GetReportingRequest>,
    ) -> Result<Response<pb::GetReportingResponse>, Status> {
        let asker = Asker::of(&self.shared.access, &request).map_err(status)?;
        let (own, request) = (self.clone(), request.into_inner());
        let _one = asker.meter.scan().await;
        let answer = tokio::task::spawn_blocking(move || own.reporting(&asker, &request));
        let answer = answer.await.map_err(|_| status(Reason::Internal.into()))?;
        answer.map(Response::new).map_err(status)
    }
}
