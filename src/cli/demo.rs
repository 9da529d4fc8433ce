//! `hefu demo`: a city and its counties on this machine, with real TLS, real data, real proofs.

mod hazard;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use prost_reflect::{DynamicMessage, Value};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    CliError, Exit,
    client::{
        Client, ClientError, ListOptions,
        commands::{refusal, request_id},
        csv,
        dynamic::{RegisterApi, text},
        method, table,
    },
    serve::told_to_stop,
    verify,
};
use crate::{
    config::{
        AuditConfig, ChildrenConfig, Config, LogConfig, MetricsConfig, NodeConfig, ParentConfig,
        ReferenceConfig, StorageConfig, TlsConfig,
    },
    gateway::{
        client::{ClientFiles, Dialer},
        pki::{Authority, Issued},
    },
    ledger::Ledger,
    node::{Node, NodeError},
    replication::Uplink,
    types::{Agency, AgencyTable, DailyWindow, Identity, LogNo, UtcOffset},
};

/// The trust domain of the demonstration.
const DOMAIN: &str = "nantong.gov.cn";
/// The city's node.
const CITY: &str = "nantong";
/// The county-level nodes: seven counties and districts, and the development zone.
const COUNTIES: [(&str, &str); 8] = [
    ("tongzhou", "通州区"),
    ("chongchuan", "崇川区"),
    ("haimen", "海门区"),
    ("rudong", "如东县"),
    ("etdz", "经开区"),
    ("qidong", "启东市"),
    ("rugao", "如皋市"),
    ("haian", "海安市"),
];
/// What the seeds hold in all, by register.
const TOTALS: [(&str, u64); 4] = [
    ("risks", 1_280),
    ("measures", 1_801),
    ("incidents", 30),
    ("hazards", 362),
];
const AGENCIES: &str = include_str!("../../seeds/agencies.csv");
const RISKS: &str = include_str!("../../seeds/risks.csv");
const MEASURES: &str = include_str!("../../seeds/measures.csv");
const INCIDENTS: &str = include_str!("../../seeds/incidents.csv");
const FOLLOW_UPS: &str = include_str!("../../seeds/incident-follow-ups.csv");
const HAZARDS: &str = include_str!("../../seeds/hazards.csv");
const HAZARD_FOLLOW_UPS: &str = include_str!("../../seeds/hazard-follow-ups.csv");
/// The hazard whose way from report to closure is shown.
const HAZARD: &str = "agencies/qidong-emergency/hazards/H-2024-001";
/// The city has everything by then, or the demonstration has failed.
const SYNC: Duration = Duration::from_secs(60);

/// See it work: a city node and eight county nodes come up on this machine with real mutual TLS, take
/// in two lists and incident reports through their public RPCs, replicate, and verify.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hefu demo\n  hefu demo --exit\n  hefu demo --data ./hefu-demo")]
pub struct Demo {
    /// Keep everything in this folder, for a second start; default: a temporary one
    #[arg(long)]
    data: Option<PathBuf>,
    /// End after the table; exit code 7 if anything did not match
    #[arg(long)]
    exit: bool,
    /// The city listens on this port, the counties on those behind it; 0 takes free ones
    #[arg(long, default_value_t = 7440)]
    port: u16,
}

/// A node of the demonstration.
struct Running {
    name: &'static str,
    title: &'static str,
    address: SocketAddr,
    ledger: Ledger,
    uplink: Option<Arc<Uplink>>,
    served: JoinHandle<Result<(), NodeError>>,
}

impl Running {
    /// What the parent has cosigned of a log.
    fn cosigned(&self, origin: &str) -> u64 {
        let uplinks = self.uplink.as_ref().map(|uplink| uplink.board().uplinks());
        let mut uplinks = uplinks.unwrap_or_default().into_iter();
        let status = uplinks.find(|status| status.origin == origin);
        status.map_or(0, |status| status.cosigned)
    }
}

