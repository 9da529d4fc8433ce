//! Serving: the listener, TLS, the layers and the routes, until told to stop.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};

use super::{
    accept::accept,
    connections::Connections,
    stack::{Gate, Stack},
};
use crate::types::TrustDomain;

/// Calls at once on one connection. Without it a single peer could open as many as it likes.
const MAX_STREAMS: u32 = 256;
/// Resets that a connection may provoke before it is closed (CVE-2025-8671).
const MAX_RESETS: usize = 1_024;
/// Bytes of headers in one call.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// How much is served at once, and how long stopping takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, handshakes among them; further ones wait in the listener's queue.
    pub connections: usize,
    /// Connections at once from one address; further ones are closed.
    pub connections_per_address: usize,
    /// A peer that has not finished its handshake by then is dropped.
    pub handshake: Duration,
    /// Calls at once over all connections, watches and replication streams among them, health not;
    /// further ones are refused.
    pub calls: usize,
    /// How long calls under way may take to finish once serving is told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: 256,
            handshake: Duration::from_secs(10),
            calls: 4_096,
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` ends. Then no connection and no call is taken any more, watches and
/// replication streams end at once, other calls may finish for at most [`Limits::drain`], and every
/// connection is closed. Dropping the future closes them at once.
///
/// # Errors
/// Where HTTP/2 cannot be set up.
pub async fn serve(
    listener: TcpListener,
    connections: Arc<Connections>,
    domain: TrustDomain,
    gate: Gate,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
    limits: Limits,
) -> io::Result<()> {
    let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
    let _closes = (stopping.clone().drop_guard(), closing.clone().drop_guard());
    let trail = Some(gate.trail.clone());
    let meters = gate.meters.clone();
    let accepted = accept(
        listener,
        connections,
        domain,
        limits,
        closing,
        trail,
        meters,
    );
    let serving = Server::builder()
        .layer(Stack::new(limits.calls, gate, stopping.clone()))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(accepted),
            stopping.clone().cancelled_owned(),
        );
    let stop = async {
        shutdown.await;
        stopping.cancel();
        tokio::time::sleep(limits.drain).await;
    };
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = stop => Ok(()),
    }
}
