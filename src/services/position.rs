//! Positions: where in a node's journal a caller stands. Opaque outside, sealed by the node.

use super::token::Tokens;
use crate::{
    storage::Position,
    types::{Reason, Refusal},
};

const PURPOSE: &[u8] = b"position";

/// Seals and opens positions of one node's journal.
#[derive(Clone)]
pub struct Positions {
    tokens: Tokens,
    origin: String,
}

impl Positions {
    /// Positions in the journal of the node whose own log has this origin.
    #[must_use]
    pub fn new(tokens: Tokens, origin: String) -> Self {
        Self { tokens, origin }
    }

    /// As callers see it.
    #[must_use]
    pub fn seal(&self, position: Position) -> String {
        let binding = [PURPOSE, self.origin.as_bytes()];
        self.tokens.seal(&binding, &position.0.to_be_bytes())
    }

    /// From what a caller sent.
    ///
    /// # Errors
    /// [`Reason::PositionInvalid`].
    pub fn open(&self, text: &str) -> Result<Position, Refusal> {
        let payload = self.tokens.open(&[PURPOSE, self.origin.as_bytes()], text);
        let position = payload
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes);
        position
            .map(Position)
            .ok_or_else(|| Reason::PositionInvalid.into())
    }
}