/// The folder of the demonstration, with its authority.
struct Stage {
    folder: PathBuf,
    authority: Authority,
    agencies: AgencyTable,
    port: u16,
    stop: watch::Sender<bool>,
}

impl Demo {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        super::log_to_stderr("warn", false);
        let folder = self.data.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("hefu-demo-{}", std::process::id()))
        });
        let stage = Stage::open(folder, self.port)?;
        println!("folder: {}", stage.folder.display());
        println!("keys and certificates: {}", stage.pki().display());
        let (city, counties) = stage.start().await?;
        let started = Instant::now();
        stage.submit(&counties).await?;
        synced(&counties).await?;
        println!(
            "submitted, replicated and cosigned in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        let mut wrong = stage.check(&city, &counties).await?;
        wrong.extend(show(&city, &counties)?);
        wrong.extend(self::hazard::show(&stage, &city).await?);
        for what in &wrong {
            println!("WRONG: {what}");
        }
        if !self.exit {
            stage.print_lines(&city, &counties);
            told_to_stop().await;
        }
        stage.stop.send_replace(true);
        for running in counties.into_iter().chain([city]) {
            running
                .served
                .await
                .map_err(|e| CliError::Other(e.to_string()))??;
        }
        if self.data.is_none() {
            let _ = std::fs::remove_dir_all(&stage.folder);
        }
        Ok(if wrong.is_empty() {
            Exit::Done
        } else {
            Exit::NotProven
        })
    }
}

fn other(error: impl std::fmt::Display) -> CliError {
    CliError::Other(error.to_string())
}

impl Stage {
    fn open(folder: PathBuf, port: u16) -> Result<Self, CliError> {
        let pki = folder.join("pki");
        let authority = if pki.join("ca.key").exists() {
            Authority::open(&pki)
        } else {
            Authority::create(&pki, "hefu demo authority")
        };
        let authority = authority.map_err(other)?;
        std::fs::write(folder.join("agencies.csv"), AGENCIES).map_err(other)?;
        let agencies = AgencyTable::from_csv(AGENCIES.trim_start_matches('\u{feff}'));
        let agencies = agencies.map_err(other)?;
        let stop = watch::Sender::new(false);
        Ok(Self {
            folder,
            authority,
            agencies,
            port,
            stop,
        })
    }

    fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    fn issue(&self, role: &str, id: &str) -> Result<Issued, CliError> {
        let identity: Identity = format!("spiffe://{DOMAIN}/{role}/{id}")
            .parse()
            .map_err(other)?;
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let hosts = if role == "node" {
            hosts.as_slice()
        } else {
            &[]
        };
        self.authority.issue(&identity, hosts, 30).map_err(other)
    }

    async fn start(&self) -> Result<(Running, Vec<Running>), CliError> {
        let city = self.node(0, CITY, "南通市", None).await?;
        let parent = city.address;
        let counties = COUNTIES
            .iter()
            .zip(1u16..)
            .map(|((name, title), at)| self.node(at, name, title, Some(parent)));
        let counties = try_join_all(counties).await?;
        println!("{} nodes are up", counties.len() + 1);
        Ok((city, counties))
    }

