//! The engine as a whole: whatever happens, indexes say what the records say, and lists miss nothing.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use jiff::{ToSpan as _, civil::Date};

use proptest::prelude::*;
use prost::Message as _;

use super::super::{AnyRegister, Counted, ListQuery, PERIODIC, Registers, SUMS, counted, list};
use crate::{
    ledger::{
        Ledger, Options,
        keys::{CLOCKS, INDEX, TALLIES},
        rules::{Intent, Proposal},
    },
    proto::{
        hazard::v1::{Hazard, Rectification},
        measure::v1::Measure,
        risk::v1::{Risk, RiskState},
        r#type::v1::Place,
    },
    storage::{KeyRange, MemoryLog, MemoryState},
    types::{DivisionTable, ManualClock, RegisterId, RuleTable},
};

const AGENCIES: [&str; 2] = ["qidong-emergency", "qidong-housing"];
const DIVISIONS: [&str; 4] = ["320681", "320681110", "320681110200", "320623"];

#[derive(Debug, Clone)]
enum Step {
    Risk {
        agency: usize,
        item: u8,
        level: i32,
        state: i32,
        division: usize,
    },
    Measure {
        agency: usize,
        item: u8,
        risk: u8,
    },
    Withdraw {
        agency: usize,
        item: u8,
        cascade: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..2usize, 0..8u8, 1..5i32, 1..5i32, 0..4usize).prop_map(
            |(agency, item, level, state, division)| {
                Step::Risk { agency, item, level, state, division }
            }
        ),
        3 => (0..2usize, 0..8u8, 0..8u8)
            .prop_map(|(agency, item, risk)| Step::Measure { agency, item, risk }),
        1 => (0..2usize, 0..8u8, any::<bool>())
            .prop_map(|(agency, item, cascade)| Step::Withdraw { agency, item, cascade }),
    ];
    proptest::collection::vec(step, 1..80)
}

fn proposal(step: &Step) -> Proposal {
    let name = |agency: usize, register: &str, item: u8| {
        format!("agencies/{}/{register}/N-{item}", AGENCIES[agency])
    };
    let (name, intent) = match step {
        Step::Risk {
            agency,
            item,
            level,
            state,
            division,
        } => {
            let name = name(*agency, "risks", *item);
            let division = DIVISIONS[*division].to_owned();
            let risk = Risk {
                name: name.clone(),
                level: *level,
                state: *state,
                place: Some(Place {
                    division,
                    ..Place::default()
                }),
                ..Risk::default()
            };
            (name, Intent::Submit(risk.encode_to_vec().into()))
        }
        Step::Measure { agency, item, risk } => {
            let own = name(*agency, "measures", *item);
            let risk = name(*agency, "risks", *risk);
            let measure = Measure {
                name: own.clone(),
                risk,
                state: 1,
                ..Measure::default()
            };
            (own, Intent::Submit(measure.encode_to_vec().into()))
        }
        Step::Withdraw {
            agency,
            item,
            cascade,
        } => {
            let intent = Intent::Withdraw {
                reason: "x".to_owned(),
                cascade: *cascade,
            };
            (name(*agency, "risks", *item), intent)
        }
    };
    Proposal {
        name: name.parse().unwrap(),
        intent,
        submitter: "spiffe://nantong.gov.cn/agency/x-y".to_owned(),
        request: None,
        etag: None,
        validate_only: false,
    }
}

async fn ledger(registers: Arc<Registers>) -> Ledger {
    open(registers, &Arc::default(), &Arc::default()).await
}

async fn open(
    registers: Arc<Registers>,
    journal: &Arc<MemoryLog>,
    state: &Arc<MemoryState>,
) -> Ledger {
    let options = Options {
        journal: journal.clone(),
        state: state.clone(),
        rules: registers,
        clock: Arc::new(ManualClock::new("2026-11-23T08:00:00Z".parse().unwrap())),
        trust_domain: "nantong.gov.cn".parse().unwrap(),
        node: "qidong".parse().unwrap(),
        seeds: Arc::new(crate::ledger::seeds::MemorySeeds::new([3; 32])),
        key_is_lost: false,
        incarnation: 1,
        head_file: None,
        progress: None,
    };
    Ledger::open(options).await.unwrap()
}

