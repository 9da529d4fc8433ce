//! Every method, every role, every relation between caller and owner, every kind of certificate: what is
//! tried comes from the descriptors, what must come of it stands here by hand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines
)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::{StreamExt as _, stream};
use hefu::{
    gateway::pki::{Authority, Issued},
    ledger::note::NodeKey,
    proto::{
        DESCRIPTORS,
        error::v1::ErrorReason,
        replication::v1::{self as replication, replicate_request, replicate_response},
        statistics::v1 as statistics,
    },
    services::status::decode,
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage as _, Value};
use support::{Clients, DOMAIN, Domain, QIDONG, Running, dial, hazard, incident, measure, risk};
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// All at one node, so that one caller stands in every relation to some owner.
const AGENCIES: &str = "id,name,divisions,kind,node
qidong-emergency,启东市应急管理局,320681,county-department,qidong
rudong-desk,如东县驻点,320623,county-department,qidong
nantong-desk,南通市驻点,320600,city-department,qidong
lusi-town,吕四港镇,320681100,town,qidong
";

/// The policy that is built in, but for administrators by name; and a duty room.
fn policy() -> String {
    let named = support::POLICY.replace("\"admin/*\"", "\"admin/operator\"");
    let agencies = "agency/qidong-emergency\", \"agency/rudong-desk\", \"agency/nantong-desk\", \
                    \"agency/lusi-town";
    named.replace(
        "agency/*\"]\nmay = [\"submit",
        &format!("{agencies}\"]\nmay = [\"submit"),
    ) + "\n[[grant]]\nwho = [\"agency/duty-room\"]\nmay = [\"read\"]\nregisters = [\"*\"]\n\
           divisions = [\"320600\"]\n"
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// qidong-emergency.
    Agency,
    /// Reads across agencies, writes nothing.
    DutyRoom,
    Admin,
    Child,
    Auditor,
    /// Of the trust domain, and granted nothing.
    Stranger,
}

impl Role {
    const ALL: [Self; 6] = [
        Self::Agency,
        Self::DutyRoom,
        Self::Admin,
        Self::Child,
        Self::Auditor,
        Self::Stranger,
    ];

    fn identity(self) -> &'static str {
        match self {
            Self::Agency => "agency/qidong-emergency",
            Self::DutyRoom => "agency/duty-room",
            Self::Admin => "admin/operator",
            Self::Child => "node/lusi",
            Self::Auditor => "auditor/one",
            Self::Stranger => "admin/stranger",
        }
    }
}

/// Where the owner of a record lies, seen from qidong-emergency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Own,
    Other,
    Parent,
    Child,
}

impl Relation {
    const ALL: [Self; 4] = [Self::Own, Self::Other, Self::Parent, Self::Child];

    fn owner(self) -> &'static str {
        match self {
            Self::Own => QIDONG,
            Self::Other => "rudong-desk",
            Self::Parent => "nantong-desk",
            Self::Child => "lusi-town",
        }
    }

    fn division(self) -> &'static str {
        match self {
            Self::Own => "320681",
            Self::Other => "320623",
            Self::Parent => "320600",
            Self::Child => "320681100",
        }
    }

    /// What qidong-emergency may read.
    fn readable(self) -> bool {
        matches!(self, Self::Own | Self::Child)
    }
}

/// What must come of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It is served, and shows what was asked for.
    Shown,
    /// It is served, and shows nothing of what was asked for.
    Hidden,
    /// It is served, and shows that there is something, but not what.
    Hashes,
    Refused(ErrorReason),
    /// The connection does not come about.
    Unreachable,
}

use Due::{Hashes, Hidden, Refused, Shown};
use ErrorReason::{
    AgencyMismatch, CourierInvalid, IndexOutOfRange, MethodNotAllowed, ParentUnavailable,
    RecordNotFound,
};

