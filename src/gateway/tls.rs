//! Certificates, keys, roots and revocation lists: files in, credentials out.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest as _, Sha256};

use super::identity::{Holder, holder};
use crate::{
    config::TlsConfig,
    types::{NodeId, TrustDomain},
};

/// Why certificates or keys are not used. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file holds no certificate or key in PEM form.
    #[error("{}: no {what} in PEM form", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A private key that others can read.
    #[error("{}: a private key must be readable by its owner only; run chmod 600 on it", .0.display())]
    LooseKey(PathBuf),
    /// The certificate names nobody of this trust domain, or somebody else.
    #[error("{}: {cause}", path.display())]
    Holder {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Key and certificate do not fit, or the roots are unusable.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The cryptography of every connection.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate chain, its key, and what peers are verified with.
#[derive(Debug)]
pub struct Credentials {
    /// The own certificate, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// Revocation lists of authorities that peers' certificates may come from.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Credentials {
    /// Reads PEM files. The key must be readable by its owner only.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(certificate: &Path, key: &Path, roots: &[PathBuf]) -> Result<Self, TlsError> {
        Files::read(certificate, key, roots, &[]).parse()
    }

    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn of(config: &TlsConfig) -> Result<Self, TlsError> {
        Files::of(config).parse()
    }

    /// Whom the own certificate names.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn holder(&self, domain: &TrustDomain) -> Result<Holder, TlsError> {
        let first = self
            .chain
            .first()
            .ok_or_else(|| TlsError::Setup("empty chain".to_owned()))?;
        holder(first, domain).map_err(|e| TlsError::Setup(format!("own certificate: {e}")))
    }

    /// Whom the own certificate names, which must be that node of that domain.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn of_node(&self, node: &NodeId, domain: &TrustDomain) -> Result<Holder, TlsError> {
        let holder = self.holder(domain)?;
        if holder.identity.node() != Some(node) {
            let text = format!("{} is not the certificate of node {node}", holder.identity);
            return Err(TlsError::Setup(text));
        }
        Ok(holder)
    }
}

/// The files of a node or client as they were at one moment: what is compared is what is parsed.
pub struct Files {
    certificate: Content,
    key: Content,
    /// Permission bits of the key's file; `None` where it cannot be looked at.
    key_mode: Option<u32>,
    roots: Vec<Content>,
    crls: Vec<Content>,
}

struct Content {
    path: PathBuf,
    bytes: io::Result<Vec<u8>>,
}

impl Content {
    fn read(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            bytes: fs::read(path),
        }
    }

    fn bytes(&self) -> Result<&[u8], TlsError> {
        self.bytes.as_deref().map_err(|cause| TlsError::Read {
            path: self.path.clone(),
            cause: io::Error::new(cause.kind(), cause.to_string()),
        })
    }

    /// Every item of that kind; at least one, and none that is broken.
    fn items<T: PemObject>(&self, what: &'static str) -> Result<Vec<T>, TlsError> {
        let found: Result<Vec<T>, _> = T::pem_slice_iter(self.bytes()?).collect();
        let found = found.ok().filter(|found| !found.is_empty());
        found.ok_or_else(|| TlsError::NotPem {
            path: self.path.clone(),
            what,
        })
    }
}

impl Files {
    /// Reads the files that a configuration names. What is wrong with them is told by [`Files::parse`].
    #[must_use]
    pub fn of(config: &TlsConfig) -> Self {
        Self::read(
            &config.certificate,
            &config.key,
            &config.roots,
            &config.crls,
        )
    }

    fn read(certificate: &Path, key: &Path, roots: &[PathBuf], crls: &[PathBuf]) -> Self {
        let all = |paths: &[PathBuf]| paths.iter().map(|path| Content::read(path)).collect();
        Self {
            certificate: Content::read(certificate),
            key: Content::read(key),
            key_mode: fs::metadata(key).ok().map(|m| m.permissions().mode()),
            roots: all(roots),
            crls: all(crls),
        }
    }

    /// A digest of everything that is in force when these are: contents, and who may read the key.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key_mode.map_or([0; 4], u32::to_be_bytes));
        let own = [&self.certificate, &self.key];
        for content in own.into_iter().chain(&self.roots).chain(&self.crls) {
            match &content.bytes {
                Ok(bytes) => digest.update(Sha256::digest(bytes)),
                Err(error) => digest.update(Sha256::digest(error.to_string())),
            }
        }
        digest.finalize().into()
    }

    /// Parses them. The key must be readable by its owner only.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn parse(&self) -> Result<Credentials, TlsError> {
        let key = self.key.bytes()?;
        if self.key_mode.is_none_or(|mode| mode & 0o077 != 0) {
            return Err(TlsError::LooseKey(self.key.path.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NotPem {
            path: self.key.path.clone(),
            what: "private key",
        })?;
        let (mut roots, mut crls) = (Vec::new(), Vec::new());
        for content in &self.roots {
            roots.extend(content.items("certificate")?);
        }
        for content in &self.crls {
            crls.extend(content.items("revocation list")?);
        }
        Ok(Credentials {
            chain: self.certificate.items("certificate")?,
            key,
            roots,
            crls,
        })
    }
}

/// Refuses a private key that group or others can read.
///
/// # Errors
/// [`TlsError::LooseKey`], [`TlsError::Read`].
pub fn owner_only(path: &Path) -> Result<(), TlsError> {
    let metadata = fs::metadata(path).map_err(|cause| TlsError::Read {
        path: path.to_owned(),
        cause,
    })?;
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(TlsError::LooseKey(path.to_owned()))
}