fn query(filter: &str, order_by: &str, page_size: i32, cursor: Option<Vec<u8>>) -> ListQuery {
    ListQuery {
        collection: "agencies/-/risks".parse().unwrap(),
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        page_size,
        show_withdrawn: false,
        cursor,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// Every page of a list, as names.
fn names(ledger: &Ledger, registers: &Registers, filter: &str, order_by: &str) -> Vec<String> {
    let id: RegisterId = "risks".parse().unwrap();
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let query = query(filter, order_by, 3, cursor);
        let page = list(ledger, registers.get(&id).unwrap(), &query, &|_| true).unwrap();
        names.extend(page.rows.iter().map(|entry| entry.name.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            return names;
        }
    }
}

/// What the records say themselves.
fn due(ledger: &Ledger, wanted: impl Fn(&Risk) -> bool) -> Vec<String> {
    let prefix = KeyRange::prefix(b"hrisks\0");
    let heads = ledger.state().scan(prefix, false).map(|pair| pair.unwrap());
    let records = heads.filter_map(|(_, value)| {
        let head = crate::ledger::head::Head::from_bytes(&value).unwrap();
        let entry = ledger.entry(head.entry).unwrap();
        let risk = Risk::decode(entry.message.record.clone()).unwrap();
        assert_eq!(head.withdrawn, risk.state() == RiskState::Withdrawn);
        (!head.withdrawn && wanted(&risk)).then_some(risk.name)
    });
    records.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn indexes_and_lists_agree_with_the_records(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let tables = (DivisionTable::builtin().into(), RuleTable::builtin().into());
            let registers = Arc::new(Registers::new(tables.0, tables.1));
            let ledger = ledger(registers.clone()).await;
            for group in steps.chunks(5) {
                ledger.submit(group.iter().map(proposal).collect()).await.unwrap();
            }
            // Every index key is one that the standing records make, and none is missing.
            let mut made = BTreeMap::new();
            for (id, register) in registers.iter() {
                let prefix = crate::ledger::keys::heads(id, None);
                for pair in ledger.state().scan(KeyRange::prefix(&prefix), false) {
                    let (key, value) = pair.unwrap();
                    let name = crate::ledger::keys::name_of_head(&key).unwrap();
                    let head = crate::ledger::head::Head::from_bytes(&value).unwrap();
                    let record = ledger.entry(head.entry).unwrap().message.record;
                    for key in register.index_keys(&name, &record) {
                        assert_eq!(super::index::name(id.as_str(), &key), Some(name.clone()));
                        made.insert(key, ());
                    }
                }
            }
            let held = ledger.state().scan(KeyRange::prefix(&[INDEX]), false);
            let held: Vec<_> = held.map(|pair| pair.unwrap().0.to_vec()).collect();
            assert_eq!(held, made.into_keys().collect::<Vec<_>>());
            // A list through an index has what a look at every record has: each once, none missed.
            type Wanted = fn(&Risk) -> bool;
            let under = |risk: &Risk| risk.place.as_ref().unwrap().division.starts_with("320681110");
            let cases: [(&str, &str, Wanted); 6] = [
                ("", "name", |_| true),
                ("level = MAJOR", "", |risk| risk.level == 4),
                ("level >= LARGER", "level desc", |risk| risk.level >= 3),
                ("state = CONTROLLED", "division", |risk| risk.state == 3),
                ("division = \"320681110\"", "", under),
                ("level = LOW OR NOT state = IDENTIFIED", "", |r| r.level == 1 || r.state != 1),
            ];
            for (filter, order_by, wanted) in cases {
                let (mut found, mut due) =
                    (names(&ledger, &registers, filter, order_by), due(&ledger, wanted));
                found.sort();
                due.sort();
                assert_eq!(found, due, "{filter} {order_by}");
            }
            ledger.stop().await;
        });
    }
}