/// The policy of this test in words that do not come from the program.
fn due(method: &MethodDescriptor, role: Role, relation: Relation) -> Due {
    let service = method.parent_service().full_name().to_owned();
    let denied = Refused(MethodNotAllowed);
    match (service.as_str(), method.name()) {
        (
            "hefu.risk.v1.RiskService"
            | "hefu.measure.v1.MeasureService"
            | "hefu.incident.v1.IncidentService"
            | "hefu.hazard.v1.HazardService"
            | "hefu.nilreport.v1.NilReportService",
            name,
        ) => {
            let writes = name.starts_with("Submit") || name.starts_with("Withdraw");
            let lists = name.starts_with("Watch")
                || name.starts_with("List") && !name.ends_with("Revisions");
            match role {
                Role::Agency if writes && relation == Relation::Own => Shown,
                Role::Agency if writes => Refused(AgencyMismatch),
                Role::Agency | Role::DutyRoom | Role::Admin if !writes => {
                    match (role == Role::Agency && !relation.readable(), lists) {
                        (false, _) => Shown,
                        (true, true) => Hidden,
                        (true, false) => Refused(RecordNotFound),
                    }
                }
                _ => denied,
            }
        }
        ("hefu.ledger.v1.LedgerService", name) => {
            let of_log = matches!(name, "ListLogs" | "GetCheckpoint" | "GetConsistencyProof");
            let of_entry = matches!(name, "ListEntries" | "GetInclusionProof" | "GetCustody");
            assert!(of_log || of_entry, "{name} has no row in the matrix");
            match role {
                Role::Child | Role::Stranger => denied,
                _ if of_log => Shown,
                Role::Agency if !relation.readable() => match name {
                    "ListEntries" => Hidden,
                    "GetInclusionProof" => Refused(IndexOutOfRange),
                    _ => Refused(RecordNotFound),
                },
                Role::Auditor if name != "GetInclusionProof" => Hashes,
                _ => Shown,
            }
        }
        // Figures of what one may not read are figures of nothing.
        ("hefu.statistics.v1.StatisticsService", "GetStatistics" | "GetReporting") => match role {
            Role::Agency if !relation.readable() => Hidden,
            Role::Agency | Role::DutyRoom | Role::Admin => Shown,
            _ => denied,
        },
        ("hefu.node.v1.NodeService", "GetStatus") if role == Role::Admin => Shown,
        // This node is at the top: that it says so shows that the call was let through.
        ("hefu.node.v1.NodeService", "SyncParent") if role == Role::Admin => {
            Refused(ParentUnavailable)
        }
        ("hefu.node.v1.NodeService", "GetStatus" | "SyncParent") => denied,
        // This node is at the top and gets no files: that it says so shows that the call was let through.
        ("hefu.replication.v1.CourierService", method) if role == Role::Admin => match method {
            "ExportCourier" => Refused(ParentUnavailable),
            _ => Refused(CourierInvalid),
        },
        ("hefu.replication.v1.CourierService", _) => denied,
        ("hefu.replication.v1.ReplicationService", "Replicate") => match (role, relation) {
            (Role::Child, Relation::Own) => Shown,
            (Role::Child, _) => Hidden,
            _ => denied,
        },
        ("hefu.quota.v1.QuotaService", "GetQuota") => match role {
            Role::Stranger => denied,
            _ => Shown,
        },
        ("hefu.audit.v1.AuditService", _) => match role {
            Role::Admin | Role::Auditor => Shown,
            _ => denied,
        },
        _ => panic!(
            "{} has no row in the matrix: say who may call it",
            method.full_name()
        ),
    }
}

/// Bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// The first answer of a method of any kind; `None` where it ends, or says nothing, without one.
async fn call(
    channel: Channel,
    method: &MethodDescriptor,
    message: Bytes,
) -> Result<Option<Bytes>, Status> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    // A stream of requests stays open: replication would end with it.
    let open = method.is_client_streaming() && method.is_server_streaming();
    let messages = stream::iter([message]);
    let messages = if open && method.name() == "Replicate" {
        messages.chain(stream::pending()).boxed()
    } else {
        messages.boxed()
    };
    let answers = client.streaming(Request::new(messages), path.parse().unwrap(), Raw);
    let mut answers = answers.await?.into_inner();
    match tokio::time::timeout(Duration::from_millis(800), answers.message()).await {
        Ok(answer) => answer,
        Err(_silent) => Ok(None),
    }
}

/// A node with one record of each register of each owner.
struct World {
    domain: Domain,
    node: Running,
    /// The place of each record's entry in the log.
    entries: BTreeMap<String, i64>,
}

fn record(register: &str, relation: Relation, name: &str) -> Bytes {
    let mut place = support::place();
    place.division = relation.division().to_owned();
    match register {
        "risks" => {
            let mut risk = risk("R-1");
            (risk.name, risk.place) = (name.to_owned(), Some(place));
            risk.encode_to_vec()
        }
        "measures" => {
            let mut measure = measure("M-1", "R-1");
            measure.name = name.to_owned();
            measure.risk = format!("agencies/{}/risks/R-1", relation.owner());
            measure.encode_to_vec()
        }
        "incidents" => {
            let mut incident = incident("I-1");
            (incident.name, incident.place) = (name.to_owned(), Some(place));
            incident.encode_to_vec()
        }
        "hazards" => {
            let mut hazard = hazard("H-1");
            (hazard.name, hazard.place) = (name.to_owned(), Some(place));
            hazard.encode_to_vec()
        }
        "nilreports" => support::nil_report(name, "incidents", "2020-02-18").encode_to_vec(),
        other => panic!("the matrix has no record of {other}"),
    }
    .into()
}

