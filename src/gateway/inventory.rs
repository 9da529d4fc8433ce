//! What a set of credentials consists of, and when each part ends: for the audit trail, warnings and metrics.
//! Keys are no part of it.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use rustls::pki_types::CertificateRevocationListDer;
use sha2::{Digest as _, Sha256};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use super::{identity::end, tls::Credentials};

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The node's own certificate.
    Certificate,
    /// A certificate between it and its root.
    Intermediate,
    /// A root.
    Root,
    /// A revocation list.
    RevocationList,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Intermediate => "intermediate",
            Self::Root => "root",
            Self::RevocationList => "revocation list",
        }
    }
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of its DER form, in hexadecimal digits.
    pub fingerprint: String,
    /// When it ends; of a revocation list, when the next one was promised.
    pub end: Option<Timestamp>,
}

impl Item {
    fn new(kind: Kind, der: &[u8], end: Option<Timestamp>) -> Self {
        Self {
            kind,
            fingerprint: HEXLOWER.encode(&Sha256::digest(der)),
            end,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.fingerprint)
    }
}

/// The parts of credentials: the own certificate first.
#[must_use]
pub fn inventory(credentials: &Credentials) -> Vec<Item> {
    let chain = credentials.chain.iter().enumerate();
    let own = chain.map(|(at, certificate)| {
        let first = at == 0;
        let kind = if first {
            Kind::Certificate
        } else {
            Kind::Intermediate
        };
        Item::new(kind, certificate, end(certificate))
    });
    let roots = credentials.roots.iter();
    let roots = roots.map(|root| Item::new(Kind::Root, root, end(root)));
    let lists = credentials.crls.iter();
    let lists = lists.map(|list| Item::new(Kind::RevocationList, list, next_update(list)));
    own.chain(roots).chain(lists).collect()
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    Timestamp::from_second(parsed.next_update()?.timestamp()).ok()
}
