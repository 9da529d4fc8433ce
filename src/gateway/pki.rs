//! A small authority, for demonstrations, tests and pilots.

mod issued;
mod show;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::DnsName;

pub use self::{
    issued::Entry,
    show::{KeyFile, Shown},
};
use super::tls::{TlsError, owner_only};
use crate::{
    storage::durable,
    types::{Clock as _, Identity, IdentityError, Role, SystemClock},
};

/// Days that a certificate lives by default.
pub const DEFAULT_DAYS: u32 = 90;
/// Days that a certificate lives at most.
pub const MAX_DAYS: u32 = 825;
/// Days that the authority itself lives.
const AUTHORITY_DAYS: u32 = 3_650;

/// Why the authority cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A certificate or key cannot be made, or is not usable.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// There is an authority already: replacing it would orphan all that it issued.
    #[error("{}: there is an authority already", .0.display())]
    Exists(PathBuf),
    /// The authority's key can be read by others.
    #[error(transparent)]
    Key(#[from] TlsError),
    /// Too long a life.
    #[error("a certificate lives at most {MAX_DAYS} days, not {0}")]
    BadDays(u32),
    /// No certificate that is still good has that identity or serial number.
    #[error("nothing to revoke: no certificate of {0} that is still good; see hefu pki list")]
    NothingToRevoke(String),
    /// No SPIFFE ID.
    #[error("{0}: {1}")]
    BadIdentity(String, IdentityError),
    /// Nobody of that name has a certificate here.
    #[error("nothing to renew: {0} has no certificate in this folder; see hefu pki issue")]
    NothingToRenew(String),
    /// What is revoked is not renewed.
    #[error(
        "the certificate of {0} is revoked: if it is to have another, hefu pki issue makes one"
    )]
    Revoked(String),
    /// A file holds no certificate.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A host that is no DNS name and no address.
    #[error("{0} is no host name and no address")]
    BadHost(String),
}

/// An authority in a folder: `ca.pem`, `ca.key`, and what it issued.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, readable by its owner only.
    pub key: PathBuf,
    /// The root that it leads to.
    pub root: PathBuf,
}

/// How a certificate is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Hosts, in the place of those of before; empty keeps them.
    pub hosts: Vec<String>,
    /// Days that it lives.
    pub days: u32,
    /// Whether the key is kept.
    pub same_key: bool,
}

