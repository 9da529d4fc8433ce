//! What is measured of calls and connections, as their peers see them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use rustls::Error as Tls;
use tonic::Code;

use crate::metrics::{Counters, Gauges, Labels, Metrics, Seconds};

/// The families of the gateway.
#[derive(Clone)]
pub struct Meters {
    calls: Counters,
    durations: Seconds,
    in_flight: Gauges,
    refusals: Counters,
    handshakes: Counters,
    refused: Counters,
}

impl Meters {
    /// Those of a node.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let meters = Self {
            calls: metrics.counters("calls", "Calls that have ended, by method and gRPC code"),
            durations: metrics.seconds(
                "call_duration",
                "How long calls took, watches, replication and reflection aside, by method",
            ),
            in_flight: metrics.gauges(
                "calls_in_flight",
                "Calls under way, those that last among them",
            ),
            refusals: metrics.counters("refusals", "Calls that were refused, by reason"),
            handshakes: metrics.counters(
                "handshake_failures",
                "Handshakes that came to no connection, by reason",
            ),
            refused: metrics.counters(
                "connections_refused",
                "Connections that were closed because their address had its share",
            ),
        };
        // There from the start, so that their growth is seen.
        for reason in HANDSHAKES {
            let _ = meters
                .handshakes
                .get_or_create(&vec![("reason", (*reason).to_owned())]);
        }
        let _ = meters.in_flight.get_or_create(&Labels::new());
        let _ = meters.refused.get_or_create(&Labels::new());
        meters
    }

    /// A call has begun. `method` is one that exists, or a word for all others.
    pub(super) fn begin(&self, method: &str, lasts: bool) -> Meter {
        self.in_flight.get_or_create(&Labels::new()).inc();
        Meter {
            meters: self.clone(),
            method: method.to_owned(),
            lasts,
            begun: Instant::now(),
            ended: AtomicBool::new(false),
        }
    }

    /// A handshake came to nothing.
    pub(super) fn handshake_failed(&self, why: &Failure) {
        let labels = vec![("reason", why.reason().to_owned())];
        self.handshakes.get_or_create(&labels).inc();
    }

    /// A connection was closed because its address had its share.
    pub(super) fn refused(&self) {
        self.refused.get_or_create(&Labels::new()).inc();
    }
}

/// One call; what becomes of it counts once.
pub(super) struct Meter {
    meters: Meters,
    method: String,
    lasts: bool,
    begun: Instant,
    ended: AtomicBool,
}

impl Meter {
    /// It has ended, with a reason where it was refused. The first time counts.
    pub(super) fn end(&self, code: Code, reason: &'static str) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let Meters {
            calls,
            durations,
            refusals,
            ..
        } = &self.meters;
        let method = || ("method", self.method.clone());
        calls
            .get_or_create(&vec![method(), ("code", name(code).to_owned())])
            .inc();
        if !self.lasts {
            let taken = self.begun.elapsed().as_secs_f64();
            durations.get_or_create(&vec![method()]).observe(taken);
        }
        if !reason.is_empty() {
            refusals
                .get_or_create(&vec![("reason", reason.to_owned())])
                .inc();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.meters.in_flight.get_or_create(&Labels::new()).dec();
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The peer was too slow.
    #[error("handshake timed out")]
    TimedOut,
    /// The peer's certificate is not entitled.
    #[error("{0}")]
    Certificate(Tls),
    /// The identity has as many connections as it may.
    #[error("{0}")]
    Share(String),
    /// Anything else: no TLS, or a peer that is gone.
    #[error("{0}")]
    Broken(String),
}

/// The words for them.
const HANDSHAKES: &[&str] = &["timeout", "certificate", "share", "broken"];

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::TimedOut => "timeout",
            Self::Certificate(_) => "certificate",
            Self::Share(_) => "share",
            Self::Broken(_) => "broken",
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Tls>());
        match tls {
            Some(tls @ (Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented)) => {
                Self::Certificate(tls.clone())
            }
            _ => Self::Broken(error.to_string()),
        }
    }
}

/// As gRPC spells it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
