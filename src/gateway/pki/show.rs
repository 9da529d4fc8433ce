//! What a certificate file says, and whether it can be used: for people.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _,
    revocation_list::CertificateRevocationList,
};

use super::{PkiError, file};
use crate::types::Identity;

/// A certificate, as its file and those beside it tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose; `None` where it names no SPIFFE ID, as an authority's.
    pub identity: Option<Identity>,
    /// Whose, by its subject.
    pub subject: String,
    /// Names and addresses under which its holder can be dialled.
    pub hosts: Vec<String>,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Who issued it.
    pub issuer: String,
    /// From when on it is good.
    pub begin: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// SHA-256 of its DER form, in hexadecimal digits: as in the audit trail.
    pub fingerprint: String,
    /// The file of its key, where there is one.
    pub key: Option<KeyFile>,
    /// When it was revoked, by the list that was looked at; `None` where it is not, or no list is there.
    pub revoked: Option<Timestamp>,
    /// The revocation list that was looked at.
    pub list: Option<PathBuf>,
}

/// A private key's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Where.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it is the certificate's key; `None` where this program cannot read it.
    pub fits: Option<bool>,
}

impl KeyFile {
    /// Whether a node takes it: nobody but its owner can read it.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.mode & 0o077 == 0
    }
}

impl Shown {
    /// Reads a certificate's file, its key, and a revocation list. What is not given is looked for beside it:
    /// `<stem>.key` and `crl.pem`.
    ///
    /// # Errors
    /// [`PkiError::File`], [`PkiError::Unreadable`].
    pub fn read(
        certificate: &Path,
        key: Option<&Path>,
        list: Option<&Path>,
    ) -> Result<Self, PkiError> {
        let unreadable = |cause: &str| PkiError::Unreadable {
            path: certificate.to_owned(),
            cause: cause.to_owned(),
        };
        let bytes = fs::read(certificate).map_err(file(certificate))?;
        let der = CertificateDer::from_pem_slice(&bytes)
            .map_err(|_| unreadable("no certificate in PEM form"))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|_| unreadable("the certificate does not parse"))?;
        let time = |at: i64| Timestamp::from_second(at).unwrap_or(Timestamp::MAX);
        let (identity, hosts) = names(&parsed);
        let mut shown = Self {
            identity,
            subject: parsed.subject().to_string(),
            hosts,
            serial: HEXLOWER.encode(parsed.raw_serial()),
            issuer: parsed.issuer().to_string(),
            begin: time(parsed.validity().not_before.timestamp()),
            end: time(parsed.validity().not_after.timestamp()),
            fingerprint: HEXLOWER.encode(&Sha256::digest(&der)),
            key: None,
            revoked: None,
            list: None,
        };
        shown.find_key(certificate, key, &parsed)?;
        shown.find_list(certificate, list, &parsed)?;
        Ok(shown)
    }

    fn find_key(
        &mut self,
        certificate: &Path,
        given: Option<&Path>,
        parsed: &X509Certificate<'_>,
    ) -> Result<(), PkiError> {
        let path = given.map_or_else(|| certificate.with_extension("key"), Path::to_owned);
        if given.is_none() && !path.exists() {
            return Ok(());
        }
        let metadata = fs::metadata(&path).map_err(file(&path))?;
        // It may be another user's, as it should be.
        let text = fs::read_to_string(&path).ok();
        let pair = text.and_then(|text| KeyPair::from_pem(&text).ok());
        self.key = Some(KeyFile {
            mode: metadata.permissions().mode() & 0o7777,
            fits: pair.map(|pair| pair.subject_public_key_info() == parsed.public_key().raw),
            path,
        });
        Ok(())
    }

    fn find_list(
        &mut self,
        certificate: &Path,
        given: Option<&Path>,
        parsed: &X509Certificate<'_>,
    ) -> Result<(), PkiError> {
        let path = given.map_or_else(|| certificate.with_file_name("crl.pem"), Path::to_owned);
        if given.is_none() && !path.exists() {
            return Ok(());
        }
        let unreadable = || PkiError::Unreadable {
            path: path.clone(),
            cause: "no revocation list in PEM form".to_owned(),
        };
        let bytes = fs::read(&path).map_err(file(&path))?;
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let lists = lists.ok().filter(|lists| !lists.is_empty());
        for list in lists.ok_or_else(unreadable)? {
            let (_, list) = CertificateRevocationList::from_der(&list).map_err(|_| unreadable())?;
            if list.issuer() != parsed.issuer() {
                continue;
            }
            self.list = Some(path.clone());
            let mut revoked = list.iter_revoked_certificates();
            if let Some(entry) = revoked.find(|entry| entry.raw_serial() == parsed.raw_serial()) {
                let time = Timestamp::from_second(entry.revocation_date.timestamp());
                self.revoked = Some(time.unwrap_or(Timestamp::MIN));
            }
        }
        Ok(())
    }

    /// Why a node would not take it now, or its peers would not; `None` where nothing speaks against it.
    #[must_use]
    pub fn unusable(&self, now: Timestamp) -> Option<&'static str> {
        let key = self.key.as_ref();
        if self.revoked.is_some() {
            Some("it is revoked")
        } else if self.end <= now {
            Some("it has ended")
        } else if self.begin > now {
            Some("it is not good yet")
        } else if key.is_some_and(|key| !key.is_private()) {
            Some("others can read its key: run chmod 600 on it")
        } else if key.is_some_and(|key| key.fits == Some(false)) {
            Some("the key is not its own")
        } else {
            None
        }
    }
}

/// The SPIFFE ID, and the names and addresses.
fn names(parsed: &X509Certificate<'_>) -> (Option<Identity>, Vec<String>) {
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or_else(Vec::new, |names| names.value.general_names.clone());
    let (mut identity, mut hosts) = (None, Vec::new());
    for name in names {
        match name {
            GeneralName::URI(uri) => identity = uri.parse().ok(),
            GeneralName::DNSName(host) => hosts.push(host.to_owned()),
            GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
            _ => {}
        }
    }
    (identity, hosts)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    let sixteen = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(sixteen).to_string())
}
