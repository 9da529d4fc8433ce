//! Registers: kinds of records and their rules. Each is a proto and one small file here.
//!
//! A register says what is valid, which steps its lifecycle allows, which fields lists may filter
//! by, and what is derived from a record. Everything else, for all registers alike, is the [`engine`].

pub mod engine;
mod hazard;
mod incident;
mod measure;
mod nilreport;
mod parts;
mod risk;

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use jiff::{Timestamp, civil::Date};

use engine::{erased::Erased, value::Field};
pub use engine::{
    filter::Filter,
    list::{DEFAULT_ROWS, HistoryQuery, ListQuery, Page, history, list, times},
    tally::{Counted, SUMS, Tally, counted},
};

use crate::{
    ledger::entry::StoredEntry,
    types::{
        Agency, DivisionTable, LedgerTime, RecordName, Refusal, RegisterId, RuleTable, Violations,
    },
};

pub use nilreport::MAX_DAYS as MAX_NIL_DAYS;

/// The registers of events, by period: whoever has none of them can say so.
pub const PERIODIC: &[&str] = &["hazards", "incidents"];

/// The names of a register.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// The collection in resource names: `risks`.
    pub id: &'static str,
    /// The gRPC service: `hefu.risk.v1.RiskService`.
    pub service: &'static str,
    /// One record, as in method names: `Risk`.
    pub singular: &'static str,
    /// Several: `Risks`.
    pub plural: &'static str,
    /// The record's field in requests, with which violations begin: `risk`.
    pub field: &'static str,
}

/// What a validation may look at beside the record.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Now.
    pub now: Timestamp,
    /// The submitting agency.
    pub agency: &'a Agency,
}

/// How a record hangs on the one that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// It is part of that one, which must be live at every submission and is not withdrawn alone. The field
    /// must be an indexed one.
    Part,
    /// It mentions that one, which must be live when it is first named if it is of the same agency. Of
    /// another agency nothing is asked: the answer would tell what the caller may not read.
    Mention,
    /// It is the same thing as that one, of its own register: as a mention, and a record that others name so
    /// cannot itself be the same as a further one. So no chain leads back to where it began. The field must
    /// be an indexed one.
    Same,
}

/// A field that may name another record.
pub struct Link<M> {
    /// The register of the other record.
    pub register: &'static str,
    /// The field.
    pub field: &'static str,
    /// How it hangs on it.
    pub tie: Tie,
    /// The name in it; empty for none.
    pub get: fn(&M) -> &str,
}

/// A record that a record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The field.
    pub field: &'static str,
    /// How.
    pub tie: Tie,
    /// The name.
    pub name: String,
}

/// What statistics tell records apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// How grave, or of which class.
    Level,
    /// Where it stands.
    Status,
    /// How it came to light.
    Channel,
}

/// What a record says is not there: records of its agency with an event on these days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// The register.
    pub register: RegisterId,
    /// The days in Beijing.
    pub days: RangeInclusive<Date>,
}

/// A register: what one small file says.
pub trait Register: Send + Sync + Sized + 'static {
    /// Its record.
    type Message: prost::Message + Default;

    /// Its names.
    const ABOUT: About;
    /// Which other records its records may name.
    const LINKS: &'static [Link<Self::Message>] = &[];

    /// The indexed field of the time at which what it records happened.
    const EVENT: Option<&'static str> = None;
    /// Whether statistics count its records.
    const COUNTS: bool = false;
    /// What they sum up, with the unit in the name: at most [`SUMS`].
    const SUMS: &'static [&'static str] = &[];

    /// The resource name of a record.
    fn name(message: &Self::Message) -> &str;

    /// Everything about a record that can be judged without the state. All violations, not the
    /// first.
    fn validate(&self, message: &Self::Message, context: &Context<'_>, v: &mut Violations);

    /// Whether the lifecycle allows the step from the standing revision (`None`: a new record, or one
    /// that was withdrawn) to the next.
    ///
    /// # Errors
    /// A refusal that names the allowed steps.
    fn step(&self, before: Option<&Self::Message>, after: &Self::Message) -> Result<(), Refusal>;

    /// Whether an agency of the caller's kind may bring a record into this state, at all.
    ///
    /// # Errors
    /// A refusal that names the states that it may set.
    fn permits(&self, _: &Self::Message, _: &Context<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    /// What a record counts as; it must follow from the record's bytes and its first ledger time alone.
    fn tally(_: &Self::Message, _created: LedgerTime) -> Option<Tally> {
        None
    }

    /// The name of a number that statistics tell records apart by; empty where there is none.
    fn label(_: Part, _number: i32) -> &'static str {
        ""
    }

    /// What a record says is not there.
    fn silence(_: &Self::Message) -> Option<Silence> {
        None
    }

    /// The fields that a withdrawal sets; they are appended to the standing bytes.
    fn withdrawal() -> Self::Message;

    /// The fields that lists can filter by.
    fn fields() -> &'static [Field<Self>];

    /// What is derived from a record, encoded; `None` where nothing is.
    fn assess(&self, _: &Self::Message, _taken: LedgerTime, _now: Timestamp) -> Option<Vec<u8>> {
        None
    }
}

