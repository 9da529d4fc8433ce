//! The edge of a node: TLS, identity, who may call what, and the order of the layers.

pub mod client;
pub mod identity;
pub mod pki;
pub mod policy;
pub mod serve;
mod stack;
pub mod tls;
