//! What each method needs: the methods of the descriptors, and the action that a policy must grant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use prost_reflect::{DescriptorPool, MethodDescriptor};

use crate::{
    proto::DESCRIPTORS,
    registers::{About, AnyRegister, Registers},
    types::{Action, RegisterId},
};

/// What a caller needs to be granted before a method looks at the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A certificate of the trust domain: health.
    Nothing,
    /// Any grant: reflection, and one's own quota.
    Something,
    /// One of these actions.
    AnyOf(&'static [Action]),
    /// An action on a register.
    On(Action, RegisterId),
}

impl Need {
    /// Whether a call of `path`, which needs this, is recorded whatever comes of it: it changes something,
    /// or looks at the trail.
    #[must_use]
    pub fn is_recorded(&self, path: &str) -> bool {
        let method = path.rsplit('/').next().unwrap_or_default();
        let looks = ["Get", "List", "Watch"]
            .iter()
            .any(|v| method.starts_with(v));
        match self {
            Self::Nothing | Self::Something => false,
            Self::On(action, _) => *action == Action::Submit,
            Self::AnyOf(actions) => actions.contains(&Action::Audit) || !looks,
        }
    }
}

/// The services that are not registers' own, and the one action that each is for.
const SERVICES: &[(&str, &[Action])] = &[
    (
        "hefu.ledger.v1.LedgerService",
        &[Action::Read, Action::Prove],
    ),
    (
        "hefu.replication.v1.ReplicationService",
        &[Action::Replicate],
    ),
    ("hefu.statistics.v1.StatisticsService", &[Action::Read]),
    ("hefu.node.v1.NodeService", &[Action::Administer]),
    ("hefu.replication.v1.CourierService", &[Action::Administer]),
    ("hefu.audit.v1.AuditService", &[Action::Audit]),
];

/// The needs of every method that a node serves. What is not here is not served.
#[derive(Debug, Clone)]
pub struct Methods {
    registers: Arc<BTreeMap<String, (RegisterId, &'static About)>>,
    /// The paths of methods with a stream on either side.
    streams: Arc<BTreeSet<String>>,
}

impl Methods {
    /// Those of these registers, and of the services that every node has.
    #[must_use]
    pub fn new(registers: &Registers) -> Self {
        let services = registers.iter().map(|(id, register)| {
            let about = AnyRegister::about(register);
            (about.service.to_owned(), (id.clone(), about))
        });
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
        let methods = pool.services().flat_map(|service| {
            let methods: Vec<_> = service.methods().collect();
            methods
        });
        let streams =
            methods.filter(|method| method.is_client_streaming() || method.is_server_streaming());
        let path =
            |m: MethodDescriptor| format!("/{}/{}", m.parent_service().full_name(), m.name());
        Self {
            registers: Arc::new(services.collect()),
            streams: Arc::new(streams.map(path).collect()),
        }
    }

    /// Whether a call of the method is a stream, and so may last.
    #[must_use]
    pub fn is_stream(&self, path: &str) -> bool {
        self.streams.contains(path) || lasts(path)
    }

    /// What a method needs, by its HTTP/2 path `/package.Service/Method`; `None` for one that does not
    /// exist.
    #[must_use]
    pub fn need(&self, path: &str) -> Option<Need> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        if service == "grpc.health.v1.Health" {
            return Some(Need::Nothing);
        }
        if reflects(service) {
            return Some(Need::Something);
        }
        if service == "hefu.quota.v1.QuotaService" {
            return Some(Need::Something);
        }
        if let Some((_, actions)) = SERVICES.iter().find(|(known, _)| *known == service) {
            return Some(Need::AnyOf(actions));
        }
        let (id, about) = self.registers.get(service)?;
        Some(Need::On(action(method, about)?, id.clone()))
    }
}

/// Every method that there is, as `package.Service/Method`.
static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let foreign = [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/List",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];
    // Those that are built in decode; a test of this file does it too.
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap_or_default();
    let methods = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        let methods: Vec<_> = service.methods().collect();
        methods
            .into_iter()
            .map(move |method| format!("{name}/{}", method.name()))
    });
    methods.chain(foreign.map(str::to_owned)).collect()
});

/// The name of the method at an HTTP/2 path, where there is one: a word of this program, not of the caller.
#[must_use]
pub fn known(path: &str) -> Option<&'static str> {
    NAMES.get(path.strip_prefix('/')?).map(String::as_str)
}

/// Whether a call of the method lasts until one side ends it, so that stopping must not wait for it.
#[must_use]
pub fn lasts(path: &str) -> bool {
    let (service, method) = path.rsplit_once('/').unwrap_or_default();
    method.starts_with("Watch")
        || service == "/hefu.replication.v1.ReplicationService"
        || reflects(service.trim_start_matches('/'))
}

fn reflects(service: &str) -> bool {
    matches!(
        service,
        "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection"
    )
}

/// Every register has the same methods.
fn action(method: &str, about: &About) -> Option<Action> {
    let (one, many) = (about.singular, about.plural);
    let (verb, noun) = ["Submit", "Withdraw", "Get", "List", "Watch"]
        .iter()
        .find_map(|verb| Some((*verb, method.strip_prefix(verb)?)))?;
    match verb {
        "Submit" if noun == one || noun == many => Some(Action::Submit),
        "Withdraw" if noun == one => Some(Action::Submit),
        "Get" if noun == one => Some(Action::Read),
        "List" | "Watch" if noun == many => Some(Action::Read),
        "List" if noun.strip_suffix("Revisions") == Some(one) => Some(Action::Read),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DivisionTable, RuleTable};

    fn methods() -> Methods {
        let (divisions, rules) = (DivisionTable::builtin(), RuleTable::builtin());
        Methods::new(&Registers::new(divisions.into(), rules.into()))
    }

    #[test]
    fn every_method_of_the_protos_needs_something() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let mut seen = 0;
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let need = methods().need(&path);
                let own = service.name() == "QuotaService" && need == Some(Need::Something);
                assert!(
                    own || matches!(need, Some(Need::AnyOf(_) | Need::On(..))),
                    "{path}: {need:?}"
                );
                assert_eq!(known(&path), path.strip_prefix('/'));
                seen += 1;
            }
        }
        assert!(seen >= 30, "{seen}");
    }

    #[test]
    fn streams_are_known_from_the_descriptors() {
        for (path, stream) in [
            ("/hefu.risk.v1.RiskService/SubmitRisks", true),
            ("/hefu.risk.v1.RiskService/WatchRisks", true),
            ("/hefu.node.v1.NodeService/SyncParent", true),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                true,
            ),
            ("/hefu.risk.v1.RiskService/SubmitRisk", false),
            ("/hefu.risk.v1.RiskService/ListRisks", false),
        ] {
            assert_eq!(methods().is_stream(path), stream, "{path}");
        }
    }

    #[test]
    fn what_is_no_method_is_none() {
        for path in [
            "",
            "/",
            "submit",
            "/hefu.risk.v1.RiskService/Submit",
            "/hefu.risk.v1.RiskService/SubmitMeasure",
            "/hefu.risk.v1.RiskService/GetRisks",
            "/hefu.risk.v1.RiskService",
            "/x/y",
            "/a/b/c",
        ] {
            assert_eq!(methods().need(path), None, "{path}");
            assert_eq!(known(path), None, "{path}");
        }
    }
}