/// A hazard in some revision, or its withdrawal.
#[derive(Debug, Clone)]
struct Found {
    agency: usize,
    item: u8,
    day: i64,
    division: usize,
    level: i32,
    source: i32,
    state: i32,
    funds: Option<i64>,
    again: Option<u8>,
    withdrawn: bool,
}

fn found() -> impl Strategy<Value = Vec<Found>> {
    let one = (
        (0..2usize, 0..6u8, 0..100i64, 0..4usize),
        (1..3i32, 0..12i32, 1..3i32),
        proptest::option::of(0..1_000_000i64),
        proptest::option::weighted(0.2, 0..6u8),
        proptest::bool::weighted(0.1),
    );
    let one = one.prop_map(
        |((agency, item, day, division), kinds, funds, again, withdrawn)| {
            let (level, source, state) = kinds;
            Found {
                agency,
                item,
                day,
                division,
                level,
                source,
                state,
                funds,
                again,
                withdrawn,
            }
        },
    );
    proptest::collection::vec(one, 1..60)
}

fn hazard(found: &Found) -> Proposal {
    let name = |item: u8| format!("agencies/{}/hazards/H-{item}", AGENCIES[found.agency]);
    let record = Hazard {
        name: name(found.item),
        level: found.level,
        source: found.source,
        state: found.state,
        found_time: Some(prost_types::Timestamp {
            seconds: 1_704_000_000 + found.day * 86_400,
            nanos: 0,
        }),
        place: Some(Place {
            division: DIVISIONS[found.division].to_owned(),
            ..Place::default()
        }),
        rectification: found.funds.map(|fen| Rectification {
            funds_fen: Some(fen),
            funds_approximate: fen % 2 == 0,
            deadline: (fen % 3 != 0).then_some(prost_types::Timestamp {
                seconds: 1_704_000_000 + fen,
                nanos: 0,
            }),
            ..Rectification::default()
        }),
        duplicate_of: found.again.map(name).unwrap_or_default(),
        ..Hazard::default()
    };
    let intent = match found.withdrawn {
        true => Intent::Withdraw {
            reason: "x".to_owned(),
            cascade: false,
        },
        false => Intent::Submit(record.encode_to_vec().into()),
    };
    Proposal {
        name: record.name.parse().unwrap(),
        intent,
        submitter: "spiffe://nantong.gov.cn/agency/x-y".to_owned(),
        request: None,
        etag: None,
        validate_only: false,
    }
}

type Figures = BTreeMap<(String, String, [u8; 3], [bool; 2]), (u32, [i64; SUMS])>;

/// What the counters say of some days.
fn by_counters(
    ledger: &Ledger,
    register: &dyn AnyRegister,
    days: &RangeInclusive<Date>,
) -> Figures {
    let mut figures = Figures::new();
    let mut each = |c: Counted| {
        let key = (
            c.agency.to_string(),
            c.division,
            [c.channel, c.level, c.status],
            [c.duplicate, c.approximate],
        );
        let held = figures.entry(key).or_default();
        held.0 += c.count;
        held.1
            .iter_mut()
            .zip(c.sums)
            .for_each(|(sum, more)| *sum += more);
    };
    counted(register, &ledger.state(), days, &mut each).unwrap();
    figures
}

