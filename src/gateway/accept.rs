//! The loop that accepts connections, and what bounds each of them.

use std::{
    collections::HashMap,
    future::{self, Future},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use super::{
    identity::{Holder, IdentityError, holder},
    serve::Limits,
};
use crate::{
    audit::Trail,
    proto::audit::v1::AuditRecord,
    types::{Peer, TrustDomain},
};

/// The wait after a failed accept: out of file descriptors, most likely, so the next fails as fast.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Who is at the other end of a verified connection, or why its certificate names nobody here. Such
/// a peer is let in as far as the gate, which tells it so: a closed connection tells nothing.
#[derive(Debug, Clone)]
pub struct Counterpart {
    /// The peer, as its certificate and its socket tell.
    pub peer: Result<Peer, IdentityError>,
    /// From where.
    pub address: SocketAddr,
}

/// A connection whose certificate is verified. It closes when its certificate ends, and when
/// serving ends.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    counterpart: Counterpart,
    /// None once it has come.
    closing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Counterpart;

    fn connect_info(&self) -> Counterpart {
        self.counterpart.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self
            .closing
            .as_mut()
            .is_none_or(|closing| closing.as_mut().poll(cx).is_ready())
        {
            self.closing = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// One place among the connections; given back when dropped.
struct Place {
    _total: OwnedSemaphorePermit,
    address: IpAddr,
    taken: Arc<Taken>,
}

/// How many connections each address has.
type Taken = Mutex<HashMap<IpAddr, usize>>;

impl Place {
    /// A place for the address, unless it has its share already.
    fn take(
        total: OwnedSemaphorePermit,
        address: IpAddr,
        taken: &Arc<Taken>,
        share: usize,
    ) -> Option<Self> {
        let mut counts = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= share {
            return None;
        }
        *count += 1;
        let taken = taken.clone();
        Some(Self {
            _total: total,
            address,
            taken,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What every handshake needs.
#[derive(Clone)]
struct Handshakes {
    acceptor: TlsAcceptor,
    patience: Duration,
    domain: Arc<TrustDomain>,
    closing: CancellationToken,
    trail: Option<Trail>,
    ready: mpsc::Sender<io::Result<Connection>>,
}

/// Accepts connections until the receiver is dropped: handshakes run beside each other, and a peer
/// that is slow, unknown or hostile costs only itself. `closing` closes every connection; handshakes
/// that fail are recorded in `trail`.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    domain: TrustDomain,
    limits: Limits,
    closing: CancellationToken,
    trail: Option<Trail>,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(64);
    let (acceptor, domain) = (TlsAcceptor::from(config), Arc::new(domain));
    let patience = limits.handshake;
    let handshakes = Handshakes {
        acceptor,
        patience,
        domain,
        closing,
        trail,
        ready,
    };
    tokio::spawn(async move {
        let ready = handshakes.ready.clone();
        tokio::select! {
            () = accept_all(listener, limits, handshakes) => {}
            () = ready.closed() => {}
        }
    });
    connections
}

async fn accept_all(listener: TcpListener, limits: Limits, handshakes: Handshakes) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let taken = Arc::new(Taken::default());
    // Past the limit, further connections wait in the listener's queue. Nobody closes the semaphore.
    while let Ok(permit) = places.clone().acquire_owned().await {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let share = limits.connections_per_address;
        let Some(place) = Place::take(permit, address.ip(), &taken, share) else {
            tracing::info!(%address, share, "connection refused: this address has its share");
            continue;
        };
        tokio::spawn(handshakes.clone().shake(tcp, address, place));
    }
}

impl Handshakes {
    async fn shake(self, tcp: TcpStream, address: SocketAddr, place: Place) {
        match self.connection(tcp, address, place).await {
            // The receiver is gone when serving ends: then the connection goes too.
            Ok(connection) => drop(self.ready.send(Ok(connection)).await),
            Err(why) => {
                tracing::info!(%address, why, "connection refused");
                if let Some(trail) = &self.trail {
                    // A trail that fails stops the node by itself.
                    let _ = trail.write(refused(address));
                }
            }
        }
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        let stream = timeout(self.patience, self.acceptor.accept(tcp)).await;
        let stream = stream
            .map_err(|_| "handshake timed out")?
            .map_err(|e| e.to_string())?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let first = chain.first().ok_or("no client certificate")?;
        let holder = holder(first, &self.domain);
        let closing = closing(self.closing.clone(), holder.as_ref().ok().map(|h| h.end));
        let peer = holder.map(|Holder { identity, end }| Peer {
            identity,
            address,
            certificate_end: end,
        });
        if let Err(why) = &peer {
            tracing::info!(%address, %why, "a certificate without an identity");
        }
        let counterpart = Counterpart { peer, address };
        Ok(Connection {
            stream,
            counterpart,
            closing: Some(Box::pin(closing)),
            _place: place,
        })
    }
}

/// A handshake that failed, in the trail: why stands in the log only, for its text may be the peer's.
fn refused(address: SocketAddr) -> AuditRecord {
    AuditRecord {
        address: address.to_string(),
        code: tonic::Code::Unauthenticated.into(),
        reason: "HANDSHAKE_REFUSED".to_owned(),
        ..AuditRecord::default()
    }
}

/// Ends when the connection must: at the end of serving, or of its certificate.
async fn closing(serving: CancellationToken, end: Option<Timestamp>) {
    let ended = async {
        match end.map(|end| Duration::try_from(end.duration_since(Timestamp::now()))) {
            Some(Ok(left)) => sleep(left).await,
            Some(Err(_past)) => {}
            None => future::pending().await,
        }
    };
    tokio::select! {
        () = serving.cancelled() => {}
        () = ended => {}
    }
}
