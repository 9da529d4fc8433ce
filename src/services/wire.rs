//! The messages that all registers share, by field number.
//!
//! Every register's proto gives its RPCs the same shapes. A message field and a bytes field look the
//! same on the wire, so these structs read and write any register's messages with the record as
//! bytes: stored bytes go out undecoded, submitted bytes go in as they came. A test compares them
//! with the descriptors of every register.

use bytes::Bytes;
use prost::Message;

use crate::proto::r#type::v1::{
    CompleteList, ListSummary, Outcome, Receipt, RevisionInfo, RowResult,
};

/// `Submit{S}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct SubmitRequest {
    /// The record.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub record: Option<Bytes>,
    /// UUID.
    #[prost(string, tag = "2")]
    pub request_id: String,
    /// Precondition.
    #[prost(string, tag = "3")]
    pub etag: String,
    /// Dry run.
    #[prost(bool, tag = "4")]
    pub validate_only: bool,
}

/// `Submit{S}Response`.
#[derive(Clone, PartialEq, Message)]
pub struct SubmitResponse {
    /// What became of it.
    #[prost(enumeration = "Outcome", tag = "1")]
    pub outcome: i32,
    /// Proof.
    #[prost(message, optional, tag = "2")]
    pub receipt: Option<Receipt>,
    /// The standing revision.
    #[prost(message, optional, tag = "3")]
    pub info: Option<RevisionInfo>,
    /// Resume point.
    #[prost(string, tag = "4")]
    pub position: String,
}

/// `Submit{P}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct SubmitListRequest {
    /// Rows.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub records: Vec<Bytes>,
    /// The collection.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// Dry run.
    #[prost(bool, tag = "4")]
    pub validate_only: bool,
    /// Ends a complete list.
    #[prost(message, optional, tag = "5")]
    pub complete: Option<CompleteList>,
}

/// `Submit{P}Response`.
#[derive(Clone, PartialEq, Message)]
pub struct SubmitListResponse {
    /// Results.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<RowResult>,
    /// Covers the receipts.
    #[prost(string, tag = "2")]
    pub checkpoint: String,
    /// Totals, at the end.
    #[prost(message, optional, tag = "3")]
    pub summary: Option<ListSummary>,
    /// Resume point.
    #[prost(string, tag = "4")]
    pub position: String,
}

/// `{S}Revision`.
#[derive(Clone, PartialEq, Message)]
pub struct Revision {
    /// The record.
    #[prost(bytes = "bytes", tag = "1")]
    pub record: Bytes,
    /// What the ledger says.
    #[prost(message, optional, tag = "2")]
    pub info: Option<RevisionInfo>,
    /// What the rules derive.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub assessment: Option<Vec<u8>>,
}

/// `Get{S}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct GetRequest {
    /// The record.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `Get{S}Response`, and `Watch{P}Response`.
#[derive(Clone, PartialEq, Message)]
pub struct RevisionResponse {
    /// The revision.
    #[prost(message, optional, tag = "1")]
    pub revision: Option<Revision>,
    /// Resume point.
    #[prost(string, tag = "2")]
    pub position: String,
}

/// `List{P}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct ListRequest {
    /// The collection.
    #[prost(string, tag = "1")]
    pub parent: String,
    /// Revisions in a page.
    #[prost(int32, tag = "2")]
    pub page_size: i32,
    /// Where to go on.
    #[prost(string, tag = "3")]
    pub page_token: String,
    /// AIP-160.
    #[prost(string, tag = "4")]
    pub filter: String,
    /// AIP-132.
    #[prost(string, tag = "5")]
    pub order_by: String,
    /// Withdrawn ones too.
    #[prost(bool, tag = "6")]
    pub show_withdrawn: bool,
}

/// `List{P}Response`, and `List{S}RevisionsResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ListResponse {
    /// The page.
    #[prost(message, repeated, tag = "1")]
    pub revisions: Vec<Revision>,
    /// Where to go on.
    #[prost(string, tag = "2")]
    pub next_page_token: String,
    /// Resume point.
    #[prost(string, tag = "3")]
    pub position: String,
}

/// `List{S}RevisionsRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct HistoryRequest {
    /// The record.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Revisions in a page.
    #[prost(int32, tag = "2")]
    pub page_size: i32,
    /// Where to go on.
    #[prost(string, tag = "3")]
    pub page_token: String,
}

/// `Watch{P}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct WatchRequest {
    /// The collection.
    #[prost(string, tag = "1")]
    pub parent: String,
    /// Resume behind this.
    #[prost(string, tag = "2")]
    pub position: String,
    /// Begin with the oldest.
    #[prost(bool, tag = "3")]
    pub from_start: bool,
    /// AIP-160.
    #[prost(string, tag = "4")]
    pub filter: String,
}

/// `Withdraw{S}Request`.
#[derive(Clone, PartialEq, Message)]
pub struct WithdrawRequest {
    /// The record.
    #[prost(string, tag = "1")]
    pub name: String,
    /// UUID.
    #[prost(string, tag = "2")]
    pub request_id: String,
    /// Precondition.
    #[prost(string, tag = "3")]
    pub etag: String,
    /// Dry run.
    #[prost(bool, tag = "4")]
    pub validate_only: bool,
    /// Why.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// Dependents too.
    #[prost(bool, tag = "6")]
    pub cascade: bool,
}

/// `Withdraw{S}Response`.
#[derive(Clone, PartialEq, Message)]
pub struct WithdrawResponse {
    /// What became of it.
    #[prost(enumeration = "Outcome", tag = "1")]
    pub outcome: i32,
    /// Proof.
    #[prost(message, optional, tag = "2")]
    pub receipt: Option<Receipt>,
    /// The standing revision.
    #[prost(message, optional, tag = "3")]
    pub info: Option<RevisionInfo>,
    /// Resume point.
    #[prost(string, tag = "4")]
    pub position: String,
    /// Withdrawn with it.
    #[prost(string, repeated, tag = "5")]
    pub cascaded: Vec<String>,
}