    async fn node(
        &self,
        at: u16,
        name: &'static str,
        title: &'static str,
        parent: Option<SocketAddr>,
    ) -> Result<Running, CliError> {
        let issued = self.issue("node", name)?;
        let port = if self.port == 0 { 0 } else { self.port + at };
        let mut config = Config {
            audit: AuditConfig::default(),
            node: NodeConfig {
                id: name.to_owned(),
                trust_domain: DOMAIN.to_owned(),
                data: self.folder.join(name),
                listen: (Ipv4Addr::LOCALHOST, port).into(),
                utc_offset: UtcOffset::default(),
            },
            tls: TlsConfig {
                crls: Vec::new(),
                certificate: issued.certificate,
                key: issued.key,
                roots: vec![issued.root],
            },
            parent: parent.map(|address| ParentConfig {
                endpoint: format!("https://{address}"),
                node: CITY.to_owned(),
                mode: Default::default(),
                window: DailyWindow::NIGHT,
                bandwidth_kib_s: 0,
            }),
            children: ChildrenConfig::default(),
            reference: ReferenceConfig {
                agencies: Some(self.folder.join("agencies.csv")),
                ..ReferenceConfig::default()
            },
            storage: StorageConfig {
                cache_mib: 16,
                ..StorageConfig::default()
            },
            metrics: MetricsConfig::default(),
            log: LogConfig::default(),
        };
        let node = match Node::open(config.clone()).await {
            // Someone else has the port: any free one will do.
            Err(NodeError::Bind { .. }) => {
                config.node.listen.set_port(0);
                Node::open(config).await?
            }
            opened => opened?,
        };
        let (address, ledger, uplink) = (node.address()?, node.ledger().clone(), node.uplink());
        let mut stopping = self.stop.subscribe();
        let stopped = async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let served = tokio::spawn(node.serve(stopped));
        Ok(Running {
            name,
            title,
            address,
            ledger,
            uplink,
            served,
        })
    }

    async fn client(&self, issued: &Issued, address: SocketAddr) -> Result<Client, ClientError> {
        let files = ClientFiles {
            certificate: issued.certificate.clone(),
            key: issued.key.clone(),
            roots: vec![issued.root.clone()],
        };
        let (dialer, server) = (Dialer::from_files(&files)?, format!("https://{address}"));
        Ok(Client(dialer.connect(&server, None).await?))
    }

    /// Every agency submits its own lists and reports at its own node, as it would from its own system.
    async fn submit(&self, counties: &[Running]) -> Result<(), CliError> {
        let mut rows = Rows::read()?;
        let bar = progress(rows.count());
        let mut submitting = Vec::new();
        for county in counties {
            let here = |agency: &&Agency| {
                let node = agency.nodes.first();
                node.is_some_and(|node| node.as_str() == county.name)
            };
            for agency in self.agencies.iter().filter(here) {
                let rows = rows.of(agency.id.as_str());
                if rows.iter().all(|(_, rows)| rows.is_empty()) {
                    continue;
                }
                let issued = self.issue("agency", agency.id.as_str())?;
                let (bar, address) = (bar.clone(), county.address);
                submitting.push(async move {
                    let client = self.client(&issued, address).await?;
                    for (register, rows) in rows {
                        submit_rows(&client, &register, rows, &bar).await?;
                    }
                    Ok::<_, CliError>(())
                });
            }
        }
        try_join_all(submitting).await?;
        bar.finish_and_clear();
        Ok(())
    }

    /// An auditor's look at every node: each entry, root, signature and register.
    async fn check(&self, city: &Running, counties: &[Running]) -> Result<Vec<String>, CliError> {
        let issued = self.issue("admin", "operator")?;
        let bar = progress(counties.len() + 1);
        let mut wrong = Vec::new();
        for running in counties.iter().chain([city]) {
            let client = self.client(&issued, running.address).await?;
            let verified = verify::live(&client).await?;
            wrong.extend(
                verified
                    .defects
                    .iter()
                    .map(|what| format!("{}: {what}", running.name)),
            );
            bar.inc(1);
        }
        bar.finish_and_clear();
        println!(
            "every entry, root, signature and register of {} nodes verified",
            bar.position()
        );
        Ok(wrong)
    }

