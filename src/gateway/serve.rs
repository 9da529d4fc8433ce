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
/// Resets that a connection may provoke before it is closed (CVE-2025-8671, MadeYouReset). tonic's default is no
/// limit.
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
    /// A connection that nothing is called on is closed after this long.
    pub idle: Duration,
    /// The age at which a connection is told to end: it takes no further call, watches and replication streams
    /// end with a status to resume after, other calls may finish.
    pub age: Duration,
    /// How long they may take to, before the connection is closed.
    pub grace: Duration,
    /// An answer of which nothing is read for so long loses its place; after twice as long, its connection.
    pub stall: Duration,
    /// How long a request may take to come, and a second more for every 16 KiB of it.
    pub message: Duration,
    /// How long a list may pause between two messages.
    pub quiet: Duration,
    /// How often a silent peer is asked whether it is alive.
    pub keepalive: Duration,
    /// How long it may take to answer.
    pub alive: Duration,
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
            idle: Duration::from_secs(15 * 60),
            age: Duration::from_secs(60 * 60),
            grace: Duration::from_secs(10 * 60),
            stall: Duration::from_secs(60),
            message: Duration::from_secs(30),
            quiet: Duration::from_secs(10 * 60),
            keepalive: Duration::from_secs(30),
            alive: Duration::from_secs(10),
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
    let watch = Some((gate.trail.clone(), gate.quotas.clone()));
    let meters = gate.meters.clone();
    let accepted = accept(
        listener,
        connections,
        domain,
        limits,
        closing,
        watch,
        meters,
    );
    let serving = Server::builder()
        .layer(Stack::new(limits.calls, gate, stopping.clone()))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(limits.keepalive))
        .http2_keepalive_timeout(Some(limits.alive))
        // It says GOAWAY and no more: `line` ends what lasts.
        .max_connection_age(limits.age)
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
