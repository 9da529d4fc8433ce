//! Opaque tokens: page tokens and positions, signed by the node and bound to what they are for.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use crate::types::sha256;

/// Bytes of the signature that a token carries.
const TAG_BYTES: usize = 16;
/// The longest token that is looked at, in characters.
const MAX_CHARS: usize = 2_048;

/// Seals and opens tokens. A token opens only at the node that sealed it, for the same purpose and binding.
#[derive(Clone)]
pub struct Tokens {
    key: hmac::Key,
}

impl Tokens {
    /// Tokens of the node with this signing seed; they stay valid over restarts.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = sha256(&[b"hefu tokens v1\n", seed]);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        }
    }

    /// A token for `payload`, bound to every part of `binding`.
    #[must_use]
    pub fn seal(&self, binding: &[&[u8]], payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&self.tag(binding, payload));
        BASE64.encode(bytes)
    }

    /// The payload of a token that was sealed here with this binding; `None` for any other text.
    #[must_use]
    pub fn open(&self, binding: &[&[u8]], token: &str) -> Option<Vec<u8>> {
        if token.len() > MAX_CHARS {
            return None;
        }
        let mut bytes = BASE64.decode(token).ok()?;
        let payload = bytes.len().checked_sub(TAG_BYTES)?;
        let tag = bytes.split_off(payload);
        verify_slices_are_equal(&self.tag(binding, &bytes), &tag).ok()?;
        Some(bytes)
    }

    /// Every part goes in behind its length, so that parts cannot be shifted into one another.
    fn tag(&self, binding: &[&[u8]], payload: &[u8]) -> Vec<u8> {
        let mut mac = hmac::Context::with_key(&self.key);
        for part in binding {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.update(payload);
        let mut tag = mac.sign().as_ref().to_vec();
        tag.truncate(TAG_BYTES);
        tag
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn opens_only_what_was_sealed_for_it(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            flip in any::<usize>(),
        ) {
            let tokens = Tokens::new(&[1; 32]);
            let token = tokens.seal(&[b"list", b"filter"], &payload);
            prop_assert_eq!(tokens.open(&[b"list", b"filter"], &token), Some(payload));
            prop_assert_eq!(tokens.open(&[b"listf", b"ilter"], &token), None);
            prop_assert_eq!(tokens.open(&[b"list", b"other"], &token), None);
            prop_assert_eq!(Tokens::new(&[2; 32]).open(&[b"list", b"filter"], &token), None);
            let mut changed = token.into_bytes();
            let at = flip % changed.len();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(tokens.open(&[b"list", b"filter"], &changed), None);
        }
    }
}
