//! Parsed values: one that exists is valid.
//!
//! Registers and services turn what arrives into these types, collecting every [`Violation`] with
//! its field path; from there on nothing is checked twice. Rules and tables that change are data
//! ([`RuleTable`], [`DivisionTable`], [`AgencyTable`]), loaded with errors that name the line.

mod agencies;
mod division;
mod divisions;
mod grade;
mod id;
mod identity;
mod level;
mod log;
mod money;
mod name;
mod peer;
mod personal;
mod place;
mod policy;
mod reason;
mod refusal;
mod request;
mod rules;
mod sector;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod uscc;
mod violation;

pub use agencies::{Agency, AgencyTable};
pub use division::{DivisionCode, DivisionCodeError, DivisionLevel};
pub use divisions::{Division, DivisionStanding, DivisionTable, check_division};
pub use grade::{AccidentGrade, AccidentLosses, EventType};
pub use id::{AdminId, AgencyId, IdError, ItemNumber, NodeId, RegisterId, TrustDomain, Words};
pub use identity::{Identity, IdentityError, Incarnation, Origin, OriginError, Role};
pub use level::RiskLevel;
pub use log::{LogIndex, LogNo};
pub use money::{Fen, FenError};
pub use name::{Collection, NameError, RecordName};
pub use peer::Peer;
pub use personal::{contains_identity_number, contains_mobile_number};
pub use place::{Coordinates, Datum, Extent};
pub use policy::{Action, Case, Limit, Limits, Policy, PolicyError, Question, Subject, Verdict};
pub use reason::FieldReason;
pub use refusal::{Reason, Refusal};
pub use request::RequestId;
pub use rules::{
    Authority, Clocks, CorrectionWindow, Decisions, Duties, Duty, Edition, Every, Grades, Ordinary,
    RuleError, RuleTable, Threshold, TypePrefix,
};
pub use sector::Sector;
pub use table::TableError;
pub use text::{
    optional_office_phone, optional_prose, optional_text, required_prose, required_text,
};
pub use time::{
    CLOCK_SKEW, Clock, LedgerTime, LedgerTimeError, ManualClock, SystemClock, beijing_date,
    beijing_midnight, beijing_time, not_in_future, parse_date, parse_timestamp,
};
pub use uscc::{Uscc, UsccError, check_uscc};
pub use violation::{Explain, Scope, Violation, Violations, excerpt};