/// The register of a method, by its service.
fn register(method: &MethodDescriptor) -> Option<(&'static str, &'static str)> {
    match method.parent_service().full_name() {
        "hefu.risk.v1.RiskService" => Some(("risks", "R-1")),
        "hefu.measure.v1.MeasureService" => Some(("measures", "M-1")),
        "hefu.incident.v1.IncidentService" => Some(("incidents", "I-1")),
        "hefu.hazard.v1.HazardService" => Some(("hazards", "H-1")),
        "hefu.nilreport.v1.NilReportService" => Some(("nilreports", "N-1")),
        _ => None,
    }
}

fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let services: Vec<_> = pool.services().collect();
    services
        .iter()
        .flat_map(|s| s.methods().collect::<Vec<_>>())
        .collect()
}

impl World {
    async fn new() -> Self {
        let domain = Domain::new();
        domain.replace("agencies.csv", AGENCIES);
        domain.replace("policy.toml", &policy());
        let mut config = domain.config("qidong", None);
        for role in Role::ALL {
            domain.revoked(role.identity());
        }
        config.tls.crls = vec![domain.folder.path().join("pki/crl.pem")];
        let node = Running::start(config).await;
        let (mut entries, mut at) = (BTreeMap::new(), 0);
        for relation in Relation::ALL {
            let owner = relation.owner();
            let channel = domain.channel(&format!("agency/{owner}"), &node).await;
            for (service, register, item) in [
                ("RiskService/SubmitRisk", "risks", "R-1"),
                ("MeasureService/SubmitMeasure", "measures", "M-1"),
                ("IncidentService/SubmitIncident", "incidents", "I-1"),
                ("HazardService/SubmitHazard", "hazards", "H-1"),
                ("NilReportService/SubmitNilReport", "nilreports", "N-1"),
            ] {
                let name = format!("agencies/{owner}/{register}/{item}");
                let (service, method) = service.split_once('/').unwrap();
                let found = |m: &MethodDescriptor| {
                    m.name() == method && m.parent_service().name() == service
                };
                let method = methods().into_iter().find(found).unwrap();
                let request = request_of(&method, relation, &name, register, 0, false);
                call(channel.clone(), &method, request)
                    .await
                    .unwrap()
                    .unwrap();
                entries.insert(name, at);
                at += 1;
            }
        }
        Self {
            domain,
            node,
            entries,
        }
    }

    fn request(&self, method: &MethodDescriptor, relation: Relation) -> Bytes {
        let (register, item) = register(method).unwrap_or(("risks", "R-1"));
        let name = format!("agencies/{}/{register}/{item}", relation.owner());
        if method.name() == "Replicate" {
            return hello(relation).into();
        }
        request_of(method, relation, &name, register, self.entries[&name], true)
    }

    /// What came of a call.
    fn outcome(
        &self,
        method: &MethodDescriptor,
        relation: Relation,
        answer: Result<Option<Bytes>, Status>,
    ) -> Due {
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return Hidden,
            Err(status) => {
                return decode(&status).reason.map_or(Due::Unreachable, Refused);
            }
        };
        let (register, item) = register(method).unwrap_or(("risks", "R-1"));
        let name = format!("agencies/{}/{register}/{item}", relation.owner());
        match method.name() {
            "GetStatistics" => {
                let answer = statistics::GetStatisticsResponse::decode(answer).unwrap();
                let figures = answer.total.unwrap().figures.unwrap();
                if figures.count > 0 { Shown } else { Hidden }
            }
            "GetReporting" => {
                let answer = statistics::GetReportingResponse::decode(answer).unwrap();
                let owner = relation.owner();
                let shown = answer.reporters.iter().any(|row| row.agency == owner);
                if shown { Shown } else { Hidden }
            }
            "ListEntries" => entry_shown(&answer, "entries", self.entries[&name]),
            "GetCustody" => entry_shown(&answer, "entry", self.entries[&name]),
            "Replicate" => {
                let answer = replication::ReplicateResponse::decode(answer).unwrap();
                let Some(replicate_response::Message::Welcome(welcome)) = answer.message else {
                    panic!("{answer:?}");
                };
                let origin = format!("{DOMAIN}/{}/00000009", node_of(relation));
                let taken = welcome.logs.iter().any(|log| log.origin == origin);
                if taken { Shown } else { Hidden }
            }
            watch if watch.starts_with("Watch") || watch.starts_with("List") => {
                let named = |bytes: &Bytes| {
                    bytes
                        .windows(name.len())
                        .any(|window| window == name.as_bytes())
                };
                if register_less(method) || named(&answer) {
                    Shown
                } else {
                    Hidden
                }
            }
            _ => Shown,
        }
    }
}

