//! Who a certificate is: the one SPIFFE URI in it.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::types::{Identity, TrustDomain};

/// Why a certificate names nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not parse.
    #[error("the certificate does not parse")]
    Unreadable,
    /// It has no URI, or several.
    #[error("the certificate must have exactly one SPIFFE URI, it has {0}")]
    NotOne(usize),
    /// Its URI is no SPIFFE ID of an agency, node or administrator.
    #[error("the certificate's URI is not valid: {0}")]
    BadUri(crate::types::IdentityError),
    /// It belongs to another trust domain.
    #[error("the certificate belongs to the trust domain {0}")]
    Foreign(TrustDomain),
}

impl IdentityError {
    /// The same in Chinese.
    #[must_use]
    pub fn zh(&self) -> String {
        match self {
            Self::Unreadable => "证书无法解析".to_owned(),
            Self::NotOne(found) => format!("证书须有且仅有一个 SPIFFE URI，现有 {found} 个"),
            Self::BadUri(_) => "证书中的 URI 不是有效的 SPIFFE 标识".to_owned(),
            Self::Foreign(domain) => format!("证书属于信任域 {domain}"),
        }
    }
}

/// What a certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub identity: Identity,
    /// Until when.
    pub end: Timestamp,
}

/// Reads the holder of a certificate whose chain was verified.
///
/// # Errors
/// [`IdentityError`].
pub fn holder(
    certificate: &CertificateDer<'_>,
    domain: &TrustDomain,
) -> Result<Holder, IdentityError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| IdentityError::Unreadable)?;
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris.as_slice() else {
        return Err(IdentityError::NotOne(uris.len()));
    };
    let identity: Identity = uri.parse().map_err(IdentityError::BadUri)?;
    if identity.domain != *domain {
        return Err(IdentityError::Foreign(identity.domain));
    }
    let end = Timestamp::from_second(parsed.validity().not_after.timestamp());
    Ok(Holder {
        identity,
        end: end.map_err(|_| IdentityError::Unreadable)?,
    })
}

/// When a certificate ends; `None` where it does not parse.
#[must_use]
pub fn end(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}
