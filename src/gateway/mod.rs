//! The edge of a node: TLS, identity, who may call what, and the order of the layers.

pub mod accept;
mod body;
pub mod client;
pub mod connections;
mod cut;
pub mod explain;
pub mod identity;
pub mod inventory;
pub mod keys;
mod line;
pub mod meter;
mod pace;
pub mod pki;
mod sent;
pub mod serve;
pub mod stack;
#[cfg(test)]
mod tests;
pub mod tls;