fn register_less(method: &MethodDescriptor) -> bool {
    register(method).is_none()
}

/// Whether the entry at `index` is in the answer, and its body with it.
fn entry_shown(answer: &Bytes, field: &str, index: i64) -> Due {
    let message = if field == "entries" {
        "hefu.ledger.v1.ListEntriesResponse"
    } else {
        "hefu.ledger.v1.GetCustodyResponse"
    };
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name(message).unwrap();
    let answer = DynamicMessage::decode(descriptor, answer.clone()).unwrap();
    let value = answer.get_field_by_name(field).unwrap();
    let entries: Vec<DynamicMessage> = match &*value {
        Value::List(entries) => {
            let entries = entries.iter();
            entries.filter_map(|e| e.as_message().cloned()).collect()
        }
        Value::Message(entry) => vec![entry.clone()],
        _ => Vec::new(),
    };
    let number = |entry: &DynamicMessage| entry.get_field_by_name("index").unwrap().as_i64();
    let found = entries.iter().find(|entry| number(entry) == Some(index));
    match found.map(|entry| entry.get_field_by_name("entry_bytes").unwrap().into_owned()) {
        None => Hidden,
        Some(Value::Bytes(bytes)) if bytes.is_empty() => Hashes,
        Some(_) => Shown,
    }
}

/// Fills in the fields by their names; what a method does not have is left out.
fn request_of(
    method: &MethodDescriptor,
    relation: Relation,
    name: &str,
    register: &str,
    index: i64,
    dry: bool,
) -> Bytes {
    let mut request = DynamicMessage::new(method.input());
    let fields: Vec<_> = request.descriptor().fields().collect();
    for field in fields {
        let value = match field.name() {
            "name" => Value::String(name.to_owned()),
            "parent" => Value::String(format!("agencies/{}/{register}", relation.owner())),
            "risk" | "measure" | "incident" | "hazard" | "nilreport" => {
                let bytes = record(register, relation, name);
                let kind = field.kind().as_message().unwrap().clone();
                Value::Message(DynamicMessage::decode(kind, bytes).unwrap())
            }
            "risks" | "measures" | "incidents" | "hazards" | "nilreports" => {
                let bytes = record(register, relation, name);
                let kind = field.kind().as_message().unwrap().clone();
                Value::List(vec![Value::Message(
                    DynamicMessage::decode(kind, bytes).unwrap(),
                )])
            }
            "register" => Value::String("hazards".into()),
            "agency" if method.name() == "GetStatistics" => Value::String(relation.owner().into()),
            "from_date" | "date" => Value::String("2024-02-01".into()),
            "to_date" => Value::String("2024-02-29".into()),
            "validate_only" => Value::Bool(dry),
            "cascade" => Value::Bool(true),
            "from_start" => Value::Bool(true),
            "reason" => Value::String("不再需要".into()),
            "index" | "start" => Value::I64(index),
            "page_size" if method.name() == "ListEntries" => Value::I32(1),
            "old_size" => Value::I64(1),
            _ => continue,
        };
        request.set_field(&field, value);
    }
    request.encode_to_vec().into()
}

/// The node whose log a child brings, beside its own.
fn node_of(relation: Relation) -> &'static str {
    match relation {
        Relation::Own => "lusi",
        Relation::Other => "rudong",
        Relation::Parent => "nantong",
        Relation::Child => "below-lusi",
    }
}

fn hello(relation: Relation) -> Vec<u8> {
    let offer = |node: &str| {
        let (origin, name) = (
            format!("{DOMAIN}/{node}/00000009"),
            format!("{DOMAIN}/{node}"),
        );
        let key = NodeKey::new(&[7; 32], &origin, &name);
        replication::LogOffer {
            verifier_key: key.log_key().to_string(),
            origin,
            ..Default::default()
        }
    };
    let mut logs = vec![offer("lusi")];
    if relation != Relation::Own {
        logs.push(offer(node_of(relation)));
    }
    let hello = replication::Hello {
        version_min: 1,
        version_max: 1,
        logs,
        recover: false,
    };
    let message = Some(replicate_request::Message::Hello(hello));
    replication::ReplicateRequest { message }.encode_to_vec()
}

