//! Real nodes on real sockets with real TLS, in a folder that goes away with the test.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "nothing here must last")]

pub mod process;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use hefu::{
    config::{
        AuditConfig, Config, LogConfig, MetricsConfig, NodeConfig, ParentConfig, ReferenceConfig,
        ReplicationMode, StorageConfig, TlsConfig,
    },
    gateway::{
        client::{ClientFiles, DialError, Dialer},
        pki::{Authority, Issued},
        tls::{Credentials, provider},
    },
    ledger::Ledger,
    node::{Node, NodeError},
    proto::{
        hazard::v1::{
            Hazard, HazardLevel, HazardSource, HazardState, HazardTreatment, Rectification,
            hazard_service_client::HazardServiceClient,
        },
        incident::v1::{
            Casualties, EventClass, EventType, Incident, Report, ReportKind,
            incident_service_client::IncidentServiceClient,
        },
        ledger::v1::ledger_service_client::LedgerServiceClient,
        measure::v1::{
            Measure, MeasureClass, MeasureState, measure_service_client::MeasureServiceClient,
        },
        nilreport::v1::{NilReport, nil_report_service_client::NilReportServiceClient},
        node::v1::{SyncParentRequest, SyncParentResponse, node_service_client::NodeServiceClient},
        risk::v1::{
            ConsequenceType, Risk, RiskLevel, RiskState, SubmitRiskRequest, SubmitRiskResponse,
            risk_service_client::RiskServiceClient,
        },
        statistics::v1::statistics_service_client::StatisticsServiceClient,
        r#type::v1::{Datum, Place, Unit},
    },
    services::status::{Decoded, decode},
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Status, transport::Channel};

pub const DOMAIN: &str = "nantong.gov.cn";
pub const QIDONG: &str = "qidong-emergency";
pub const RUDONG: &str = "rudong-emergency";

/// Agencies of two counties and of the city, each at its node.
const AGENCIES: &str = "id,name,divisions,kind,node
qidong-emergency,启东市应急管理局,320681,county-department,qidong
qidong-housing,启东市住房和城乡建设局,320681,county-department,qidong
rudong-emergency,如东县应急管理局,320623,county-department,rudong
nantong-emergency,南通市应急管理局,320600,city-department,nantong
";

/// What every node here starts with: the policy that is built in.
pub const POLICY: &str = include_str!("../../seeds/policy.toml");

/// Tests submit faster than any agency may.
const UNBOUND: &str = r#"
[[limit]]
who = ["agency/*"]
requests_per_second = 1_000_000
rows_per_second = 1_000_000
reads_per_second = 100_000_000
"#;

/// A trust domain: an authority, agencies, and a folder for everything.
pub struct Domain {
    pub folder: TempDir,
    authority: Authority,
}

/// A node that serves until it is stopped or dropped.
pub struct Running {
    pub address: SocketAddr,
    pub ledger: Ledger,
    pub config: Config,
    /// Where its metrics can be read.
    pub metrics: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    served: JoinHandle<Result<(), NodeError>>,
}

