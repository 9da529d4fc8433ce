//! What went wrong with a connection, in words that a person can act on.

use std::{error::Error, io};

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// The cause at the bottom of a chain of errors, and what to do about it.
#[must_use]
pub fn cause(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    loop {
        if let Some(io) = at.downcast_ref::<io::Error>() {
            return explain_io(io);
        }
        match at.source() {
            Some(source) => at = source,
            None => return at.to_string(),
        }
    }
}

fn explain_io(error: &io::Error) -> String {
    // What an io::Error wraps is not among its sources.
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>());
    match (tls, error.kind()) {
        (Some(tls), _) => explain_tls(tls),
        (None, io::ErrorKind::ConnectionRefused) => {
            "connection refused: nothing listens there".to_owned()
        }
        (None, io::ErrorKind::TimedOut) => {
            "no answer in time: check the address and the firewalls".to_owned()
        }
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "the server closed the connection: it may be full, or no hefu node".to_owned()
        }
        (None, _) => error.to_string(),
    }
}

fn explain_tls(error: &Tls) -> String {
    use CertificateError as C;
    match error {
        Tls::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "the server's certificate has expired".to_owned()
        }
        Tls::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet: compare the clocks".to_owned()
        }
        Tls::InvalidCertificate(C::Revoked) => "the server's certificate is revoked".to_owned(),
        Tls::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            "the server's certificate was not issued by one of our roots".to_owned()
        }
        Tls::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the server's certificate is not for this host name or address".to_owned()
        }
        Tls::InvalidCertificate(C::InvalidPurpose | C::InvalidPurposeContext { .. }) => {
            "the server's certificate is not one of a server".to_owned()
        }
        Tls::AlertReceived(alert) => explain_alert(*alert),
        Tls::InvalidMessage(_) => "the server does not speak TLS there".to_owned(),
        other => other.to_string(),
    }
}

/// What the server held against us.
fn explain_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let why = match alert {
        A::CertificateRequired => "it wants a certificate of ours and got none",
        A::CertificateExpired => "it has expired",
        A::CertificateRevoked => "it is revoked",
        A::UnknownCA | A::DecryptError => "it was not issued by one of the server's roots",
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown => "it is not usable",
        A::NoApplicationProtocol => return "the server does not speak HTTP/2 there".to_owned(),
        other => return format!("the server refused the connection: {other:?}"),
    };
    format!("the server refused our certificate: {why}")
}