impl Authority {
    /// Makes an authority in a folder that has none.
    ///
    /// # Errors
    /// [`PkiError`]; an authority that exists is not replaced.
    pub fn create(folder: &Path, name: &str) -> Result<Self, PkiError> {
        durable::create_dir_all(folder, durable::Access::Owner).map_err(file(folder))?;
        let _alone = issued::lock(folder)?;
        if folder.join("ca.key").exists() || folder.join("ca.pem").exists() {
            return Err(PkiError::Exists(folder.to_owned()));
        }
        let mut params = params(name, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        write(
            &folder.join("ca.key"),
            &key.serialize_pem(),
            durable::Access::Owner,
        )?;
        write(
            &folder.join("ca.pem"),
            &certificate.pem(),
            durable::Access::Everyone,
        )?;
        let issuer = Issuer::new(params, key);
        // Empty, so that a node can be told of it before anything is revoked.
        issued::write_list(folder, &issuer, &[])?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// Opens an authority that exists. Its key must be readable by its owner only.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        owner_only(&folder.join("ca.key"))?;
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(file(&path))
        };
        let (certificate, key) = (read("ca.pem")?, KeyPair::from_pem(&read("ca.key")?)?);
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
        })
    }

    /// Issues a certificate and its key for `days`; those of the same identity are replaced. Nodes need
    /// `hosts`: the names and addresses under which others dial them.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        days: u32,
    ) -> Result<Issued, PkiError> {
        let _alone = issued::lock(&self.folder)?;
        self.make(identity, hosts, days, KeyPair::generate()?, None)
    }

    /// Issues another certificate for who has one, such as `node/qidong`, with the same hosts unless others
    /// are given, and with a new key unless the `same_key` is kept. The old certificate stays good until its
    /// end.
    ///
    /// # Errors
    /// [`PkiError::NothingToRenew`], [`PkiError::Revoked`], and as for [`Authority::issue`].
    pub fn renew(&self, role: &Role, renewal: &Renewal) -> Result<Issued, PkiError> {
        let _alone = issued::lock(&self.folder)?;
        let files = self.files(role);
        let nothing = || PkiError::NothingToRenew(role.to_string());
        if !files.certificate.exists() {
            return Err(nothing());
        }
        let shown = Shown::read(&files.certificate, None, None)?;
        let identity = shown.identity.clone().filter(|found| found.role == *role);
        let entries = issued::read(&self.folder)?;
        let before = entries.iter().find(|entry| entry.serial == shown.serial);
        if before.is_some_and(|entry| entry.revoked.is_some()) {
            return Err(PkiError::Revoked(role.to_string()));
        }
        let hosts = match renewal.hosts.as_slice() {
            [] => &shown.hosts,
            hosts => hosts,
        };
        let key = if renewal.same_key {
            owner_only(&files.key)?;
            let text = fs::read_to_string(&files.key).map_err(file(&files.key))?;
            KeyPair::from_pem(&text)?
        } else {
            KeyPair::generate()?
        };
        let identity = identity.ok_or_else(nothing)?;
        self.make(&identity, hosts, renewal.days, key, Some(shown.serial))
    }

    /// Where the files of a holder are.
    fn files(&self, role: &Role) -> Issued {
        self.files_of(&role.to_string().replace('/', "-"))
    }

    fn files_of(&self, stem: &str) -> Issued {
        Issued {
            certificate: self.folder.join(format!("{stem}.pem")),
            key: self.folder.join(format!("{stem}.key")),
            root: self.folder.join("ca.pem"),
        }
    }

    /// Records and signs a certificate. The caller holds the lock.
    fn make(
        &self,
        identity: &Identity,
        hosts: &[String],
        days: u32,
        key: KeyPair,
        renews: Option<String>,
    ) -> Result<Issued, PkiError> {
        if days > MAX_DAYS {
            return Err(PkiError::BadDays(days));
        }
        let (serial, now) = (issued::serial()?, SystemClock.now());
        let mut params = leaf(identity, hosts, days)?;
        params.serial_number = Some(SerialNumber::from(serial.to_vec()));
        let life = Duration::from_secs(86_400 * u64::from(days));
        // Recorded before it exists: what is good can always be revoked.
        let mut entries = issued::read(&self.folder)?;
        entries.push(Entry {
            serial: HEXLOWER.encode(&serial),
            identity: identity.role.to_string(),
            issued: now,
            ends: now.checked_add(life).unwrap_or(jiff::Timestamp::MAX),
            revoked: None,
            reason: None,
            renews,
        });
        issued::keep(&self.folder, &entries)?;
        self.sign_with(self.files(&identity.role), &params, &key)
    }

    /// Everything that it has issued, oldest first.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn issued(&self) -> Result<Vec<Entry>, PkiError> {
        issued::read(&self.folder)
    }

    /// Revokes a certificate by its serial number, or all those of an identity such as
    /// `agency/qidong-emergency`, and writes the revocation list anew.
    ///
    /// # Errors
    /// [`PkiError::NothingToRevoke`], [`PkiError::File`].
    pub fn revoke(&self, which: &str, reason: &str) -> Result<Vec<Entry>, PkiError> {
        let _alone = issued::lock(&self.folder)?;
        let mut entries = issued::read(&self.folder)?;
        let revoked = issued::revoke(&mut entries, which, reason)?;
        issued::keep(&self.folder, &entries)?;
        issued::write_list(&self.folder, &self.issuer, &entries)?;
        Ok(revoked)
    }

    /// Writes the revocation list anew, with a later date.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn renew_list(&self) -> Result<(), PkiError> {
        let _alone = issued::lock(&self.folder)?;
        issued::write_list(&self.folder, &self.issuer, &issued::read(&self.folder)?)
    }

    /// Signs `params` and writes `<stem>.pem` and `<stem>.key`, for what is odd on purpose.
    #[cfg(test)]
    pub(super) fn sign(&self, stem: &str, params: &CertificateParams) -> Result<Issued, PkiError> {
        self.sign_with(self.files_of(stem), params, &KeyPair::generate()?)
    }

    fn sign_with(
        &self,
        files: Issued,
        params: &CertificateParams,
        key: &KeyPair,
    ) -> Result<Issued, PkiError> {
        let certificate = params.signed_by(key, &self.issuer)?;
        write(&files.key, &key.serialize_pem(), durable::Access::Owner)?;
        write(
            &files.certificate,
            &certificate.pem(),
            durable::Access::Everyone,
        )?;
        Ok(files)
    }
}

/// What a certificate says: the identity as its one URI, the hosts, and what it is for.
pub(super) fn leaf(
    identity: &Identity,
    hosts: &[String],
    days: u32,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(&identity.role.to_string(), days);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if matches!(identity.role, Role::Node(_)) {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    let uri = Ia5String::try_from(identity.to_string())?;
    params.subject_alt_names.push(SanType::URI(uri));
    for host in hosts {
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if DnsName::try_from(host.as_str()).is_err() => {
                return Err(PkiError::BadHost(host.clone()));
            }
            Err(_) => SanType::DnsName(Ia5String::try_from(host.as_str())?),
        };
        params.subject_alt_names.push(name);
    }
    Ok(params)
}

fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // An hour back, so that a peer whose clock is a little behind accepts it at once.
    let now = std::time::UNIX_EPOCH + since_epoch(SystemClock.now());
    params.not_before = (now - Duration::from_secs(3_600)).into();
    params.not_after = (now + Duration::from_secs(86_400 * u64::from(days))).into();
    params
}

fn since_epoch(now: jiff::Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0))
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |cause| PkiError::File { path, cause }
}

fn write(path: &Path, pem: &str, access: durable::Access) -> Result<(), PkiError> {
    durable::replace(path, pem.as_bytes(), access).map_err(file(path))
}