impl Domain {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("pki"), "test").unwrap();
        std::fs::write(folder.path().join("agencies.csv"), AGENCIES).unwrap();
        let policy = format!("{POLICY}{UNBOUND}");
        std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
        Self { folder, authority }
    }

    /// Puts another table of agencies, or another policy, in the place of the one that is there.
    pub fn replace(&self, file: &str, text: &str) {
        let (path, whole) = (self.folder.path().join(file), format!("{file}.new"));
        let whole = self.folder.path().join(whole);
        std::fs::write(&whole, text).unwrap();
        std::fs::rename(whole, path).unwrap();
    }

    /// Adds grants to the policy.
    pub fn grant(&self, grants: &str) {
        let standing = std::fs::read_to_string(self.folder.path().join("policy.toml")).unwrap();
        self.replace("policy.toml", &format!("{standing}\n{grants}"));
    }

    pub fn issue(&self, identity: &str) -> Issued {
        let identity = format!("spiffe://{DOMAIN}/{identity}").parse().unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.authority.issue(&identity, &hosts, 60).unwrap()
    }

    /// Issues a certificate, revokes it, and keeps it beside the others.
    pub fn revoked(&self, identity: &str) {
        let issued = self.issue(identity);
        self.authority.revoke(identity, "lost").unwrap();
        let kept = self.revoked_before(identity);
        std::fs::copy(issued.certificate, kept.certificate).unwrap();
        std::fs::copy(issued.key, kept.key).unwrap();
    }

    /// The certificate of that identity that was revoked.
    pub fn revoked_before(&self, identity: &str) -> Issued {
        let stem = format!("revoked-{}", identity.replace('/', "-"));
        let pki = self.folder.path().join("pki");
        Issued {
            certificate: pki.join(format!("{stem}.pem")),
            key: pki.join(format!("{stem}.key")),
            root: pki.join("ca.pem"),
        }
    }

    /// A certificate whose time is over.
    pub fn expired(&self, identity: &str) -> Issued {
        let pki = self.folder.path().join("pki");
        let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
        let key = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let uri = format!("spiffe://{DOMAIN}/{identity}").try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let stem = format!("expired-{}", identity.replace('/', "-"));
        let issued = Issued {
            certificate: pki.join(format!("{stem}.pem")),
            key: pki.join(format!("{stem}.key")),
            root: pki.join("ca.pem"),
        };
        std::fs::write(&issued.certificate, certificate.pem()).unwrap();
        std::fs::write(&issued.key, key.serialize_pem()).unwrap();
        let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&issued.key, owner).unwrap();
        issued
    }

    pub fn config(&self, name: &str, parent: Option<(&str, SocketAddr)>) -> Config {
        let issued = self.issue(&format!("node/{name}"));
        Config {
            node: NodeConfig {
                id: name.to_owned(),
                trust_domain: DOMAIN.to_owned(),
                data: self.folder.path().join(name),
                listen: "127.0.0.1:0".parse().unwrap(),
            },
            tls: TlsConfig {
                crls: Vec::new(),
                certificate: issued.certificate,
                key: issued.key,
                roots: vec![issued.root],
            },
            parent: parent.map(|(node, address)| ParentConfig {
                endpoint: format!("https://{address}"),
                node: node.to_owned(),
                mode: ReplicationMode::Continuous,
            }),
            reference: ReferenceConfig {
                agencies: Some(self.folder.path().join("agencies.csv")),
                policy: Some(self.folder.path().join("policy.toml")),
                ..ReferenceConfig::default()
            },
            storage: StorageConfig {
                cache_mib: 8,
                watermark_mib: 0,
                ..StorageConfig::default()
            },
            audit: AuditConfig::default(),
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        }
    }

    pub async fn start(&self, name: &str, parent: Option<(&str, &Running)>) -> Running {
        let parent = parent.map(|(node, running)| (node, running.address));
        Running::start(self.config(name, parent)).await
    }

    pub async fn channel(&self, identity: &str, node: &Running) -> Channel {
        dial(&self.issue(identity), node.address).await.unwrap()
    }

    pub async fn agency(&self, id: &str, node: &Running) -> Clients {
        Clients::new(self.channel(&format!("agency/{id}"), node).await)
    }

    pub async fn admin(&self, node: &Running) -> Clients {
        Clients::new(self.channel("admin/operator", node).await)
    }
}

pub async fn dial(issued: &Issued, address: SocketAddr) -> Result<Channel, DialError> {
    let files = ClientFiles {
        certificate: issued.certificate.clone(),
        key: issued.key.clone(),
        roots: vec![issued.root.clone()],
    };
    let dialer = Dialer::from_files(&files)?;
    dialer.connect(&format!("https://{address}"), None).await
}

