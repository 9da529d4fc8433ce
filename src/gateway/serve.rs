//! Serving: the listener, TLS, the layers and the routes, until told to stop.

use std::{future::Future, io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server};

use super::{stack::Stack, tls};
use crate::types::TrustDomain;

/// Calls at once over all connections, watches and replication streams among them.
const MAX_CALLS: usize = 4_096;
/// Calls at once on one connection. Without it a single peer could open as many as it likes.
const MAX_STREAMS: u32 = 256;
/// Resets that a connection may provoke before it is closed (CVE-2025-8671).
const MAX_RESETS: usize = 1_024;
/// Bytes of headers in one call.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Serves until `shutdown` ends, then lets calls under way finish for at most `drain`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    domain: TrustDomain,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send,
    drain: Duration,
) -> io::Result<()> {
    let connections = tls::accept(listener, Arc::new(config), domain);
    let mut server = Server::builder()
        .layer(Stack::new(MAX_CALLS))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_RESETS))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22);
    let (stop, mut stopped) = tokio::sync::watch::channel(());
    let mut draining = stop.subscribe();
    let serving = server.add_routes(routes).serve_with_incoming_shutdown(
        ReceiverStream::new(connections),
        async move {
            let _ = draining.changed().await;
        },
    );
    let bound = async move {
        let _ = stopped.changed().await;
        tokio::time::sleep(drain).await;
    };
    let told = async move {
        shutdown.await;
        stop.send_replace(());
        // Held until the end, so that both receivers see the change and not a closed channel.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = bound => Ok(()),
        () = told => Ok(()),
    }
}
