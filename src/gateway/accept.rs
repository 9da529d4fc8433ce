//! The loop that accepts connections, and what bounds each of them.

use std::{
    collections::HashMap,
    future, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
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
    connections::{CLOSE, Connections, Entered, Standing},
    cut::Cut,
    identity::{Holder, IdentityError, holder},
    line::Line,
    meter::{Failure, Meters},
    serve::Limits,
};
use crate::{
    audit::Trail,
    proto::audit::v1::AuditRecord,
    services::quota::{Held, Quotas},
    types::{Limit, Peer, TrustDomain},
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
    /// Whether its connection is still entitled.
    pub standing: Standing,
    /// What its calls and its watchdog know of it.
    pub line: Arc<Line>,
}

/// A connection whose certificate is verified. It closes when it is no longer entitled, and when serving
/// ends.
pub struct Connection {
    stream: Cut<TlsStream<TcpStream>>,
    counterpart: Counterpart,
    _entered: Entered,
    _place: Place,
    _held: Option<Held>,
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
    connections: Arc<Connections>,
    limits: Limits,
    domain: Arc<TrustDomain>,
    closing: CancellationToken,
    watch: Option<(Trail, Quotas)>,
    meters: Meters,
    ready: mpsc::Sender<io::Result<Connection>>,
}

/// Accepts connections until the receiver is dropped: handshakes run beside each other, and a peer
/// that is slow, unknown or hostile costs only itself. `closing` closes every connection; handshakes
/// that fail are recorded in the trail, and connections counted against quotas, where there are such. Connections are judged again when the keys change.
pub fn accept(
    listener: TcpListener,
    connections: Arc<Connections>,
    domain: TrustDomain,
    limits: Limits,
    closing: CancellationToken,
    watch: Option<(Trail, Quotas)>,
    meters: Meters,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, accepted) = mpsc::channel(64);
    let handshakes = Handshakes {
        connections: connections.clone(),
        limits,
        domain: Arc::new(domain),
        closing,
        watch,
        meters,
        ready,
    };
    tokio::spawn(async move {
        let ready = handshakes.ready.clone();
        tokio::select! {
            () = accept_all(listener, limits, handshakes) => {}
            () = connections.watch() => {}
            () = ready.closed() => {}
        }
    });
    accepted
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
            handshakes.meters.refused();
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
                tracing::info!(%address, %why, "connection refused");
                self.meters.handshake_failed(&why);
                if let Some((trail, _)) = &self.watch {
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
    ) -> Result<Connection, Failure> {
        tcp.set_nodelay(true)?;
        let in_force = self.connections.keys().current();
        let acceptor = TlsAcceptor::from(in_force.server.clone());
        let stream = timeout(self.limits.handshake, acceptor.accept(tcp)).await;
        let stream = stream.map_err(|_| Failure::TimedOut)??;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().cloned().map(|c| c.into_owned()).collect();
        let first = chain.first();
        let first = first.ok_or(Failure::Certificate(rustls::Error::NoCertificatesPresented))?;
        let holder = holder(first, &self.domain);
        let end = holder.as_ref().ok().map(|h| h.end);
        let who = holder.as_ref().map(|holder| {
            self.connections.saw(&holder.identity.role, holder.end);
            holder.identity.to_string()
        });
        let held = match (&self.watch, &holder) {
            (Some((_, quotas)), Ok(holder)) => {
                let meter = quotas.meter(&holder.identity);
                meter.touch();
                let held = meter.hold(Limit::Connections);
                Some(held.map_err(|refusal| Failure::Share(refusal.en))?)
            }
            _ => None,
        };
        let entered = self
            .connections
            .enter(chain, who.unwrap_or_default(), &in_force)
            .map_err(Failure::Certificate)?;
        let peer = holder.map(|Holder { identity, end }| Peer {
            identity,
            address,
            certificate_end: end,
        });
        if let Err(why) = &peer {
            tracing::info!(%address, %why, "a certificate without an identity");
        }
        let standing = entered.standing.clone();
        let line = Line::new(self.limits);
        let closing = closing(self.closing.clone(), standing.clone(), end, line.clone());
        Ok(Connection {
            stream: Cut::new(stream, closing),
            counterpart: Counterpart {
                peer,
                address,
                standing,
                line,
            },
            _entered: entered,
            _place: place,
            _held: held,
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

/// Ends when the connection must: at the end of serving, [`CLOSE`] after it is no longer entitled, or when it
/// is old, idle or not read.
async fn closing(
    serving: CancellationToken,
    standing: Standing,
    end: Option<Timestamp>,
    line: Arc<Line>,
) {
    let over = async {
        tokio::select! {
            () = standing.clone().over() => {}
            () = passed(end) => standing.end(),
        }
        sleep(CLOSE).await;
    };
    tokio::select! {
        () = serving.cancelled() => {}
        () = over => {}
        why = line.watch() => tracing::debug!(why, "connection closed"),
    }
}

/// Ends with a certificate.
pub(super) async fn passed(end: Option<Timestamp>) {
    match end.map(|end| Duration::try_from(end.duration_since(Timestamp::now()))) {
        Some(Ok(left)) => sleep(left).await,
        Some(Err(_past)) => {}
        None => future::pending().await,
    }
}