/// Dials with TLS and shows no certificate; `None` where that is refused.
pub async fn dial_without_certificate(node: &Running) -> Option<Channel> {
    let tls = &node.config.tls;
    let credentials = Credentials::load(&tls.certificate, &tls.key, &tls.roots).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(credentials.roots[0].clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (config, address) = (Arc::new(config), node.address);
    let connect = tower::service_fn(move |_| {
        let tls = tokio_rustls::TlsConnector::from(config.clone());
        async move {
            let tcp = tokio::net::TcpStream::connect(address).await?;
            let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let mut stream = tls.connect(name, tcp).await?;
            // The server judges after the client is done: its first bytes tell.
            tokio::io::AsyncBufReadExt::fill_buf(&mut stream).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.ok()
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let node = Node::open(config.clone()).await.unwrap();
        let (address, ledger) = (node.address().unwrap(), node.ledger().clone());
        let metrics = node.metrics_address();
        let stop = watch::Sender::new(false);
        let mut stopping = stop.subscribe();
        let served = tokio::spawn(node.serve(async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        }));
        let mut config = config;
        config.node.listen = address;
        Self {
            address,
            ledger,
            config,
            metrics,
            stop,
            served,
        }
    }

    pub async fn stop(self) -> Config {
        self.stop.send_replace(true);
        self.served.await.unwrap().unwrap();
        drop(self.ledger);
        // A stream that is just ending may hold the data folder a moment longer: its lock tells.
        let lock = self.config.node.data.join("journal").join("lock");
        let released = move || std::fs::File::open(lock).unwrap().lock().unwrap();
        tokio::task::spawn_blocking(released).await.unwrap();
        self.config
    }
}

/// Every service over one channel.
#[derive(Clone)]
pub struct Clients {
    pub risks: RiskServiceClient<Channel>,
    pub measures: MeasureServiceClient<Channel>,
    pub incidents: IncidentServiceClient<Channel>,
    pub hazards: HazardServiceClient<Channel>,
    pub nil_reports: NilReportServiceClient<Channel>,
    pub statistics: StatisticsServiceClient<Channel>,
    pub ledger: LedgerServiceClient<Channel>,
    pub node: NodeServiceClient<Channel>,
    pub channel: Channel,
}

impl Clients {
    pub fn new(channel: Channel) -> Self {
        Self {
            risks: RiskServiceClient::new(channel.clone()),
            measures: MeasureServiceClient::new(channel.clone()),
            incidents: IncidentServiceClient::new(channel.clone()),
            hazards: HazardServiceClient::new(channel.clone()),
            nil_reports: NilReportServiceClient::new(channel.clone()),
            statistics: StatisticsServiceClient::new(channel.clone()),
            ledger: LedgerServiceClient::new(channel.clone()),
            node: NodeServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub async fn submit(&mut self, risk: Risk) -> Result<SubmitRiskResponse, Decoded> {
        let request = SubmitRiskRequest {
            risk: Some(risk),
            ..Default::default()
        };
        self.risks
            .submit_risk(request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(decoded)
    }

    pub async fn sync(&mut self) -> SyncParentResponse {
        let request = SyncParentRequest { timeout: None };
        let mut answers = self.node.sync_parent(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(answer) = answers.message().await.unwrap() {
            last = Some(answer);
        }
        last.unwrap()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
pub fn decoded(status: Status) -> Decoded {
    decode(&status)
}

pub fn unit() -> Unit {
    Unit {
        name: "启东测试企业（虚构）".into(),
        uscc: "91350100M000100Y43".into(),
        post: "安全总监".into(),
        office_phone: "0513-80000001".into(),
        ..Unit::default()
    }
}

pub fn place() -> Place {
    Place {
        division: "320681".into(),
        address: "启东市试验路1号".into(),
        latitude: Some(31.8),
        longitude: Some(121.66),
        datum: Datum::Cgcs2000.into(),
    }
}

/// A valid risk of Qidong's emergency bureau.
pub fn risk(item: &str) -> Risk {
    Risk {
        name: format!("agencies/{QIDONG}/risks/{item}"),
        title: "储罐区泄漏".into(),
        sector: "C2631".into(),
        place: Some(place()),
        level: RiskLevel::Major.into(),
        state: RiskState::Identified.into(),
        factor: "储罐老化，法兰泄漏遇明火".into(),
        consequences: vec![
            ConsequenceType::Fire.into(),
            ConsequenceType::Explosion.into(),
        ],
        responsible_unit: Some(unit()),
        regulator: "启东市应急管理局".into(),
        review_cycle_days: 90,
        ..Risk::default()
    }
}

/// A valid measure of it.
pub fn measure(item: &str, risk: &str) -> Measure {
    Measure {
        name: format!("agencies/{QIDONG}/measures/{item}"),
        risk: format!("agencies/{QIDONG}/risks/{risk}"),
        measure_class: MeasureClass::Engineering.into(),
        description: "增设可燃气体报警器并联锁切断".into(),
        responsible_unit: Some(unit()),
        state: MeasureState::InPlace.into(),
        ..Measure::default()
    }
}

pub fn stamp(text: &str) -> Option<prost_types::Timestamp> {
    let time: jiff::Timestamp = text.parse().unwrap();
    Some(prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: 0,
    })
}

/// A valid first report.
pub fn incident(item: &str) -> Incident {
    Incident {
        name: format!("agencies/{QIDONG}/incidents/{item}"),
        title: "储罐区火灾".into(),
        report: Some(Report {
            kind: ReportKind::First.into(),
            signed_off_by: "值班主任".into(),
            ..Report::default()
        }),
        event_class: EventClass::Accident.into(),
        event_type: Some(EventType {
            scheme: "GB/T 35561-2017".into(),
            code: "12G00".into(),
        }),
        place: Some(place()),
        unit: Some(unit()),
        occurred_time: stamp("2024-02-18T08:00:00+08:00"),
        informed_time: stamp("2024-02-18T08:05:00+08:00"),
        received_time: stamp("2024-02-18T09:30:00+08:00"),
        forwarded_time: stamp("2024-02-18T10:00:00+08:00"),
        course: "储罐区起火，已控制".into(),
        casualties: Some(Casualties {
            deaths: Some(1),
            ..Casualties::default()
        }),
        ..Incident::default()
    }
}

/// A valid hazard, just reported: a major one with its five elements.
pub fn hazard(item: &str) -> Hazard {
    Hazard {
        name: format!("agencies/{QIDONG}/hazards/{item}"),
        title: "储罐区联锁未投用".into(),
        level: HazardLevel::Major.into(),
        source: HazardSource::Enforcement.into(),
        treatment: HazardTreatment::ByDeadline.into(),
        place: Some(place()),
        description: "高液位联锁长期摘除，未办理审批".into(),
        criterion: "联锁未投用，属重大事故隐患（测试）".into(),
        unit: Some(unit()),
        found_time: stamp("2024-02-18T08:00:00+08:00"),
        rectification: Some(Rectification {
            responsibility: "启东测试企业（虚构）安全总监".into(),
            measures: "恢复联锁，逐台试验".into(),
            funds_fen: Some(20_000_000),
            funds_approximate: true,
            deadline: stamp("2024-03-18T18:00:00+08:00"),
            contingency_plan: "停用储罐，专人值守".into(),
        }),
        state: HazardState::Reported.into(),
        ..Hazard::default()
    }
}

/// A statement that there was nothing on a day.
pub fn nil_report(name: &str, register: &str, day: &str) -> NilReport {
    NilReport {
        name: name.to_owned(),
        register: register.to_owned(),
        from_date: day.to_owned(),
        to_date: day.to_owned(),
        statement: "本日无事项".into(),
        post: "值班主任".into(),
        ..NilReport::default()
    }
}

/// Where a certificate of another authority is.
pub fn foreign(identity: &str, folder: &TempDir) -> Issued {
    let authority = Authority::create(&folder.path().join("foreign"), "another").unwrap();
    let identity = format!("spiffe://{DOMAIN}/{identity}").parse().unwrap();
    authority.issue(&identity, &[], 1).unwrap()
}

/// Copies a folder.
pub fn copy(from: &std::path::Path, to: &PathBuf) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.path().is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}
