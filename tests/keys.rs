//! Certificates, roots and revocation lists that change under a running node: what is in force, whose
//! connections end, and who notices nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(clippy::disallowed_methods, reason = "nothing here must last")]

mod support;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use hefu::{
    config::Config,
    gateway::{
        connections::CLOSE,
        pki::{Authority, Issued},
    },
    node::KEYS_CHECK,
    proto::{
        audit::v1::{
            AuditRecord, ListAuditRecordsRequest, audit_service_client::AuditServiceClient,
        },
        error::v1::ErrorReason,
        node::v1::{GetStatusRequest, GetStatusResponse, LinkState},
        risk::v1::{WatchRisksRequest, WatchRisksResponse},
    },
};
use rustls::pki_types::pem::PemObject as _;
use support::{Clients, DOMAIN, Domain, QIDONG, RUDONG, Running, decoded, dial, risk};
use tonic::Streaming;

/// From a changed file to the end of what it ends, as documented; and the same for a machine that is busy.
const DOCUMENTED: Duration = Duration::from_secs(5);
const BUSY: Duration = Duration::from_secs(20);

#[test]
fn the_documented_time_is_what_its_parts_come_to() {
    assert!(KEYS_CHECK + CLOSE < DOCUMENTED);
}

/// A node whose roots and revocation lists are files of its own, which a test can replace.
struct Site {
    domain: Domain,
    folder: PathBuf,
}

impl Site {
    fn new() -> Self {
        let domain = Domain::new();
        let folder = domain.folder.path().join("deployed");
        std::fs::create_dir(&folder).unwrap();
        let site = Self { domain, folder };
        site.deploy(&site.pki().join("ca.pem"), "roots.pem");
        site.deploy(&site.pki().join("crl.pem"), "crl.pem");
        site
    }

    fn pki(&self) -> PathBuf {
        self.domain.folder.path().join("pki")
    }

    /// Puts a file in force, in one step.
    fn deploy(&self, from: &Path, name: &str) {
        self.write(name, &std::fs::read(from).unwrap());
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let new = self.folder.join("new");
        std::fs::write(&new, bytes).unwrap();
        let owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&new, owner).unwrap();
        std::fs::rename(new, self.folder.join(name)).unwrap();
    }

    fn config(&self, node: &str, parent: Option<(&str, std::net::SocketAddr)>) -> Config {
        let mut config = self.domain.config(node, parent);
        self.deploy(&config.tls.certificate, &format!("{node}.pem"));
        self.deploy(&config.tls.key, &format!("{node}.key"));
        config.tls.certificate = self.folder.join(format!("{node}.pem"));
        config.tls.key = self.folder.join(format!("{node}.key"));
        config.tls.roots = vec![self.folder.join("roots.pem")];
        config.tls.crls = vec![self.folder.join("crl.pem")];
        config
    }

    async fn start(&self, node: &str, parent: Option<(&str, &Running)>) -> Running {
        let parent = parent.map(|(name, running)| (name, running.address));
        Running::start(self.config(node, parent)).await
    }

    /// Revokes, and deploys the list.
    fn revoke(&self, identity: &str) {
        let authority = Authority::open(&self.pki()).unwrap();
        authority.revoke(identity, "lost").unwrap();
        self.deploy(&self.pki().join("crl.pem"), "crl.pem");
    }
}

async fn watch(clients: &mut Clients) -> Streaming<WatchRisksResponse> {
    let request = WatchRisksRequest {
        parent: "agencies/-/risks".into(),
        from_start: true,
        ..Default::default()
    };
    clients
        .risks
        .watch_risks(request)
        .await
        .unwrap()
        .into_inner()
}

/// What ends a watch, and how long that took.
async fn ended(watch: &mut Streaming<WatchRisksResponse>) -> (Option<ErrorReason>, Duration) {
    let begun = Instant::now();
    let waiting = async {
        loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => return decoded(status).reason,
                None => panic!("it ended well"),
            }
        }
    };
    let reason = tokio::time::timeout(BUSY, waiting).await.unwrap();
    (reason, begun.elapsed())
}

async fn status(clients: &mut Clients) -> GetStatusResponse {
    let status = clients.node.get_status(GetStatusRequest {}).await;
    status.unwrap().into_inner()
}