/// A certificate that must not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Expired,
    Revoked,
    OtherRoot,
    None,
}

impl Wrong {
    const ALL: [Self; 4] = [Self::Expired, Self::Revoked, Self::OtherRoot, Self::None];
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell_of_the_matrix_is_as_the_policy_says() {
    let world = Arc::new(World::new().await);
    let mut cells = Vec::new();
    for role in Role::ALL {
        let channel = world.domain.channel(role.identity(), &world.node).await;
        for method in methods() {
            for relation in Relation::ALL {
                cells.push((role, channel.clone(), method.clone(), relation));
            }
        }
    }
    let tried = cells.len();
    let judged = stream::iter(cells).map(|(role, channel, method, relation)| {
        let world = world.clone();
        async move {
            let answer = call(channel, &method, world.request(&method, relation)).await;
            let came = world.outcome(&method, relation, answer);
            let due = due(&method, role, relation);
            (came != due).then(|| {
                format!(
                    "{} as {role:?} of {relation:?}: {came:?}, not {due:?}",
                    method.full_name()
                )
            })
        }
    });
    let judged: Vec<Option<String>> = judged.buffer_unordered(32).collect().await;
    let wrong: Vec<_> = judged.into_iter().flatten().collect();
    println!(
        "matrix: {tried} cells tried with valid certificates, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Certificates of the same names, each wrong in its way.
struct Impostors(BTreeMap<(&'static str, String), Issued>);

impl Impostors {
    fn new(world: &World) -> Self {
        let folder = world.domain.folder.path().join("other");
        let other = Authority::create(&folder, "another authority").unwrap();
        let mut issued = BTreeMap::new();
        for role in Role::ALL {
            let identity = format!("spiffe://{DOMAIN}/{}", role.identity())
                .parse()
                .unwrap();
            let foreign = other.issue(&identity, &[], 1).unwrap();
            // It trusts this node's authority: only the node can tell that it is foreign.
            let root = world.domain.issue(role.identity()).root;
            let foreign = Issued { root, ..foreign };
            issued.insert(
                (role.identity(), format!("{:?}", Wrong::OtherRoot)),
                foreign,
            );
            let revoked = world.domain.revoked_before(role.identity());
            issued.insert((role.identity(), format!("{:?}", Wrong::Revoked)), revoked);
            let expired = world.domain.expired(role.identity());
            issued.insert((role.identity(), format!("{:?}", Wrong::Expired)), expired);
        }
        Self(issued)
    }

    async fn dial(&self, role: Role, wrong: Wrong, node: &Running) -> Option<Channel> {
        if wrong == Wrong::None {
            return support::dial_without_certificate(node).await;
        }
        let issued = &self.0[&(role.identity(), format!("{wrong:?}"))];
        dial(issued, node.address).await.ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_method_answers_a_wrong_certificate() {
    let world = Arc::new(World::new().await);
    let impostors = Arc::new(Impostors::new(&world));
    let mut cells = Vec::new();
    for role in Role::ALL {
        for method in methods() {
            for relation in Relation::ALL {
                for wrong in Wrong::ALL {
                    cells.push((role, method.clone(), relation, wrong));
                }
            }
        }
    }
    let tried = cells.len();
    let judged = stream::iter(cells).map(|(role, method, relation, wrong)| {
        let (world, impostors) = (world.clone(), impostors.clone());
        async move {
            let channel = impostors.dial(role, wrong, &world.node).await?;
            let answer = call(channel, &method, world.request(&method, relation)).await;
            let came = world.outcome(&method, relation, answer);
            (came != Due::Unreachable)
                .then(|| format!("{} as {role:?}, {wrong:?}: {came:?}", method.full_name()))
        }
    });
    let judged: Vec<Option<String>> = judged.buffer_unordered(32).collect().await;
    let bad: Vec<_> = judged.into_iter().flatten().collect();
    println!(
        "matrix: {tried} cells tried with wrong certificates, {} wrong",
        bad.len()
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    // The node is none the worse for it.
    let mut operator = Clients::new(world.domain.channel("admin/operator", &world.node).await);
    operator
        .node
        .get_status(hefu::proto::node::v1::GetStatusRequest {})
        .await
        .unwrap();
}
