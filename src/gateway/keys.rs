//! The credentials in force: what is shown to peers, and what peers are judged by. They are replaced as a
//! whole; whoever holds a connection judges it again then.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use tokio::sync::watch;

use super::tls::{Credentials, TlsError, provider};

/// One set of credentials, and what follows from it.
#[derive(Debug)]
pub struct InForce {
    credentials: Credentials,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl InForce {
    /// Both sides of TLS 1.3 with HTTP/2: a server that wants a certificate from one of the roots, a client
    /// that shows its own.
    ///
    /// # Errors
    /// [`TlsError::Setup`] where key and certificate do not fit, or the roots or lists are unusable.
    pub fn new(credentials: Credentials) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in &credentials.roots {
            roots.add(root.clone()).map_err(setup)?;
        }
        let roots = Arc::new(roots);
        // An authority without a list revokes nothing; a list past its date is honoured all the same.
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .with_crls(credentials.crls.clone())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(setup)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .with_crls(credentials.crls.clone())
            .allow_unknown_revocation_status()
            .only_check_end_entity_revocation()
            .build()
            .map_err(setup)?;
        // Sessions that can be resumed live with their configuration: none outlives what judged it.
        Ok(Self {
            server: Arc::new(server(&credentials, clients.clone())?),
            client: Arc::new(client(&credentials, servers.clone())?),
            credentials,
            clients,
            servers,
        })
    }

    /// What it was made from.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Whether a client with that chain may connect now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judge_client(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (first, rest) = split(chain)?;
        let verified = self
            .clients
            .verify_client_cert(first, rest, UnixTime::now());
        verified.map(|_| ())
    }

    /// Whether a server with that chain and name may be dialled now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn judge_server(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        let (first, rest) = split(chain)?;
        let verified = self
            .servers
            .verify_server_cert(first, rest, name, &[], UnixTime::now());
        verified.map(|_| ())
    }
}

fn split<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), rustls::Error> {
    chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn server(
    credentials: &Credentials,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(clients)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(setup)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client(
    credentials: &Credentials,
    servers: Arc<WebPkiServerVerifier>,
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_webpki_verifier(servers)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .map_err(setup)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every connection judges the server's certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The credentials in force, for all that need them.
#[derive(Debug, Clone)]
pub struct Keys(Arc<watch::Sender<Arc<InForce>>>);

impl Keys {
    /// These, until others take their place.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn new(credentials: Credentials) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(watch::Sender::new(Arc::new(InForce::new(
            credentials,
        )?)))))
    }

    /// Those of now.
    #[must_use]
    pub fn current(&self) -> Arc<InForce> {
        self.0.borrow().clone()
    }

    /// Puts others in their place: handshakes from now on use them, and standing connections are judged by
    /// them.
    pub fn replace(&self, new: InForce) {
        self.0.send_replace(Arc::new(new));
    }

    pub(super) fn changes(&self) -> watch::Receiver<Arc<InForce>> {
        self.0.subscribe()
    }
}