/// Waits until the node's status is as it should be.
async fn until(
    clients: &mut Clients,
    mut wanted: impl FnMut(&GetStatusResponse) -> bool,
) -> GetStatusResponse {
    let waiting = async {
        loop {
            let status = status(clients).await;
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(BUSY, waiting).await;
    waited.expect("the status becomes what it should be")
}

async fn events(clients: &Clients) -> Vec<String> {
    let mut audit = AuditServiceClient::new(clients.channel.clone());
    let request = ListAuditRecordsRequest {
        page_size: 500,
        ..Default::default()
    };
    let records = audit
        .list_audit_records(request)
        .await
        .unwrap()
        .into_inner();
    let records = records.records.into_iter();
    records
        .map(|record| record.event)
        .filter(|event| !event.is_empty())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agency_is_cut_and_another_s_watch_goes_on() {
    let site = Site::new();
    let county = site.start("qidong", None).await;
    let mut operator = site.domain.admin(&county).await;
    let mut agency = site.domain.agency(QIDONG, &county).await;
    let mut lost = site.domain.agency("qidong-housing", &county).await;
    let kept = site.domain.issue("agency/qidong-housing");
    agency.submit(risk("R-1")).await.unwrap();
    let (mut own, mut its) = (watch(&mut agency).await, watch(&mut lost).await);
    assert!(own.next().await.unwrap().is_ok());
    assert!(status(&mut operator).await.warnings.is_empty());

    // `issue` above left two good certificates of it: both are revoked.
    site.revoke("agency/qidong-housing");
    let (reason, _) = ended(&mut its).await;
    assert_eq!(reason, Some(ErrorReason::CertificateEnded));
    let refused = dial(&kept, county.address).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("it is revoked"), "{refused}");
    agency.submit(risk("R-2")).await.unwrap();
    let next = own.next().await.unwrap().unwrap().revision.unwrap();
    assert_eq!(next.risk.unwrap().name, risk("R-2").name);
    let events = events(&operator).await;
    let changed = |word: &str| {
        events
            .iter()
            .any(|event| event.starts_with("revocation list ") && event.contains(word))
    };
    assert!(
        changed("is in force until") && changed("is in force no more"),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_child_is_cut_and_its_sibling_replicates_on() {
    let site = Site::new();
    let city = site.start("nantong", None).await;
    let lost = site.start("qidong", Some(("nantong", &city))).await;
    let kept = site.start("rudong", Some(("nantong", &city))).await;
    let mut operator = site.domain.admin(&lost).await;
    let mut agency = site.domain.agency(QIDONG, &lost).await;
    agency.submit(risk("R-1")).await.unwrap();
    assert!(agency_sync(&site, &lost).await);

    site.revoke("node/qidong");
    let cut = until(&mut operator, |status| {
        let reason = &status.uplinks[0].reason;
        reason.contains("the server refused our certificate: it is revoked")
    });
    assert_eq!(cut.await.uplinks[0].state(), LinkState::Disconnected);
    let mut other = site.domain.agency(RUDONG, &kept).await;
    let mut record = risk("R-1");
    record.name = format!("agencies/{RUDONG}/risks/R-1");
    record.place.as_mut().unwrap().division = "320623".into();
    other.submit(record).await.unwrap();
    assert!(agency_sync(&site, &kept).await);
}

/// Brings the parent up to date.
async fn agency_sync(site: &Site, node: &Running) -> bool {
    site.domain.admin(node).await.sync().await.complete
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_leaves_a_parent_whose_certificate_is_revoked() {
    let site = Site::new();
    let city = site.start("nantong", None).await;
    let mut config = site.config("qidong", Some(("nantong", city.address)));
    // The child has its own copy of the list, so that the parent does not know.
    site.deploy(&site.pki().join("crl.pem"), "child.pem");
    config.tls.crls = vec![site.folder.join("child.pem")];
    let county = Running::start(config).await;
    assert!(agency_sync(&site, &county).await);
    let authority = Authority::open(&site.pki()).unwrap();
    authority.revoke("node/nantong", "lost").unwrap();
    site.deploy(&site.pki().join("crl.pem"), "child.pem");
    let mut operator = site.domain.admin(&county).await;
    let left = until(&mut operator, |status| {
        status.uplinks[0]
            .reason
            .contains("the server's certificate is revoked")
    });
    assert_eq!(left.await.uplinks[0].state(), LinkState::Disconnected);
}

/// The certificate that a server shows to those who connect now.
async fn shown(site: &Site, issued: &Issued, node: &Running) -> Vec<u8> {
    let pem = |path: &Path| rustls::pki_types::CertificateDer::from_pem_file(path).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pem(&site.pki().join("ca.pem"))).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(hefu::gateway::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pem(&issued.certificate)], key)
        .unwrap();
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let tcp = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let stream = tls
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let site = Site::new();
    let county = site.start("qidong", None).await;
    let issued = site.domain.issue("admin/operator");
    let mut operator = Clients::new(dial(&issued, county.address).await.unwrap());
    let mut agency = site.domain.agency(QIDONG, &county).await;
    let mut own = watch(&mut agency).await;
    let before = shown(&site, &issued, &county).await;
    let ends = status(&mut operator).await.certificate_end_time.unwrap();

    // First the certificate alone: it does not fit the key, and the old one stays in force.
    let identity = format!("spiffe://{DOMAIN}/node/qidong").parse().unwrap();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let authority = Authority::open(&site.pki()).unwrap();
    let new = authority.issue(&identity, &hosts, 80).unwrap();
    site.deploy(&new.certificate, "qidong.pem");
    let warned = until(&mut operator, |status| !status.warnings.is_empty()).await;
    assert!(
        warned.warnings[0].contains("the former certificates stay in force"),
        "{warned:?}"
    );
    assert_eq!(shown(&site, &issued, &county).await, before);
    // Then the key, which others can read; then as it must be.
    site.deploy(&new.key, "qidong.key");
    let key = site.folder.join("qidong.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    until(&mut operator, |status| {
        status
            .warnings
            .iter()
            .any(|warning| warning.contains("chmod 600"))
    })
    .await;
    assert_eq!(shown(&site, &issued, &county).await, before);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let now = until(&mut operator, |status| status.warnings.is_empty()).await;
    assert!(now.certificate_end_time.unwrap().seconds > ends.seconds);
    let after = shown(&site, &issued, &county).await;
    assert_ne!(after, before);

    // Nobody was cut: the same connections go on.
    agency.submit(risk("R-1")).await.unwrap();
    assert!(own.next().await.unwrap().is_ok());
    let events = events(&operator).await;
    let own = events
        .iter()
        .filter(|event| event.starts_with("certificate "));
    assert_eq!(own.count(), 1, "{events:?}");
    let text = std::fs::read_to_string(&key).unwrap();
    let secret = text.lines().nth(1).unwrap();
    assert!(!events.iter().any(|event| event.contains(secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_come_and_go_and_a_broken_file_changes_nothing() {
    let site = Site::new();
    let county = site.start("qidong", None).await;
    let mut operator = site.domain.admin(&county).await;
    let second = Authority::create(&site.domain.folder.path().join("second"), "second").unwrap();
    let identity = format!("spiffe://{DOMAIN}/agency/qidong-housing")
        .parse()
        .unwrap();
    let mut guest = second.issue(&identity, &[], 60).unwrap();
    let second_root = std::fs::read(&guest.root).unwrap();
    guest.root = site.pki().join("ca.pem");
    assert!(dial(&guest, county.address).await.is_err());

    let first_root = std::fs::read(site.pki().join("ca.pem")).unwrap();
    site.write("roots.pem", &[first_root.clone(), second_root].concat());
    let joining = async {
        loop {
            if let Ok(channel) = dial(&guest, county.address).await {
                return channel;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let channel = tokio::time::timeout(BUSY, joining).await.unwrap();
    let mut guests = watch(&mut Clients::new(channel)).await;
    let mut agency = site.domain.agency(QIDONG, &county).await;
    let mut own = watch(&mut agency).await;

    // Half a file: warned of, and nobody is cut.
    site.write("roots.pem", &first_root[..first_root.len() / 2]);
    let warned = until(&mut operator, |status| !status.warnings.is_empty()).await;
    assert!(
        warned.warnings[0].contains("roots.pem: no certificate"),
        "{warned:?}"
    );
    agency.submit(risk("R-1")).await.unwrap();
    assert!(guests.next().await.unwrap().is_ok());
    assert!(own.next().await.unwrap().is_ok());

    site.write("roots.pem", &first_root);
    let (reason, _) = ended(&mut guests).await;
    assert_eq!(reason, Some(ErrorReason::CertificateEnded));
    assert!(dial(&guest, county.address).await.is_err());
    agency.submit(risk("R-2")).await.unwrap();
    assert!(own.next().await.unwrap().is_ok());
    assert!(status(&mut operator).await.warnings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_soon_is_warned_of_by_name() {
    let site = Site::new();
    let mut config = site.config("qidong", None);
    let authority = Authority::open(&site.pki()).unwrap();
    let identity = |role: &str| format!("spiffe://{DOMAIN}/{role}").parse().unwrap();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let soon = authority
        .issue(&identity("node/qidong"), &hosts, 7)
        .unwrap();
    (config.tls.certificate, config.tls.key) = (soon.certificate, soon.key);
    let county = Running::start(config).await;
    let client = authority
        .issue(&identity("agency/qidong-housing"), &[], 20)
        .unwrap();
    let _channel = dial(&client, county.address).await.unwrap();
    let mut operator = site.domain.admin(&county).await;
    let warnings = status(&mut operator).await.warnings;
    let warned = |text: &str| warnings.iter().any(|warning| warning.starts_with(text));
    assert!(
        warned("the certificate of this node ends in 7 days"),
        "{warnings:?}"
    );
    assert!(
        warned("the certificate of agency/qidong-housing ends in 20 days"),
        "{warnings:?}"
    );
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let shown = hefu_status(&site.domain.issue("admin/operator"), &county).await;
    let warned = "WARNING: the certificate of this node ends in 7 days";
    assert!(shown.contains(warned), "{shown}");
    // With a newer certificate its holder is warned of no more.
    let client = authority
        .issue(&identity("agency/qidong-housing"), &[], 60)
        .unwrap();
    let _channel = dial(&client, county.address).await.unwrap();
    assert_eq!(status(&mut operator).await.warnings.len(), 1);
}

/// What `hefu status` prints.
async fn hefu_status(issued: &Issued, node: &Running) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hefu"));
    command
        .args(["status", "--server", &format!("https://{}", node.address)])
        .arg("--cert")
        .arg(&issued.certificate)
        .arg("--key")
        .arg(&issued.key)
        .arg("--roots")
        .arg(&issued.root);
    let ran = tokio::task::spawn_blocking(move || command.output());
    String::from_utf8(ran.await.unwrap().unwrap().stdout).unwrap()
}

/// A certificate of a node that ends after some seconds.
fn short(site: &Site, node: &str, seconds: u64) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| std::fs::read_to_string(site.pki().join(name)).unwrap();
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let uri = format!("spiffe://{DOMAIN}/node/{node}").try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let now = jiff::Timestamp::now().as_second();
    let now = std::time::UNIX_EPOCH + Duration::from_secs(now.try_into().unwrap());
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(seconds)).into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (certificate.pem().into(), key.serialize_pem().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_whose_certificate_ends_goes_on_with_its_new_one() {
    let site = Site::new();
    let city = site.start("nantong", None).await;
    let config = site.config("qidong", Some(("nantong", city.address)));
    let whole = (
        std::fs::read(&config.tls.certificate).unwrap(),
        std::fs::read(&config.tls.key).unwrap(),
    );
    let (certificate, key) = short(&site, "qidong", 6);
    site.write("qidong.pem", &certificate);
    site.write("qidong.key", &key);
    let county = Running::start(config).await;
    let auditor = site.domain.admin(&city).await;
    let replicates = |record: &AuditRecord| record.method.ends_with("/Replicate");
    recorded(&auditor, replicates).await;
    // The connection stands on the one that ends when the new one comes.
    site.write("qidong.pem", &whole.0);
    site.write("qidong.key", &whole.1);
    let cut = recorded(&auditor, |record| record.reason == "CERTIFICATE_ENDED").await;
    assert!(
        replicates(&cut) && cut.caller.ends_with("node/qidong"),
        "{cut:?}"
    );
    let issued = site.domain.issue("admin/operator");
    let dialled = async {
        loop {
            match dial(&issued, county.address).await {
                Ok(channel) => return Clients::new(channel),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut operator = tokio::time::timeout(BUSY, dialled).await.unwrap();
    until(&mut operator, |status| {
        status.uplinks[0].state() == LinkState::Current
    })
    .await;
    let mut agency = site.domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    assert!(agency_sync(&site, &county).await);
}

/// Waits for a record of the audit trail.
async fn recorded(clients: &Clients, wanted: impl Fn(&AuditRecord) -> bool) -> AuditRecord {
    let mut audit = AuditServiceClient::new(clients.channel.clone());
    let waiting = async {
        loop {
            let request = ListAuditRecordsRequest {
                page_size: 500,
                ..Default::default()
            };
            let answer = audit.list_audit_records(request).await.unwrap();
            if let Some(found) = answer.into_inner().records.into_iter().find(&wanted) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(BUSY, waiting).await.unwrap()
}
