//! Registers: kinds of records and their rules. Each is a proto and one small file here.
//!
//! A register says what is valid, which steps its lifecycle allows, which fields lists may filter
//! by, and what is derived from a record. Everything else, for all registers alike, is the [`engine`].

pub mod engine;
mod incident;
mod measure;
mod parts;
mod risk;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use engine::{erased::Erased, value::Field};
pub use engine::{
    filter::Filter,
    list::{HistoryQuery, ListQuery, Page, history, list},
};

use crate::{
    ledger::entry::StoredEntry,
    types::{
        Agency, DivisionTable, LedgerTime, RecordName, Refusal, RegisterId, RuleTable, Violations,
    },
};

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

/// A field that names a record of another register, which must be live and of the same agency.
pub struct Link<M> {
    /// The other register.
    pub register: &'static str,
    /// The field; it must be an indexed one.
    pub field: &'static str,
    /// The name in it.
    pub get: fn(&M) -> &str,
}

/// A register: what one small file says.
pub trait Register: Send + Sync + Sized + 'static {
    /// Its record.
    type Message: prost::Message + Default;

    /// Its names.
    const ABOUT: About;
    /// What its records depend on.
    const LINK: Option<Link<Self::Message>> = None;

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

    /// As [`Register::validate`], from bytes.
    ///
    /// # Errors
    /// [`crate::types::Reason::RequestMalformed`], [`crate::types::Reason::FieldInvalid`].
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

    /// The register that this one's records depend on, and the name of the record in question.
    fn link(&self, record: &[u8]) -> Option<(RegisterId, String)>;

    /// The index prefix under which records that depend on `name` lie; `None` if none can.
    fn dependents(&self, name: &RecordName) -> Option<Vec<u8>>;

    /// The index keys of a record.
    fn index_keys(&self, name: &RecordName, record: &[u8]) -> Vec<Vec<u8>>;

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
pub struct Registers(BTreeMap<RegisterId, Box<dyn AnyRegister>>);

impl Registers {
    /// All registers, over this reference data.
    #[must_use]
    pub fn new(divisions: Arc<DivisionTable>, rules: Arc<RuleTable>) -> Self {
        let all: [Box<dyn AnyRegister>; 3] = [
            Box::new(Erased(risk::Risks {
                divisions: divisions.clone(),
            })),
            Box::new(Erased(measure::Measures)),
            Box::new(Erased(incident::Incidents { divisions, rules })),
        ];
        // The ids are constants of this crate; a test parses each.
        Self(
            all.into_iter()
                .filter_map(|r| Some((r.about().id.parse().ok()?, r)))
                .collect(),
        )
    }

    /// A register; `None` for one that this program does not know.
    #[must_use]
    pub fn get(&self, id: &RegisterId) -> Option<&dyn AnyRegister> {
        self.0.get(id).map(AsRef::as_ref)
    }

    /// All registers.
    pub fn iter(&self) -> impl Iterator<Item = (&RegisterId, &dyn AnyRegister)> {
        self.0.iter().map(|(id, register)| (id, register.as_ref()))
    }
}
