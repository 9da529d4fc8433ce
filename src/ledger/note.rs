//! Signed notes and their keys: C2SP signed-note, tlog-checkpoint, tlog-cosignature.
//!
//! A note is text, an empty line, and signature lines `— name base64(key id || signature)`. A key id
//! covers the key's name and algorithm byte, so every signature says which algorithm made it, and a
//! line of an algorithm that is not known is passed over.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::merkle::Hash;
use crate::types::{LedgerTime, sha256};

/// C2SP signed-note: the algorithm byte of an Ed25519 note signature.
const ED25519: u8 = 0x01;
/// C2SP tlog-cosignature: the algorithm byte of a timestamped Ed25519 cosignature.
const COSIGNATURE_V1: u8 = 0x04;
/// Largest note that is parsed, in bytes: two of them fit into a value of the state.
pub const MAX_NOTE_BYTES: usize = 1_700;
/// Largest note that is taken from another node: room for this node's own cosignature is left.
pub const MAX_FOREIGN_NOTE_BYTES: usize = 1_200;
/// Most signature lines that a note may have.
const MAX_SIGNATURES: usize = 32;

/// Why a note, key or checkpoint is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoteError {
    /// Not a signed note, or not a checkpoint.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// Not a verifier key.
    #[error("not a verifier key: {0}")]
    BadKey(&'static str),
    /// No signature by the key that was asked for.
    #[error("the note bears no signature of {0}")]
    Unsigned(String),
    /// A signature by that key, and it is wrong.
    #[error("the signature of {0} is wrong")]
    BadSignature(String),
    /// Signed by a key that was replaced, and of more than it is believed for.
    #[error("it is signed with key {key}, which is believed up to size {until} only")]
    Replaced {
        /// The id of the key.
        key: String,
        /// The size up to which it is believed.
        until: u64,
    },
}

/// What a log says of itself: size and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's origin.
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            BASE64.encode(self.root)
        )
    }
}

/// Which statement a key makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUse {
    /// Signs its own log's checkpoints.
    Log,
    /// Cosigns others' checkpoints.
    Cosigner,
}

impl KeyUse {
    fn algorithm(self) -> u8 {
        match self {
            Self::Log => ED25519,
            Self::Cosigner => COSIGNATURE_V1,
        }
    }
}

/// A public key with its name and use: C2SP vkey `name+id+base64(algorithm || key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    purpose: KeyUse,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, purpose: KeyUse, key: VerifyingKey) -> Self {
        let id = key_id(name, purpose.algorithm(), key.as_bytes());
        Self {
            name: name.to_owned(),
            id,
            purpose,
            key,
        }
    }

    /// The name: a log's origin, or a cosigner's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which statement it makes.
    #[must_use]
    pub fn purpose(&self) -> KeyUse {
        self.purpose
    }

    /// Its id, as eight hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Whether both are the same public key, whatever its name and use.
    #[must_use]
    pub fn is_key_of(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The key under which the origin of a log key cosigns: the same public key, named after its node.
    #[must_use]
    pub fn as_cosigner(&self) -> Self {
        let name = match self.name.rsplit_once('/') {
            Some((node, _)) if self.purpose == KeyUse::Log => node,
            _ => &self.name,
        };
        Self::new(name, KeyUse::Cosigner, self.key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![self.purpose.algorithm()];
        bytes.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, self.id(), BASE64.encode(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::BadKey("it must be name+id+key"));
        };
        if !valid_name(name) {
            return Err(NoteError::BadKey("its name is empty or has spaces"));
        }
        let bytes = BASE64
            .decode(key)
            .map_err(|_| NoteError::BadKey("its key is no base64"))?;
        let (algorithm, key) = bytes
            .split_first()
            .ok_or(NoteError::BadKey("its key is empty"))?;
        let purpose = match *algorithm {
            ED25519 => KeyUse::Log,
            COSIGNATURE_V1 => KeyUse::Cosigner,
            _ => return Err(NoteError::BadKey("its algorithm is not known")),
        };
        let key: [u8; 32] = key
            .try_into()
            .map_err(|_| NoteError::BadKey("its length is wrong"))?;
        let key = VerifyingKey::from_bytes(&key)
            .map_err(|_| NoteError::BadKey("it is no point of the curve"))?;
        if key.is_weak() {
            return Err(NoteError::BadKey("it is a weak key"));
        }
        let parsed = Self::new(name, purpose, key);
        if parsed.id() == id {
            Ok(parsed)
        } else {
            Err(NoteError::BadKey("its id does not match"))
        }
    }
}

