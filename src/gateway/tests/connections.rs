//! Who gets a connection, and what the others are told.

use std::{io, os::unix::fs::PermissionsExt, sync::Arc};

use rcgen::{SanType, string::Ia5String};
use rustls::{ClientConfig, version::TLS13};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::*;
use crate::{
    gateway::{
        client::ClientFiles,
        keys::InForce,
        pki::PkiError,
        tls::{TlsError, provider},
    },
    proto::{error::v1::ErrorReason, risk::v1::risk_service_client::RiskServiceClient},
    services::status::{Decoded, decode},
};

async fn health_status(channel: Channel) -> tonic::Status {
    let request = HealthCheckRequest::default();
    HealthClient::new(channel).check(request).await.unwrap_err()
}

async fn health(channel: Channel) -> Result<(), Decoded> {
    let checked = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await;
    checked.map(|_| ()).map_err(|status| decode(&status))
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_enough() {
    let gateway = Gateway::start().await;
    for role in ["agency/qidong-emergency", "node/qidong", "admin/operator"] {
        let channel = gateway.channel(role).await;
        assert_eq!(health(channel).await, Ok(()), "{role}");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so() {
    let gateway = Gateway::start().await;
    let ours = credentials(&gateway.pki.issue("admin/operator"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ours.roots[0].clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut bare = InForce::new(credentials(&gateway.pki.issue("admin/operator"))).unwrap();
    bare.client = Arc::new(config);
    let keys = Keys::new(ours).unwrap();
    keys.replace(bare);
    let error = Dialer::new(keys)
        .connect(&gateway.url(), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("wants a certificate"), "{error}");
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (gateway, foreign) = (Gateway::start().await, Pki::new());
    let stranger = foreign.issue("admin/operator");
    let error = gateway.refusal(&stranger).await;
    assert_eq!(
        error,
        "the server's certificate was not issued by one of our roots"
    );

    let dialer = Dialer::new(Keys::new(trusting(&stranger, &gateway.pki)).unwrap());
    let error = dialer
        .connect(&gateway.url(), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("it was not issued by one of the server's roots"),
        "{error}"
    );
}

#[tokio::test]
async fn what_has_ended_is_refused_on_both_sides() {
    let gateway = Gateway::start().await;
    let ended = |params: &mut rcgen::CertificateParams| {
        params.not_after = params.not_before + std::time::Duration::from_secs(60);
    };
    let client = gateway.pki.odd("admin/operator", ended);
    let error = gateway.refusal(&client).await;
    assert_eq!(error, "the server refused our certificate: it has expired");

    let pki = Pki::new();
    let server = pki.odd("node/nantong", ended);
    let gateway = Gateway::serving(pki, &server, Limits::default()).await;
    let error = gateway.refusal(&gateway.pki.issue("admin/operator")).await;
    assert_eq!(error, "the server's certificate has expired");
}

#[tokio::test]
async fn a_certificate_without_one_identity_of_the_domain_is_told_so() {
    let gateway = Gateway::start().await;
    let uri = |text: &str| SanType::URI(Ia5String::try_from(text).unwrap());
    let is_uri = |name: &SanType| matches!(name, SanType::URI(_));
    let odd = |uris: Vec<SanType>| {
        gateway.pki.odd("admin/operator", |params| {
            params.subject_alt_names.retain(|name| !is_uri(name));
            params.subject_alt_names.extend(uris);
        })
    };
    let own = "spiffe://nantong.gov.cn/admin/operator";
    for (uris, words) in [
        (vec![], "exactly one SPIFFE URI, it has 0"),
        (
            vec![uri(own), uri("spiffe://nantong.gov.cn/node/qidong")],
            "it has 2",
        ),
        (
            vec![uri("spiffe://suzhou.gov.cn/admin/operator")],
            "the trust domain suzhou.gov.cn",
        ),
        (
            vec![uri("https://nantong.gov.cn/admin/operator")],
            "URI is not valid",
        ),
        (
            vec![uri("spiffe://nantong.gov.cn/root/operator")],
            "URI is not valid",
        ),
    ] {
        let channel = gateway.dial(&odd(uris)).await.unwrap();
        let refused = health(channel).await.unwrap_err();
        assert_eq!(refused.code, Code::Unauthenticated);
        assert_eq!(refused.reason, Some(ErrorReason::IdentityMissing));
        assert!(refused.en.contains(words), "{}", refused.en);
        assert!(refused.zh.starts_with("证书"), "{}", refused.zh);
    }
}

#[tokio::test]
async fn a_client_dials_only_the_node_that_it_means() {
    let gateway = Gateway::start().await;
    let dialer = dialer(&gateway.pki.issue("node/qidong"));
    let meant = |node: &str| Some((domain(), node.parse().unwrap()));
    let channel = dialer
        .connect(&gateway.url(), meant("nantong"))
        .await
        .unwrap();
    assert_eq!(health(channel).await, Ok(()));
    let error = dialer
        .connect(&gateway.url(), meant("rudong"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("the server is node/nantong, not node/rudong"),
        "{error}"
    );
    let elsewhere = Some(("suzhou.gov.cn".parse().unwrap(), "nantong".parse().unwrap()));
    let error = dialer
        .connect(&gateway.url(), elsewhere)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("belongs to the trust domain nantong.gov.cn"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_must_have_the_name_and_purpose_of_one() {
    let gateway = Gateway::start().await;
    let client = dialer(&gateway.pki.issue("admin/operator"));
    let other = format!("https://127.0.0.2:{}", gateway.address.port());
    assert!(
        client.connect(&other, None).await.is_err(),
        "nothing listens on that address"
    );

    let pki = Pki::new();
    let nameless = pki.odd("node/nantong", |params| {
        params
            .subject_alt_names
            .retain(|name| matches!(name, SanType::URI(_)));
    });
    let gateway = Gateway::serving(pki, &nameless, Limits::default()).await;
    let error = gateway.refusal(&gateway.pki.issue("admin/operator")).await;
    assert_eq!(
        error,
        "the server's certificate is not for this host name or address"
    );

    let pki = Pki::new();
    let agency = pki.issue("agency/qidong-emergency");
    let gateway = Gateway::serving(pki, &agency, Limits::default()).await;
    let error = gateway.refusal(&gateway.pki.issue("admin/operator")).await;
    assert_eq!(error, "the server's certificate is not one of a server");
}

#[tokio::test]
async fn an_unreachable_server_is_told_in_words() {
    let pki = Pki::new();
    let client = dialer(&pki.issue("admin/operator"));
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client
        .connect(&format!("https://localhost:{}", free.port()), None)
        .await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.ends_with("connection refused: nothing listens there"),
        "{error}"
    );
    for bad in [
        "localhost:1",
        "http://localhost:1",
        "https://",
        "https://a b:1",
        "",
    ] {
        let error = client.connect(bad, None).await.unwrap_err();
        assert!(matches!(error, DialError::BadAddress(_)), "{bad}: {error}");
    }
}

#[tokio::test]
async fn the_silent_and_the_senseless_cost_only_themselves() {
    let limits = Limits {
        handshake: Duration::from_millis(50),
        ..Limits::default()
    };
    let gateway = Gateway::with(limits).await;
    let mut silent = TcpStream::connect(gateway.address).await.unwrap();
    let mut senseless = TcpStream::connect(gateway.address).await.unwrap();
    senseless
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let ended = |read: io::Result<usize>| {
        let kind = read.map_err(|error| error.kind());
        assert!(
            matches!(kind, Ok(_) | Err(io::ErrorKind::ConnectionReset)),
            "{kind:?}"
        );
    };
    ended(soon(silent.read_to_end(&mut Vec::new())).await);
    ended(soon(senseless.read_to_end(&mut Vec::new())).await);
    assert_eq!(health(gateway.channel("node/qidong").await).await, Ok(()));
}

#[tokio::test]
async fn one_address_takes_no_more_than_its_share() {
    let limits = Limits {
        connections_per_address: 1,
        ..Limits::default()
    };
    let gateway = Gateway::with(limits).await;
    let issued = gateway.pki.issue("node/qidong");
    let first = gateway.dial(&issued).await.unwrap();
    let error = gateway.refusal(&issued).await;
    assert!(
        error.starts_with("the server closed the connection"),
        "{error}"
    );
    assert_eq!(health(first).await, Ok(()));
    // The first is dropped now; its place is given back as soon as the server sees that.
    soon(async { while gateway.dial(&issued).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let gateway = Gateway::start().await;
    let short = gateway.pki.odd("agency/qidong-emergency", |params| {
        // It begins an hour ago.
        params.not_after = params.not_before + Duration::from_secs(3_600 + 3);
    });
    let channel = gateway.dial(&short).await.unwrap();
    let mut client = RiskServiceClient::new(channel);
    let mut watched = client
        .watch_risks(pb::WatchRisksRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let ended = decode(&soon(watched.message()).await.unwrap_err());
    assert_eq!(ended.code, Code::Unauthenticated);
    assert_eq!(ended.reason, Some(ErrorReason::CertificateEnded));
    assert!(ended.zh.contains("证书"), "{}", ended.zh);
    soon(async {
        while gateway.connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_whose_root_is_gone_is_cut_and_the_others_notice_nothing() {
    let gateway = Gateway::start().await;
    let (other, issued) = (Pki::new(), gateway.pki.issue("node/nantong"));
    let keys = gateway.connections.keys();
    let both = |roots: &[&Pki]| {
        let roots: Vec<_> = roots
            .iter()
            .map(|pki| pki.folder.path().join("ca.pem"))
            .collect();
        InForce::new(Credentials::load(&issued.certificate, &issued.key, &roots).unwrap()).unwrap()
    };
    // A root that is added lets its clients in.
    let guest = other.issue("agency/qidong-housing");
    let guest = Dialer::new(Keys::new(trusting(&guest, &gateway.pki)).unwrap());
    assert!(guest.connect(&gateway.url(), None).await.is_err());
    keys.replace(both(&[&gateway.pki, &other]));
    let guest = guest.connect(&gateway.url(), None).await.unwrap();
    let native = gateway.channel("agency/qidong-emergency").await;
    let mut watches = Vec::new();
    for channel in [&guest, &native] {
        let mut client = RiskServiceClient::new(channel.clone());
        let watched = client.watch_risks(pb::WatchRisksRequest::default()).await;
        let mut watched = watched.unwrap().into_inner();
        assert!(watched.message().await.unwrap().is_some());
        watches.push(watched);
    }
    let mut slow = RiskServiceClient::new(guest.clone());
    let call = tokio::spawn(async move { slow.list_risks(pb::ListRisksRequest::default()).await });
    soon(gateway.fake.begun.notified()).await;

    keys.replace(both(&[&gateway.pki]));
    let ended = decode(&soon(watches[0].message()).await.unwrap_err());
    assert_eq!(ended.reason, Some(ErrorReason::CertificateEnded));
    // While the connection stands it takes no further call; and a call under way ends.
    let refused = decode(&health_status(guest).await);
    assert!(
        matches!(refused.reason, Some(ErrorReason::CertificateEnded))
            || refused.code == Code::Unavailable
    );
    let ended = decode(&soon(call).await.unwrap().unwrap_err());
    assert_eq!(ended.reason, Some(ErrorReason::CertificateEnded));
    let only_native = async {
        while gateway.connections.count() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(only_native).await;
    assert_eq!(health(native).await, Ok(()));
    let undisturbed = tokio::time::timeout(Duration::from_millis(100), watches[1].message());
    assert!(undisturbed.await.is_err(), "it still waits for what comes");
}

#[tokio::test]
async fn a_dialler_cuts_a_server_that_it_trusts_no_more() {
    let gateway = Gateway::start().await;
    let issued = gateway.pki.issue("agency/qidong-emergency");
    let keys = Keys::new(credentials(&issued)).unwrap();
    let dialer = Dialer::new(keys.clone());
    let channel = dialer.connect(&gateway.url(), None).await.unwrap();
    let mut client = RiskServiceClient::new(channel);
    let watched = client.watch_risks(pb::WatchRisksRequest::default()).await;
    let mut watched = watched.unwrap().into_inner();
    assert!(watched.message().await.unwrap().is_some());
    // The same again changes nothing.
    keys.replace(InForce::new(credentials(&issued)).unwrap());
    let undisturbed = tokio::time::timeout(Duration::from_millis(100), watched.message());
    assert!(undisturbed.await.is_err());

    let mut lists = credentials(&issued);
    gateway
        .pki
        .authority
        .revoke("node/nantong", "lost")
        .unwrap();
    let list = std::fs::read(gateway.pki.folder.path().join("crl.pem")).unwrap();
    lists.crls = vec![rustls::pki_types::pem::PemObject::from_pem_slice(&list).unwrap()];
    keys.replace(InForce::new(lists).unwrap());
    assert!(soon(watched.message()).await.is_err());
    let refused = dialer.connect(&gateway.url(), None).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .ends_with("the server's certificate is revoked"),
        "{refused}"
    );
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let pki = Pki::new();
    let issued = pki.issue("node/nantong");
    let files = ClientFiles {
        certificate: issued.certificate.clone(),
        key: issued.key.clone(),
        roots: vec![issued.root.clone()],
    };
    assert!(Dialer::from_files(&files).is_ok());
    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&issued.key, PermissionsExt::from_mode(mode)).unwrap();
        let loaded = Credentials::load(&files.certificate, &files.key, &files.roots);
        assert!(matches!(loaded, Err(TlsError::LooseKey(_))), "{mode:o}");
    }
    let ca = pki.folder.path().join("ca.key");
    std::fs::set_permissions(&ca, PermissionsExt::from_mode(0o644)).unwrap();
    let opened = Authority::open(pki.folder.path()).map(|_| ());
    assert!(matches!(opened, Err(PkiError::Key(TlsError::LooseKey(_)))));
}

#[tokio::test]
async fn an_authority_is_made_once_and_opened_again() {
    let gateway = Gateway::start().await;
    let folder = gateway.pki.folder.path();
    let mode = |name: &str| {
        std::fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("ca.key") & 0o777, 0o600);
    assert_eq!(mode("node-nantong.key") & 0o777, 0o600);
    let again = Authority::create(folder, "another").map(|_| ());
    assert!(matches!(again, Err(PkiError::Exists(_))));

    let opened = Authority::open(folder).unwrap();
    let issued = opened.issue(&identity("admin/operator"), &[], 1).unwrap();
    assert_eq!(health(gateway.dial(&issued).await.unwrap()).await, Ok(()));
    let refused = opened.issue(&identity("admin/operator"), &[], u32::MAX);
    assert!(matches!(refused, Err(PkiError::BadDays(_))));
    for host in ["", "a b", "启东", "https://localhost", "localhost:7443"] {
        let refused = opened.issue(&identity("node/qidong"), &[host.to_owned()], 1);
        assert!(matches!(refused, Err(PkiError::BadHost(_))), "{host}");
    }
}