    fn print_lines(&self, city: &Running, counties: &[Running]) {
        let Some(qidong) = counties.iter().find(|county| county.name == "qidong") else {
            return;
        };
        let pki = self.pki();
        let files = |who: &str| {
            let path = |name: &str| pki.join(name).display().to_string();
            let (ca, cert, key) = (
                path("ca.pem"),
                path(&format!("{who}.pem")),
                path(&format!("{who}.key")),
            );
            format!("grpcurl -cacert {ca} -cert {cert} -key {key}")
        };
        let (admin, agency) = (files("admin-operator"), files("agency-qidong-emergency"));
        let (up, down) = (port(city), port(qidong));
        let risk = r#"{"risk":{"name":"agencies/qidong-emergency/risks/DEMO-1","title":"试点风险","sector":"C2631","place":{"division":"320681","address":"启东市试点路1号"},"level":"RISK_LEVEL_GENERAL","state":"RISK_STATE_IDENTIFIED","factor":"合成数据","consequences":["CONSEQUENCE_TYPE_FIRE"],"responsible_unit":{"name":"试点单位（虚构）"},"regulator":"启东市应急管理局"}}"#;
        let list = r#"{"parent":"agencies/-/risks","filter":"level = MAJOR AND division = \"320681\"","page_size":3}"#;
        let get = r#"{"name":"agencies/qidong-emergency/incidents/I-2024-001"}"#;
        let watch = r#"{"parent":"agencies/-/risks"}"#;
        println!(
            "\nThe nodes go on serving; Ctrl-C ends them. Lines to paste in another terminal:\n"
        );
        println!("# the services of the city\n{admin} {up} list\n");
        println!(
            "# the city's view: Qidong's major risks\n{admin} -d '{list}' {up} hefu.risk.v1.RiskService/ListRisks\n"
        );
        println!(
            "# an incident, with grade and clocks, at the city\n{admin} -d '{get}' {up} hefu.incident.v1.IncidentService/GetIncident\n"
        );
        println!(
            "# follow risks at the city (then submit one below)\n{admin} -d '{watch}' {up} hefu.risk.v1.RiskService/WatchRisks\n"
        );
        println!(
            "# submit a risk at Qidong, as its emergency bureau\n{agency} -d '{risk}' {down} hefu.risk.v1.RiskService/SubmitRisk\n"
        );
        println!("# how the city stands\n{admin} {up} hefu.node.v1.NodeService/GetStatus\n");
        println!("ready");
    }
}

fn port(running: &Running) -> String {
    format!("localhost:{}", running.address.port())
}

/// The rows of the seeds, by agency; incidents in the order in which they were reported.
struct Rows {
    lists: BTreeMap<String, [Vec<DynamicMessage>; 4]>,
    registers: [RegisterApi; 4],
}

impl Rows {
    fn read() -> Result<Self, CliError> {
        let find = |id: &str| RegisterApi::find(id).ok_or_else(|| other(format!("no {id}")));
        let registers = [
            find("risks")?,
            find("measures")?,
            find("incidents")?,
            find("hazards")?,
        ];
        let files = [
            (0, RISKS),
            (1, MEASURES),
            (2, INCIDENTS),
            (2, FOLLOW_UPS),
            (3, HAZARDS),
            (3, HAZARD_FOLLOW_UPS),
        ];
        let mut lists: BTreeMap<String, [Vec<DynamicMessage>; 4]> = BTreeMap::new();
        for (at, file) in files {
            let register = registers.get(at).ok_or_else(|| other("no register"))?;
            let rows = csv::read(file.as_bytes(), &register.record, str::to_owned);
            for row in rows.map_err(other)? {
                let name = text(&row, "name");
                let agency = name.split('/').nth(1).unwrap_or_default().to_owned();
                if let Some(list) = lists.entry(agency).or_default().get_mut(at) {
                    list.push(row);
                }
            }
        }
        Ok(Self { lists, registers })
    }

    fn count(&self) -> usize {
        self.lists.values().flatten().map(Vec::len).sum()
    }

    fn of(&mut self, agency: &str) -> Vec<(RegisterApi, Vec<DynamicMessage>)> {
        let lists = self.lists.remove(agency).unwrap_or_default();
        self.registers.iter().cloned().zip(lists).collect()
    }
}