/// A node's signing key: one Ed25519 key that signs its log and cosigns others' under key ids of
/// their own.
pub struct NodeKey {
    key: SigningKey,
    log: VerifierKey,
    cosigner: VerifierKey,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.log.name).finish()
    }
}

impl NodeKey {
    /// A key from its 32-byte seed, for a log of this origin and a cosigner of this name.
    #[must_use]
    pub fn new(seed: &[u8; 32], origin: &str, cosigner: &str) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = key.verifying_key();
        let log = VerifierKey::new(origin, KeyUse::Log, public);
        let cosigner = VerifierKey::new(cosigner, KeyUse::Cosigner, public);
        Self { key, log, cosigner }
    }

    /// The key under which the log is verified.
    #[must_use]
    pub fn log_key(&self) -> &VerifierKey {
        &self.log
    }

    /// The key under which cosignatures are verified.
    #[must_use]
    pub fn cosigner_key(&self) -> &VerifierKey {
        &self.cosigner
    }

    /// Signs a checkpoint of the own log. The same checkpoint gives the same bytes.
    #[must_use]
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text();
        format!("{text}\n{}", self.line(&text))
    }

    /// The signature line of the log's key under a text. Every kind of text begins as no other does.
    pub(crate) fn line(&self, text: &str) -> String {
        signature_line(&self.log, &self.key.sign(text.as_bytes()).to_bytes())
    }

    /// The cosignature line for a checkpoint that was verified and stored, at a time.
    #[must_use]
    pub fn cosign(&self, checkpoint: &Checkpoint, time: LedgerTime) -> String {
        let seconds = u64::try_from(time.as_micros() / 1_000_000).unwrap_or(0);
        let message = cosigned_message(&checkpoint.text(), seconds);
        let mut bytes = seconds.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.key.sign(message.as_bytes()).to_bytes());
        signature_line(&self.cosigner, &bytes)
    }
}

/// A text with signature lines under it; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    text: String,
    signatures: Vec<SignatureLine>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SignatureLine {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl Signed {
    /// Reads a note of at most so many bytes.
    pub fn parse(note: &str, most: usize) -> Result<Self, NoteError> {
        if note.len() > most {
            return Err(NoteError::Malformed("it is too long"));
        }
        let (text, lines) = note
            .split_once("\n\n")
            .ok_or(NoteError::Malformed("it has no signatures"))?;
        let text = format!("{text}\n");
        if !lines.ends_with('\n') {
            return Err(NoteError::Malformed("its last line is cut"));
        }
        let signatures: Vec<_> = lines.lines().map(parse_line).collect::<Result<_, _>>()?;
        if signatures.is_empty() || signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Malformed("it has no signature, or too many"));
        }
        Ok(Self { text, signatures })
    }

    /// What is signed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether there is a line of this key, right or wrong.
    pub fn bears(&self, key: &VerifierKey) -> bool {
        self.signature(key).is_ok()
    }

    /// Whether a log's key signed it.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        verify(key, self.text.as_bytes(), self.signature(key)?)
    }

    /// The same with the signature lines of these keys alone, in their order.
    pub fn bearing(&self, keys: &[&VerifierKey]) -> Self {
        let line = |key: &&VerifierKey| {
            let of_key = |line: &&SignatureLine| line.name == key.name && line.id == key.id;
            self.signatures.iter().find(of_key).cloned()
        };
        Self {
            text: self.text.clone(),
            signatures: keys.iter().filter_map(line).collect(),
        }
    }

    fn signature(&self, key: &VerifierKey) -> Result<&[u8], NoteError> {
        let mut lines = self.signatures.iter();
        let line = lines.find(|line| line.name == key.name && line.id == key.id);
        line.map(|line| line.bytes.as_slice())
            .ok_or_else(|| NoteError::Unsigned(key.name.clone()))
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            let mut bytes = line.id.to_vec();
            bytes.extend_from_slice(&line.bytes);
            writeln!(f, "\u{2014} {} {}", line.name, BASE64.encode(bytes))?;
        }
        Ok(())
    }
}

