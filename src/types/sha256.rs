//! SHA-256, by the library that also does TLS: it is the fastest there is on machines without instructions
//! for it.

use aws_lc_rs::digest::{Context, SHA256};

/// The SHA-256 of some parts, one behind the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    // Both have 32 bytes.
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn it_is_sha_256_whatever_the_parts() {
        for length in [0, 1, 55, 56, 63, 64, 65, 1_000] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
            let due: [u8; 32] = Sha256::digest(&bytes).into();
            let (one, other) = bytes.split_at(bytes.len() / 3);
            assert_eq!(sha256(&[&bytes]), due);
            assert_eq!(sha256(&[one, &[], other]), due);
        }
    }
}