/// A register whose message type does not matter.
pub trait AnyRegister: Send + Sync {
    /// Its names.
    fn about(&self) -> &'static About;

    /// The name in a record's bytes; `None` where they have no valid one of this register.
    fn name(&self, record: &[u8]) -> Option<RecordName>;

    /// As [`Register::validate`] and then [`Register::permits`], from bytes.
    ///
    /// # Errors
    /// [`crate::types::Reason::RequestMalformed`], [`crate::types::Reason::FieldInvalid`],
    /// [`crate::types::Reason::TransitionNotAllowed`].
    fn validate(&self, record: &[u8], context: &Context<'_>) -> Result<RecordName, Refusal>;

    /// As [`Register::step`], from bytes.
    ///
    /// # Errors
    /// As there.
    fn step(&self, before: Option<&[u8]>, after: &[u8]) -> Result<(), Refusal>;

    /// The bytes that a withdrawal appends.
    fn withdrawal(&self) -> Vec<u8>;

    /// As [`Register::assess`], from bytes.
    fn assess(&self, record: &[u8], taken: LedgerTime, now: Timestamp) -> Option<Vec<u8>>;

    /// The records that a record names.
    fn links(&self, record: &[u8]) -> Vec<Linked>;

    /// The index prefixes under which records lie that name `name` with such a tie.
    fn naming(&self, name: &RecordName, tie: Tie) -> Vec<Vec<u8>>;

    /// The index keys of a record.
    fn index_keys(&self, name: &RecordName, record: &[u8]) -> Vec<Vec<u8>>;

    /// The index number of [`Register::EVENT`].
    fn event(&self) -> Option<u8>;

    /// As [`Register::silence`], from bytes.
    fn silence(&self, record: &[u8]) -> Option<Silence>;

    /// As [`Register::COUNTS`].
    fn counts(&self) -> bool;

    /// As [`Register::tally`], from bytes.
    fn tally(&self, record: &[u8], created: LedgerTime) -> Option<Tally>;

    /// As [`Register::SUMS`].
    fn sums(&self) -> &'static [&'static str];

    /// As [`Register::label`].
    fn label(&self, part: Part, number: u8) -> &'static str;

    /// Parses a filter against this register's fields.
    ///
    /// # Errors
    /// [`crate::types::Reason::FilterInvalid`], [`crate::types::Reason::FilterTooComplex`].
    fn filter(&self, text: &str) -> Result<Filter, Refusal>;

    /// Whether a revision matches a filter of this register.
    fn matches(&self, filter: &Filter, entry: &StoredEntry, now: Timestamp) -> bool;

    /// The indexed field of a name, by which lists can be ordered.
    fn index_of(&self, field: &str) -> Option<u8>;

    /// The names of the indexed fields.
    fn indexed(&self) -> Vec<&'static str>;
}

/// The registers of a node, by id.
pub struct Registers {
    all: BTreeMap<RegisterId, Box<dyn AnyRegister>>,
    rules: Arc<RuleTable>,
}

impl Registers {
    /// All registers, over this reference data.
    #[must_use]
    pub fn new(divisions: Arc<DivisionTable>, rules: Arc<RuleTable>) -> Self {
        let all: [Box<dyn AnyRegister>; 5] = [
            Box::new(Erased(risk::Risks {
                divisions: divisions.clone(),
            })),
            Box::new(Erased(measure::Measures)),
            Box::new(Erased(incident::Incidents {
                divisions: divisions.clone(),
                rules: rules.clone(),
            })),
            Box::new(Erased(hazard::Hazards {
                divisions,
                rules: rules.clone(),
            })),
            Box::new(Erased(nilreport::NilReports)),
        ];
        // The ids are constants of this crate; a test parses each.
        let all = all.into_iter();
        Self {
            all: all
                .filter_map(|r| Some((r.about().id.parse().ok()?, r)))
                .collect(),
            rules,
        }
    }

    /// The dated rules that they apply.
    #[must_use]
    pub fn rules(&self) -> &RuleTable {
        &self.rules
    }

    /// The register of nil reports.
    #[must_use]
    pub fn nil_reports(&self) -> Option<&RegisterId> {
        let id = <nilreport::NilReports as Register>::ABOUT.id;
        self.all.keys().find(|known| known.as_str() == id)
    }

    /// A register; `None` for one that this program does not know.
    #[must_use]
    pub fn get(&self, id: &RegisterId) -> Option<&dyn AnyRegister> {
        self.all.get(id).map(AsRef::as_ref)
    }

    /// All registers.
    pub fn iter(&self) -> impl Iterator<Item = (&RegisterId, &dyn AnyRegister)> {
        self.all
            .iter()
            .map(|(id, register)| (id, register.as_ref()))
    }
}
