//! Which role may call which method. What is not in the table is denied.

use crate::types::Role;

/// The roles that a method is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Roles {
    agency: bool,
    node: bool,
    admin: bool,
}

const ALL: Roles = Roles {
    agency: true,
    node: true,
    admin: true,
};
const AGENCIES: Roles = Roles {
    agency: true,
    node: false,
    admin: false,
};
const READERS: Roles = Roles {
    agency: true,
    node: false,
    admin: true,
};
const NODES: Roles = Roles {
    agency: false,
    node: true,
    admin: false,
};
const OPERATORS: Roles = Roles {
    agency: false,
    node: true,
    admin: true,
};

/// Whether a role may call a method, named by its HTTP/2 path: `/package.Service/Method`.
#[must_use]
pub fn allows(role: &Role, path: &str) -> bool {
    let Some(roles) = roles(path) else {
        return false;
    };
    match role {
        Role::Agency(_) => roles.agency,
        Role::Node(_) => roles.node,
        Role::Admin(_) => roles.admin,
        Role::Auditor(_) => false,
    }
}

/// Whether the table has the method.
#[must_use]
pub fn knows(path: &str) -> bool {
    roles(path).is_some()
}

/// Whether a call of the method lasts until one side ends it, so that stopping must not wait for it.
#[must_use]
pub fn lasts(path: &str) -> bool {
    let (service, method) = path.rsplit_once('/').unwrap_or_default();
    method.starts_with("Watch")
        || service == "/hefu.replication.v1.ReplicationService"
        || service.ends_with(".ServerReflection")
}

fn roles(path: &str) -> Option<Roles> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    match service {
        "grpc.health.v1.Health"
        | "grpc.reflection.v1.ServerReflection"
        | "grpc.reflection.v1alpha.ServerReflection" => Some(ALL),
        "hefu.risk.v1.RiskService" => register(method, "Risk", "Risks"),
        "hefu.measure.v1.MeasureService" => register(method, "Measure", "Measures"),
        "hefu.incident.v1.IncidentService" => register(method, "Incident", "Incidents"),
        "hefu.ledger.v1.LedgerService" => Some(ALL),
        "hefu.replication.v1.ReplicationService" => Some(NODES),
        "hefu.node.v1.NodeService" => Some(OPERATORS),
        _ => None,
    }
}

/// Every register has the same methods: agencies write, agencies and administrators read.
fn register(method: &str, one: &str, many: &str) -> Option<Roles> {
    let (verb, rest) = ["Submit", "Withdraw", "Get", "List", "Watch"]
        .iter()
        .find_map(|verb| Some((*verb, method.strip_prefix(verb)?)))?;
    match (verb, rest) {
        ("Submit", noun) if noun == one || noun == many => Some(AGENCIES),
        ("Withdraw", noun) if noun == one => Some(AGENCIES),
        ("Get", noun) if noun == one => Some(READERS),
        ("List" | "Watch", noun) if noun == many => Some(READERS),
        ("List", noun) if noun.strip_suffix("Revisions") == Some(one) => Some(READERS),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::proto::DESCRIPTORS;

    #[test]
    fn every_method_of_the_protos_is_in_the_table() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let mut methods = 0;
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert!(knows(&path), "{path} is in no row of the policy");
                methods += 1;
            }
        }
        assert!(methods >= 30, "{methods}");
    }

    #[test]
    fn roles_are_kept_apart() {
        let agency = Role::Agency("qidong-emergency".parse().unwrap());
        let node = Role::Node("qidong".parse().unwrap());
        let admin = Role::Admin("operator".parse().unwrap());
        let submit = "/hefu.risk.v1.RiskService/SubmitRisk";
        let replicate = "/hefu.replication.v1.ReplicationService/Replicate";
        assert!(allows(&agency, submit) && !allows(&node, submit) && !allows(&admin, submit));
        assert!(allows(&node, replicate) && !allows(&agency, replicate));
        assert!(!allows(&admin, replicate));
        for path in [
            "",
            "/",
            "submit",
            "/hefu.risk.v1.RiskService/Submit",
            "/x/y",
            "/a/b/c",
        ] {
            assert!(!allows(&admin, path), "{path}");
        }
    }
}
