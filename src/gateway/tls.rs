//! TLS 1.3 with certificates on both sides: files in, configurations out.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};

use super::identity::{Holder, holder};
use crate::{config::TlsConfig, types::TrustDomain};

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

/// A certificate chain, its key, and the roots that peers are verified with.
#[derive(Debug)]
pub struct Credentials {
    /// The own certificate, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The roots.
    pub roots: Arc<RootCertStore>,
    /// Revocation lists of authorities that peers' certificates may come from.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Credentials {
    /// Reads PEM files. The key must be readable by its owner only.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn load(certificate: &Path, key: &Path, roots: &[PathBuf]) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        owner_only(key)?;
        let bytes = read(key)?;
        let not_pem = || TlsError::NotPem {
            path: key.to_owned(),
            what: "private key",
        };
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| not_pem())?;
        let mut store = RootCertStore::empty();
        for path in roots {
            for root in certificates(path)? {
                store
                    .add(root)
                    .map_err(|e| TlsError::Setup(format!("{}: {e}", path.display())))?;
            }
        }
        Ok(Self {
            chain,
            key,
            roots: Arc::new(store),
            crls: Vec::new(),
        })
    }

    /// Reads the files that a configuration names.
    ///
    /// # Errors
    /// [`TlsError`] names the file.
    pub fn of(config: &TlsConfig) -> Result<Self, TlsError> {
        let mut credentials = Self::load(&config.certificate, &config.key, &config.roots)?;
        for path in &config.crls {
            let bytes = read(path)?;
            let found: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
            let found = found.ok().filter(|found| !found.is_empty());
            credentials
                .crls
                .extend(found.ok_or_else(|| TlsError::NotPem {
                    path: path.clone(),
                    what: "revocation list",
                })?);
        }
        Ok(credentials)
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

    /// The server's side: TLS 1.3, a client certificate from one of the roots, HTTP/2.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let setup = |e: String| TlsError::Setup(e);
        // An authority without a list revokes nothing; a list past its date is honoured all the same.
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.crls.clone())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| setup(e.to_string()))?
            .with_client_cert_verifier(verifier.map_err(|e| setup(e.to_string()))?)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| setup(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|cause| TlsError::Read {
        path: path.to_owned(),
        cause,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| TlsError::NotPem {
        path: path.to_owned(),
        what: "certificate",
    })
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
