//! What an authority has issued: one CSV file that a person can read, and the revocation list made
//! from it.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use serde::{Deserialize, Serialize};

use super::{PkiError, file, since_epoch, write};
use crate::{
    storage::durable,
    types::{Clock as _, Role, SystemClock},
};

/// How long a revocation list is good by its own word, in days. Nodes go on honouring an older one: a city does
/// not stop at night because a pilot's list was not made anew.
const LIST_DAYS: u64 = 90;

/// One certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Whose: `agency/qidong-emergency`.
    pub identity: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
}

impl Entry {
    /// How it stands at a time: `valid`, `revoked` or `ended`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> &'static str {
        match self.revoked {
            Some(_) => "revoked",
            None if self.ends <= now => "ended",
            None => "valid",
        }
    }
}

/// A serial number that nobody can guess, as 16 bytes. Source: CA/B Forum Baseline Requirements, 7.1.
pub(super) fn serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    let failed =
        |e: getrandom::Error| file(Path::new("random"))(std::io::Error::other(e.to_string()));
    getrandom::fill(&mut serial).map_err(failed)?;
    // The first bit off: a positive number; the second on: always 16 bytes.
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(serial)
}

pub(super) fn hex(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let pair = |pair: &[u8]| Some(pair.first()? << 4 | pair.get(1)?);
    digits?.chunks(2).map(pair).collect()
}

/// Everything that was issued, oldest first. An authority of before this file has none.
pub(super) fn read(folder: &Path) -> Result<Vec<Entry>, PkiError> {
    let path = folder.join("issued.csv");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let failed = |e: csv::Error| file(&path)(std::io::Error::other(e.to_string()));
    let mut reader = csv::Reader::from_path(&path).map_err(failed)?;
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .map_err(failed)
}

pub(super) fn keep(folder: &Path, entries: &[Entry]) -> Result<(), PkiError> {
    let path = folder.join("issued.csv");
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |text: String| file(&path)(std::io::Error::other(text));
    for entry in entries {
        writer.serialize(entry).map_err(|e| failed(e.to_string()))?;
    }
    let text = writer.into_inner().map_err(|e| failed(e.to_string()))?;
    durable::replace(&path, &text, durable::Access::Everyone).map_err(file(&path))
}

/// Writes the revocation list, `crl.pem`, of what was revoked.
pub(super) fn write_list(
    folder: &Path,
    issuer: &Issuer<'_, KeyPair>,
    entries: &[Entry],
) -> Result<(), PkiError> {
    let at = |time: Timestamp| std::time::UNIX_EPOCH + since_epoch(time);
    let now = SystemClock.now();
    let revoked = entries.iter().filter_map(|entry| {
        Some(RevokedCertParams {
            serial_number: SerialNumber::from(bytes(&entry.serial)?),
            revocation_time: at(entry.revoked?).into(),
            reason_code: None,
            invalidity_date: None,
        })
    });
    // Later lists have higher numbers: milliseconds do, as long as the clock runs forward.
    let number = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let list = CertificateRevocationListParams {
        this_update: (at(now) - Duration::from_secs(60)).into(),
        next_update: (at(now) + Duration::from_secs(86_400 * LIST_DAYS)).into(),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let pem = list.signed_by(issuer)?.pem()?;
    write(&folder.join("crl.pem"), &pem, durable::Access::Everyone)
}

/// Marks as revoked what `which` names: a serial number, or all certificates of an identity that are
/// still good.
pub(super) fn revoke(
    entries: &mut [Entry],
    which: &str,
    reason: &str,
) -> Result<Vec<Entry>, PkiError> {
    let now = SystemClock.now();
    let role: Option<Role> = which.parse().ok();
    let mut revoked = Vec::new();
    for entry in entries {
        let meant = entry.serial == which
            || role
                .as_ref()
                .is_some_and(|role| entry.identity == role.to_string());
        if meant && entry.state(now) == "valid" {
            (entry.revoked, entry.reason) = (Some(now), Some(reason.to_owned()));
            revoked.push(entry.clone());
        }
    }
    if revoked.is_empty() {
        return Err(PkiError::NothingToRevoke(which.to_owned()));
    }
    Ok(revoked)
}

#[cfg(test)]
mod tests {
    use super::super::Authority;
    use crate::types::Clock as _;

    #[test]
    fn what_was_issued_can_be_revoked_once() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test").unwrap();
        let identity = |role: &str| format!("spiffe://nantong.gov.cn/{role}").parse().unwrap();
        for role in ["agency/ab", "agency/ab", "node/qidong"] {
            authority.issue(&identity(role), &[], 1).unwrap();
        }
        let before = std::fs::read(folder.path().join("crl.pem")).unwrap();
        let revoked = authority.revoke("agency/ab", "key lost, twice").unwrap();
        assert_eq!(revoked.len(), 2);
        assert_ne!(
            std::fs::read(folder.path().join("crl.pem")).unwrap(),
            before
        );
        for nothing in ["agency/ab", "agency/cd", "00", &revoked[0].serial] {
            let error = authority.revoke(nothing, "again").unwrap_err();
            assert!(error.to_string().contains("hefu pki list"), "{error}");
        }
        // Another process sees the same, and goes on.
        let authority = Authority::open(folder.path()).unwrap();
        let issued = authority.issued().unwrap();
        let now = super::SystemClock.now();
        let states: Vec<_> = issued.iter().map(|entry| entry.state(now)).collect();
        assert_eq!(states, ["revoked", "revoked", "valid"]);
        assert_eq!(issued[0].reason.as_deref(), Some("key lost, twice"));
        assert_eq!(authority.revoke(&issued[2].serial, "x").unwrap().len(), 1);
    }
}