/// A parsed checkpoint with its signatures; nothing in it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    signed: Signed,
    checkpoint: Checkpoint,
}

impl Note {
    /// What it says. Trust it only after [`Note::verify_log`].
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether there is a line of this key, right or wrong.
    pub(super) fn bears(&self, key: &VerifierKey) -> bool {
        self.signed.bears(key)
    }

    /// Whether the log's key signed it.
    ///
    /// # Errors
    /// [`NoteError::Unsigned`], [`NoteError::BadSignature`].
    pub fn verify_log(&self, key: &VerifierKey) -> Result<&Checkpoint, NoteError> {
        if key.purpose != KeyUse::Log || key.name != self.checkpoint.origin {
            return Err(NoteError::Unsigned(key.name.clone()));
        }
        self.signed.verify(key)?;
        Ok(&self.checkpoint)
    }

    /// Whether a cosigner's key cosigned it, and when.
    ///
    /// # Errors
    /// [`NoteError::Unsigned`], [`NoteError::BadSignature`].
    pub fn verify_cosignature(&self, key: &VerifierKey) -> Result<LedgerTime, NoteError> {
        if key.purpose != KeyUse::Cosigner {
            return Err(NoteError::Unsigned(key.name.clone()));
        }
        let bad = || NoteError::BadSignature(key.name.clone());
        let (time, signature) = self
            .signed
            .signature(key)?
            .split_first_chunk::<8>()
            .ok_or_else(bad)?;
        let seconds = u64::from_be_bytes(*time);
        let time = i64::try_from(seconds).ok().and_then(from_seconds);
        verify(
            key,
            cosigned_message(&self.signed.text, seconds).as_bytes(),
            signature,
        )?;
        time.ok_or_else(bad)
    }

    /// The same note with the signature lines of these keys alone, in their order.
    #[must_use]
    pub fn bearing(&self, keys: &[&VerifierKey]) -> Self {
        Self {
            signed: self.signed.bearing(keys),
            checkpoint: self.checkpoint.clone(),
        }
    }
}

impl FromStr for Note {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        let signed = Signed::parse(note, MAX_NOTE_BYTES)?;
        let checkpoint = parse_checkpoint(&signed.text)?;
        Ok(Self { signed, checkpoint })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signed.fmt(f)
    }
}

fn parse_checkpoint(text: &str) -> Result<Checkpoint, NoteError> {
    let mut lines = text.lines();
    let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(NoteError::Malformed("it must have origin, size and root"));
    };
    if !valid_name(origin) {
        return Err(NoteError::Malformed("its origin is empty or has spaces"));
    }
    Ok(Checkpoint {
        origin: origin.to_owned(),
        size: parse_size(size)?,
        root: parse_root(root)?,
    })
}

pub(super) fn parse_size(text: &str) -> Result<u64, NoteError> {
    let size: u64 = text
        .parse()
        .map_err(|_| NoteError::Malformed("its size is no number"))?;
    if size.to_string() == text {
        Ok(size)
    } else {
        Err(NoteError::Malformed("its size is not canonical"))
    }
}

pub(super) fn parse_root(text: &str) -> Result<Hash, NoteError> {
    let root = BASE64
        .decode(text)
        .map_err(|_| NoteError::Malformed("its root is no base64"))?;
    root.try_into()
        .map_err(|_| NoteError::Malformed("its root is not 32 bytes"))
}

