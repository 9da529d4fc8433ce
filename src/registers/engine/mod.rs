//! What all registers share: judging, indexing, filters, lists.

pub mod clock;
pub mod erased;
pub mod filter;
pub mod index;
pub mod list;
pub mod rules;
pub mod tally;
pub mod value;

#[cfg(test)]
mod tests;
