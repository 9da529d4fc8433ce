//! Who is at the other end of a connection.

use std::net::SocketAddr;

use jiff::Timestamp;

use super::Identity;

/// The peer of a call, as its certificate and its socket tell. The gateway puts it into every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From the certificate's SPIFFE ID.
    pub identity: Identity,
    /// From the socket.
    pub address: SocketAddr,
    /// When its certificate ends.
    pub certificate_end: Timestamp,
}