/// What the records say of them.
fn by_recount(ledger: &Ledger, register: &dyn AnyRegister, days: &RangeInclusive<Date>) -> Figures {
    let mut figures = Figures::new();
    for pair in ledger.state().scan(KeyRange::prefix(b"hhazards\0"), false) {
        let (key, value) = pair.unwrap();
        let head = crate::ledger::head::Head::from_bytes(&value).unwrap();
        let name = crate::ledger::keys::name_of_head(&key).unwrap();
        let record = ledger.entry(head.entry).unwrap().message.record;
        let Some(tally) = register.tally(&record, head.created) else {
            continue;
        };
        if head.withdrawn || !days.contains(&tally.day) {
            continue;
        }
        let key = (
            name.agency().to_string(),
            tally.division,
            [tally.channel, tally.level, tally.status],
            [tally.duplicate, tally.approximate],
        );
        let held = figures.entry(key).or_default();
        held.0 += 1;
        held.1
            .iter_mut()
            .zip(tally.sums)
            .for_each(|(sum, more)| *sum += more);
    }
    figures
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn counters_are_what_a_recount_says_also_after_restarts_and_a_rebuild(
        steps in found(), restart in 1..20usize, from in 0..100i64, length in 0..100i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let tables = (DivisionTable::builtin().into(), RuleTable::builtin().into());
            let registers = Arc::new(Registers::new(tables.0, tables.1));
            let id: RegisterId = "hazards".parse().unwrap();
            let register = registers.get(&id).unwrap();
            let first: Date = "2023-12-31".parse().unwrap();
            let day = |n: i64| first.saturating_add(n.days());
            let ranges = [day(from)..=day(from + length), day(-40)..=day(200), day(5)..=day(5)];
            let (journal, state) = (Arc::default(), Arc::default());
            let mut held = open(registers.clone(), &journal, &state).await;
            for (at, group) in steps.chunks(4).enumerate() {
                held.submit(group.iter().map(hazard).collect()).await.unwrap();
                if at % restart == 0 {
                    held.stop().await;
                    held = open(registers.clone(), &journal, &state).await;
                }
                for days in &ranges {
                    assert_eq!(
                        by_counters(&held, register, days),
                        by_recount(&held, register, days)
                    );
                }
            }
            let dump = |ledger: &Ledger| -> Vec<_> {
                let of = |tag| ledger.state().scan(KeyRange::prefix(&[tag]), false);
                of(TALLIES).chain(of(CLOCKS)).map(Result::unwrap).collect()
            };
            let grown = dump(&held);
            // The clocks that stand are those that the records run.
            let mut running = Vec::new();
            for pair in held.state().scan(KeyRange::prefix(b"hhazards\0"), false) {
                let (key, value) = pair.unwrap();
                let head = crate::ledger::head::Head::from_bytes(&value).unwrap();
                let name = crate::ledger::keys::name_of_head(&key).unwrap();
                let record = held.entry(head.entry).unwrap().message.record;
                let clocks = register.running(&record, head.updated).into_iter();
                let clocks = clocks.filter(|_| !head.withdrawn);
                running.extend(clocks.map(|clock| super::clock::key("hazards", clock, &name)));
            }
            running.sort();
            let standing = held.state().scan(KeyRange::prefix(&[CLOCKS]), false);
            let standing: Vec<_> = standing.map(|pair| pair.unwrap().0.to_vec()).collect();
            assert_eq!(standing, running);
            held.stop().await;
            let rebuilt = open(registers.clone(), &journal, &Arc::default()).await;
            assert_eq!(dump(&rebuilt), grown);
            rebuilt.stop().await;
        });
    }
}

#[test]
fn registers_of_events_are_those_that_can_be_silent() {
    let tables = (DivisionTable::builtin().into(), RuleTable::builtin().into());
    let registers = Registers::new(tables.0, tables.1);
    let periodic = registers
        .iter()
        .filter(|(_, r)| r.event().is_some() && r.counts());
    let periodic: Vec<_> = periodic.map(|(id, _)| id.as_str()).collect();
    assert_eq!(periodic, PERIODIC);
    assert!(registers.nil_reports().is_some());
    for (_, register) in registers.iter() {
        assert!(register.sums().len() <= SUMS);
    }
}
