//! Parsed values: one that exists is valid.

mod division;
mod divisions;
mod id;
mod identity;
mod log;
mod name;
mod peer;
mod personal;
mod refusal;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod violation;

pub use division::{DivisionCode, DivisionCodeError, DivisionLevel};
pub use divisions::{Division, DivisionStanding, DivisionTable, check_division};
pub use id::{
    AdminId, AgencyId, IdError, ItemNumber, NodeId, RegisterId, RequestId, TrustDomain, Words,
};
pub use identity::{Identity, IdentityError, Incarnation, Origin, OriginError, Role};
pub use log::{LogIndex, LogNo};
pub use name::{Collection, NameError, RecordName};
pub use peer::Peer;
pub use personal::{contains_identity_number, contains_mobile_number};
pub use refusal::{Reason, Refusal};
pub use table::TableError;
pub use text::{
    optional_office_phone, optional_prose, optional_text, required_prose, required_text,
};
pub use time::{
    CLOCK_SKEW, Clock, LedgerTime, LedgerTimeError, ManualClock, SystemClock, beijing_date,
    beijing_midnight, not_in_future, parse_timestamp,
};
pub use violation::{Explain, FieldReason, Scope, Violation, Violations, excerpt};