/// Lists go as lists; incidents one report at a time, as they happened.
async fn submit_rows(
    client: &Client,
    register: &RegisterApi,
    rows: Vec<DynamicMessage>,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    if rows.is_empty() {
        return Ok(());
    }
    if register.id == "incidents" {
        let submit = method(register, "SubmitIncident")?;
        for row in rows {
            let mut message = DynamicMessage::new(submit.input());
            message.set_field_by_name("request_id", Value::String(request_id(&row)));
            message.set_field_by_name("incident", Value::Message(row));
            client.unary(submit, message).await?;
            bar.inc(1);
        }
        return Ok(());
    }
    let mut refused = Vec::new();
    let listed = client.submit_list(register, rows, ListOptions::default(), |row| {
        bar.inc(1);
        refused.extend(refusal(row));
    });
    listed.await?;
    match refused.first() {
        None => Ok(()),
        Some(first) => Err(other(format!(
            "{} rows refused; the first: {first}",
            refused.len()
        ))),
    }
}

/// Waits until the city has cosigned everything.
async fn synced(counties: &[Running]) -> Result<(), CliError> {
    let bar = progress(counties.len());
    for county in counties {
        let Some(uplink) = &county.uplink else {
            continue;
        };
        let synced = uplink.sync(SYNC, |_| ()).await;
        if !synced.complete {
            return Err(other(synced.reason));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Prints what each county and the city hold, and returns what does not match.
fn show(city: &Running, counties: &[Running]) -> Result<Vec<String>, CliError> {
    let mut wrong = Vec::new();
    let mut rows = table::table([
        "county",
        "entries",
        "risks",
        "measures",
        "incidents",
        "hazards",
        "cosigned",
        "lag",
    ]);
    for county in counties {
        let own = county.ledger.log("").ok_or_else(|| other("no log"))?;
        let (size, records) = (own.tree.size(), live(&county.ledger, LogNo::OWN)?);
        let cosigned = county.cosigned(own.origin());
        wrong.extend(compare(city, county, &records)?);
        let count = |id: &str| records.get(id).copied().unwrap_or(0).to_string();
        rows.add_row([
            format!("{} {}", county.title, county.name),
            size.to_string(),
            count("risks"),
            count("measures"),
            count("incidents"),
            count("hazards"),
            cosigned.to_string(),
            size.saturating_sub(cosigned).to_string(),
        ]);
    }
    println!("{rows}");
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for (register, _, counts) in city.ledger.counts().map_err(NodeError::from)? {
        *totals.entry(register.to_string()).or_default() += counts.live;
    }
    let total = |id: &str| totals.get(id).copied().unwrap_or(0);
    let words = TOTALS.map(|(id, _)| format!("{} {id}", total(id)));
    println!("{} {CITY} holds {}", city.title, words.join(", "));
    for (id, due) in TOTALS {
        if total(id) != due {
            wrong.push(format!("the city holds {} {id}, not {due}", total(id)));
        }
    }
    Ok(wrong)
}

/// What the city holds of a county's log must be the same tree and the same records.
fn compare(
    city: &Running,
    county: &Running,
    records: &BTreeMap<String, u64>,
) -> Result<Vec<String>, CliError> {
    let own = county.ledger.log("").ok_or_else(|| other("no log"))?;
    let Some(mirrored) = city.ledger.log(own.origin()) else {
        return Ok(vec![format!(
            "{}: the city does not have its log",
            county.name
        )]);
    };
    let mut wrong = Vec::new();
    if mirrored.tree.root() != own.tree.root() {
        wrong.push(format!("{}: the city's root is another", county.name));
    }
    if live(&city.ledger, mirrored.log)? != *records {
        wrong.push(format!("{}: the city has other records", county.name));
    }
    Ok(wrong)
}

fn live(ledger: &Ledger, log: LogNo) -> Result<BTreeMap<String, u64>, CliError> {
    let counts = ledger.counts().map_err(NodeError::from)?;
    let own = counts.into_iter().filter(|(_, of, _)| *of == log);
    Ok(own
        .map(|(register, _, counts)| (register.to_string(), counts.live))
        .collect())
}

fn progress(length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}");
    ProgressBar::new(length as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
