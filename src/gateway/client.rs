//! Dialling a node: TLS 1.3, and the certificate must be that of the node that was meant.

use std::{future, io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream, sync::watch};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{
    accept::passed,
    cut::Cut,
    explain,
    identity::{Holder, end, holder},
    keys::{InForce, Keys},
    tls::{Credentials, TlsError},
};
use crate::types::{NodeId, TrustDomain};

/// A connection attempt ends after this.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a node cannot be dialled. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not one.
    #[error("{0}: a server is https://host:port")]
    BadAddress(String),
    /// The own certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server was not reached, or is not who it should be.
    #[error("cannot reach {server}: {cause}")]
    Connect {
        /// Which.
        server: String,
        /// Why.
        cause: String,
    },
}

/// The files that a client shows and trusts.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// Certificate, PEM.
    pub certificate: PathBuf,
    /// Key, PEM, readable by its owner only.
    pub key: PathBuf,
    /// Roots, PEM.
    pub roots: Vec<PathBuf>,
}

/// Dials nodes.
#[derive(Clone)]
pub struct Dialer {
    keys: Keys,
}

impl Dialer {
    /// A dialer that shows what is in force when it dials. A connection is cut, and dialled again, when the
    /// server's certificate has ended or is no longer trusted.
    #[must_use]
    pub fn new(keys: Keys) -> Self {
        Self { keys }
    }

    /// A dialer that shows the credentials in these files.
    ///
    /// # Errors
    /// [`DialError::Tls`].
    pub fn from_files(files: &ClientFiles) -> Result<Self, DialError> {
        let credentials = Credentials::load(&files.certificate, &files.key, &files.roots)?;
        Ok(Self::new(Keys::new(credentials)?))
    }

    /// Connects to `server`, and again whenever the connection is lost. With `expected`, the server's
    /// certificate must name that node of that trust domain.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn connect(
        &self,
        server: &str,
        expected: Option<(TrustDomain, NodeId)>,
    ) -> Result<Channel, DialError> {
        let endpoint = endpoint(server)?;
        let connector = self.connector(server, expected)?;
        let connecting = endpoint.connect_with_connector(service_fn(move |_| connector.dial()));
        connecting.await.map_err(|error| DialError::Connect {
            server: server.to_owned(),
            cause: explain::cause(&error),
        })
    }

    fn connector(
        &self,
        server: &str,
        expected: Option<(TrustDomain, NodeId)>,
    ) -> Result<Connector, DialError> {
        let bad = || DialError::BadAddress(server.to_owned());
        let uri: http::Uri = server.parse().map_err(|_| bad())?;
        let host = uri
            .host()
            .ok_or_else(bad)?
            .trim_matches(['[', ']'])
            .to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        Ok(Connector {
            keys: self.keys.clone(),
            name,
            host,
            port,
            expected,
        })
    }
}

fn endpoint(server: &str) -> Result<Endpoint, DialError> {
    // The connector does TLS itself, so the channel is told of plain HTTP/2.
    let plain = server
        .strip_prefix("https://")
        .map(|rest| format!("http://{rest}"))
        .ok_or_else(|| DialError::BadAddress(server.to_owned()))?;
    let endpoint =
        Endpoint::from_shared(plain).map_err(|_| DialError::BadAddress(server.to_owned()))?;
    Ok(endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22))
}

#[derive(Clone)]
struct Connector {
    keys: Keys,
    name: ServerName<'static>,
    host: String,
    port: u16,
    expected: Option<(TrustDomain, NodeId)>,
}

type Stream = TokioIo<Cut<TlsStream<TcpStream>>>;

impl Connector {
    fn dial(&self) -> impl Future<Output = io::Result<Stream>> + Send + use<> {
        let connector = self.clone();
        async move {
            let tcp = TcpStream::connect((connector.host.as_str(), connector.port)).await?;
            tcp.set_nodelay(true)?;
            // Seen before the handshake: a change during it is judged after.
            let mut changes = connector.keys.changes();
            let client = changes.borrow_and_update().client.clone();
            let tls = TlsConnector::from(client);
            let mut stream = tls.connect(connector.name.clone(), tcp).await?;
            connector.check_node(&stream)?;
            // In TLS 1.3 a client is done before the server has judged its certificate. A node speaks
            // first, so waiting for its first bytes brings a refusal here, where it can be told.
            if stream.fill_buf().await?.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain: Vec<_> = chain.iter().cloned().map(|c| c.into_owned()).collect();
            let closing = connector.distrusted(chain, changes);
            Ok(TokioIo::new(Cut::new(stream, closing)))
        }
    }

    /// Ends when the server with that chain is no longer to be trusted.
    async fn distrusted(
        self,
        chain: Vec<CertificateDer<'static>>,
        mut changes: watch::Receiver<Arc<InForce>>,
    ) {
        let judged = async {
            while changes.changed().await.is_ok() {
                let now = changes.borrow_and_update().clone();
                if let Err(why) = now.judge_server(&chain, &self.name) {
                    return why.to_string();
                }
            }
            // Nobody can change the keys any more.
            future::pending().await
        };
        let why = tokio::select! {
            why = judged => why,
            () = passed(chain.first().and_then(end)) => "its certificate has ended".to_owned(),
        };
        tracing::warn!(
            server = self.host,
            why,
            "a connection to a server is no longer trusted and ends"
        );
    }

    /// Whether the server is the node that was meant. Its chain and its name are verified already.
    fn check_node(&self, stream: &TlsStream<TcpStream>) -> io::Result<()> {
        let Some((domain, node)) = &self.expected else {
            return Ok(());
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let found = chain.first().map(|first| holder(first, domain));
        let text = match found {
            Some(Ok(Holder { identity, .. })) if identity.node() == Some(node) => return Ok(()),
            Some(Ok(Holder { identity, .. })) => {
                format!("the server is {}, not node/{node}", identity.role)
            }
            Some(Err(why)) => format!("the server is not node/{node}: {why}"),
            None => format!("the server is not node/{node}: it showed no certificate"),
        };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }
}