fn parse_line(line: &str) -> Result<SignatureLine, NoteError> {
    let malformed = NoteError::Malformed("a signature line is not as it should be");
    let Some((name, bytes)) = line
        .strip_prefix("\u{2014} ")
        .and_then(|rest| rest.split_once(' '))
    else {
        return Err(malformed);
    };
    let Ok(bytes) = BASE64.decode(bytes) else {
        return Err(malformed);
    };
    let Some((id, bytes)) = bytes.split_first_chunk::<4>() else {
        return Err(malformed);
    };
    if !valid_name(name) {
        return Err(malformed);
    }
    Ok(SignatureLine {
        name: name.to_owned(),
        id: *id,
        bytes: bytes.to_vec(),
    })
}

fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

fn verify(key: &VerifierKey, message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
    let bad = || NoteError::BadSignature(key.name.clone());
    let signature = Signature::from_slice(signature).map_err(|_| bad())?;
    key.key
        .verify_strict(message, &signature)
        .map_err(|_| bad())
}

pub(super) fn from_seconds(seconds: i64) -> Option<LedgerTime> {
    LedgerTime::from_micros(seconds.checked_mul(1_000_000)?).ok()
}

fn cosigned_message(text: &str, seconds: u64) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

fn key_id(name: &str, algorithm: u8, key: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[name.as_bytes(), &[b'\n', algorithm], key]);
    [a, b, c, d]
}

fn signature_line(key: &VerifierKey, signature: &[u8]) -> String {
    let mut bytes = key.id.to_vec();
    bytes.extend_from_slice(signature);
    format!("\u{2014} {} {}\n", key.name, BASE64.encode(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> NodeKey {
        NodeKey::new(
            &[7; 32],
            "nantong.gov.cn/qidong/5f0c9a1e",
            "nantong.gov.cn/nantong",
        )
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "nantong.gov.cn/qidong/5f0c9a1e".into(),
            size: 42,
            root: [9; 32],
        }
    }

    #[test]
    fn keys_of_the_specification_parse() {
        // The example key of the C2SP signed-note specification.
        let text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(key.name(), "sum.golang.org");
    }

    #[test]
    fn a_signed_and_cosigned_note_verifies() {
        let (key, time) = (key(), from_seconds(1_700_000_000).unwrap());
        let text = key.sign(&checkpoint()) + &key.cosign(&checkpoint(), time);
        let note: Note = text.parse().unwrap();
        assert_eq!(note.to_string(), text);
        assert_eq!(note.verify_log(key.log_key()), Ok(&checkpoint()));
        assert_eq!(note.verify_cosignature(key.cosigner_key()), Ok(time));
        assert!(note.verify_log(key.cosigner_key()).is_err());
        assert!(note.verify_cosignature(key.log_key()).is_err());
        let other = NodeKey::new(
            &[8; 32],
            "nantong.gov.cn/qidong/5f0c9a1e",
            "nantong.gov.cn/x",
        );
        assert!(matches!(
            note.verify_log(other.log_key()),
            Err(NoteError::Unsigned(_))
        ));
    }

    proptest! {
        #[test]
        fn no_single_bit_of_a_note_can_change(at in 0usize..500, bit in 0u8..8) {
            let key = key();
            let time = from_seconds(1_700_000_000).unwrap();
            let text = key.sign(&checkpoint()) + &key.cosign(&checkpoint(), time);
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let accepted = String::from_utf8(bytes).ok().and_then(|t| t.parse::<Note>().ok());
            if let Some(note) = accepted {
                let sound = note.verify_log(key.log_key()).is_ok()
                    && note.verify_cosignature(key.cosigner_key()) == Ok(time);
                prop_assert!(!sound);
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,300}") {
            let _ = text.parse::<Note>();
            let _ = text.parse::<VerifierKey>();
        }
    }
}
