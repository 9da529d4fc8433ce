//! hefu (合符): a gRPC data-exchange gateway between government agencies.
//!
//! The folders are the architecture, lowest first: [`types`] and [`storage`] know nothing of gRPC;
//! the ledger orders, hashes and signs; registers give records their rules; replication
//! carries logs to a parent; services speak gRPC; the gateway says who may; a node joins them.

#![forbid(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod ledger;
pub mod metrics;
pub mod node;
pub mod proto;
pub mod registers;
pub mod replication;
pub mod services;
pub mod storage;
pub mod types;
