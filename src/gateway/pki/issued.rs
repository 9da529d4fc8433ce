//! What an authority has issued: one CSV file that a person can read, and the revocation list made
//! from it.

use std::{fs::File, path::Path, time::Duration};

use data_encoding::HEXLOWER;
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
    /// The serial number of the one that it renews. Files of before this column have none.
    #[serde(default)]
    pub renews: Option<String>,
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

/// Keeps other processes out of a folder until dropped: what one has read is what it writes back.
pub(super) fn lock(folder: &Path) -> Result<File, PkiError> {
    let path = folder.join("lock");
    let held = durable::open_or_create(&path).and_then(|held| held.lock().map(|()| held));
    held.map_err(file(&path))
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
            serial_number: SerialNumber::from(HEXLOWER.decode(entry.serial.as_bytes()).ok()?),
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
    use super::super::{Authority, Issued, PkiError, Renewal, Shown};
    use crate::types::Clock as _;

    fn identity(role: &str) -> crate::types::Identity {
        format!("spiffe://nantong.gov.cn/{role}").parse().unwrap()
    }

    fn shown(issued: &Issued) -> Shown {
        Shown::read(&issued.certificate, None, None).unwrap()
    }

    const RENEWAL: Renewal = Renewal {
        hosts: Vec::new(),
        days: 40,
        same_key: false,
    };

    #[test]
    fn what_was_issued_can_be_revoked_once() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test").unwrap();
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

    #[test]
    fn what_is_renewed_has_the_same_holder_and_hosts_and_a_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test").unwrap();
        let hosts = [
            "qidong.example".to_owned(),
            "10.0.0.7".to_owned(),
            "::1".to_owned(),
        ];
        let node = identity("node/qidong");
        let issued = authority.issue(&node, &hosts, 10).unwrap();
        let (first, first_key) = (shown(&issued), std::fs::read(&issued.key).unwrap());
        assert_eq!(first.hosts, hosts);
        assert_eq!(authority.renew(&node.role, &RENEWAL).unwrap(), issued);
        let (second, second_key) = (shown(&issued), std::fs::read(&issued.key).unwrap());
        assert_eq!(
            (&second.identity, &second.hosts),
            (&first.identity, &first.hosts)
        );
        assert!(second.end > first.end && second.serial != first.serial);
        assert_ne!(second_key, first_key);

        let other = Renewal {
            hosts: vec!["new.example".to_owned()],
            same_key: true,
            ..RENEWAL
        };
        authority.renew(&node.role, &other).unwrap();
        let third = shown(&issued);
        assert_eq!(third.hosts, ["new.example"]);
        assert_eq!(std::fs::read(&issued.key).unwrap(), second_key);
        assert_eq!(third.unusable(super::SystemClock.now()), None);
        let entries = authority.issued().unwrap();
        let serials: Vec<_> = entries
            .iter()
            .map(|entry| entry.renews.as_deref())
            .collect();
        assert_eq!(
            serials,
            [
                None,
                Some(first.serial.as_str()),
                Some(second.serial.as_str())
            ]
        );
        // Those of before stay good.
        let now = super::SystemClock.now();
        assert!(entries.iter().all(|entry| entry.state(now) == "valid"));

        let nobody = authority.renew(&identity("agency/ab").role, &RENEWAL);
        assert!(matches!(nobody, Err(PkiError::NothingToRenew(_))));
        authority.revoke("node/qidong", "lost").unwrap();
        let revoked = authority.renew(&node.role, &RENEWAL);
        assert!(matches!(revoked, Err(PkiError::Revoked(_))));
        assert_eq!(shown(&issued).unusable(now), Some("it is revoked"));
    }

    #[test]
    fn a_certificate_is_shown_with_what_speaks_against_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test").unwrap();
        let (issued, now) = (
            authority.issue(&identity("agency/ab"), &[], 2).unwrap(),
            super::SystemClock.now(),
        );
        let whole = shown(&issued);
        assert_eq!(whole.identity, Some(identity("agency/ab")));
        assert!(whole.issuer.contains("test") && whole.list.is_some());
        assert_eq!(whole.key.as_ref().unwrap().fits, Some(true));
        assert_eq!(whole.unusable(now), None);
        let later = now + jiff::SignedDuration::from_hours(72);
        assert_eq!(whole.unusable(later), Some("it has ended"));
        let before = now - jiff::SignedDuration::from_hours(72);
        assert_eq!(whole.unusable(before), Some("it is not good yet"));
        let other = authority.issue(&identity("agency/cd"), &[], 2).unwrap();
        let wrong = Shown::read(&issued.certificate, Some(&other.key), None).unwrap();
        assert_eq!(wrong.unusable(now), Some("the key is not its own"));
        std::fs::set_permissions(&issued.key, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(shown(&issued).unusable(now).unwrap().contains("chmod 600"));
        for bad in [&issued.key, &folder.path().join("issued.csv")] {
            let error = Shown::read(bad, None, None).unwrap_err().to_string();
            assert!(error.contains("no certificate in PEM form"), "{error}");
        }
    }

    #[test]
    fn those_who_issue_at_once_lose_no_row() {
        let folder = tempfile::tempdir().unwrap();
        Authority::create(folder.path(), "test").unwrap();
        std::thread::scope(|scope| {
            for at in 0..4 {
                let folder = folder.path();
                scope.spawn(move || {
                    for turn in 0..5 {
                        // As another process would: nothing is shared but the folder.
                        let authority = Authority::open(folder).unwrap();
                        let role = format!("agency/a{at}-{turn}");
                        authority.issue(&identity(&role), &[], 1).unwrap();
                        authority.revoke(&role, "at once").unwrap();
                    }
                });
            }
        });
        let entries = Authority::open(folder.path()).unwrap().issued().unwrap();
        assert_eq!(entries.len(), 20);
        assert!(entries.iter().all(|entry| entry.revoked.is_some()));
    }
}
