//! Reference data: tables from files, and reading them again when they change.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    NodeError,
    metrics::{POLICY, Reloads},
};
use crate::{
    audit::Trail,
    config::{Config, ReferenceConfig},
    registers::Registers,
    replication::Board,
    services::access::Rules,
    types::{AgencyTable, ChildTable, DivisionTable, Policy, RuleTable, UtcOffset},
};

/// How often the files of the rules are looked at: a change is in force within this time.
pub const RULES_CHECK: Duration = Duration::from_secs(2);

/// Reference data of a node: what the configuration does not name is the program's own.
pub struct Reference {
    /// Agencies.
    pub agencies: Arc<AgencyTable>,
    /// Divisions.
    pub divisions: Arc<DivisionTable>,
    /// Rules.
    pub rules: Arc<RuleTable>,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// Which children are expected.
    pub children: Arc<ChildTable>,
}

impl Reference {
    /// Loads it.
    ///
    /// # Errors
    /// [`NodeError::Reference`] names file and line.
    pub fn load(config: &Config) -> Result<Self, NodeError> {
        Self::of(&config.reference)
    }

    /// Loads the files that are named.
    ///
    /// # Errors
    /// [`NodeError::Reference`] names file and line.
    pub fn of(paths: &ReferenceConfig) -> Result<Self, NodeError> {
        let divisions = table(paths.divisions.as_deref(), DivisionTable::from_csv)?;
        let rules = table(paths.rules.as_deref(), RuleTable::from_toml)?;
        let reference = Self {
            agencies: agencies(paths)?,
            divisions: Arc::new(divisions.unwrap_or_else(DivisionTable::builtin)),
            rules: Arc::new(rules.unwrap_or_else(RuleTable::builtin)),
            policy: Arc::default(),
            children: children(paths)?,
        };
        let policy = policy(paths, &reference.registers())?;
        Ok(Self {
            policy,
            ..reference
        })
    }

    /// The registers over it.
    #[must_use]
    pub fn registers(&self) -> Registers {
        Registers::new(self.divisions.clone(), self.rules.clone())
    }

    /// Who is who, and who may do what.
    #[must_use]
    pub fn access(&self) -> Rules {
        Rules {
            agencies: self.agencies.clone(),
            policy: self.policy.clone(),
        }
    }
}

fn agencies(paths: &ReferenceConfig) -> Result<Arc<AgencyTable>, NodeError> {
    let table = table(paths.agencies.as_deref(), AgencyTable::from_csv)?;
    Ok(Arc::new(table.unwrap_or_default()))
}

fn children(paths: &ReferenceConfig) -> Result<Arc<ChildTable>, NodeError> {
    let table = table(paths.children.as_deref(), ChildTable::from_csv)?;
    Ok(Arc::new(table.unwrap_or_default()))
}

/// A grant on a register that does not exist is an error: it grants nothing, which is not what its
/// author meant.
fn policy(paths: &ReferenceConfig, registers: &Registers) -> Result<Arc<Policy>, NodeError> {
    let checked = |text: &str| {
        let policy = Policy::from_toml(text).map_err(|e| e.to_string())?;
        let unknown = policy.registers().find(|id| registers.get(id).is_none());
        match unknown {
            Some(id) => Err(format!("there is no register {id}")),
            None => Ok(policy),
        }
    };
    let policy = table(paths.policy.as_deref(), checked)?;
    Ok(Arc::new(policy.unwrap_or_default()))
}

fn table<T, E: std::fmt::Display>(
    path: Option<&Path>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, NodeError> {
    let Some(path) = path else { return Ok(None) };
    let failed = |cause: String| NodeError::Reference {
        path: path.to_owned(),
        cause,
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    parse(text).map(Some).map_err(|e| failed(e.to_string()))
}

/// Puts the tables of agencies and of children and the policy in force again whenever their files change. One that is
/// wrong changes nothing: the former stays in force, and `failed` says why.
pub async fn watch_rules(
    paths: ReferenceConfig,
    registers: Arc<Registers>,
    rules: watch::Sender<Arc<Rules>>,
    failed: watch::Sender<Option<String>>,
    (board, zone): (Arc<Board>, UtcOffset),
    trail: Trail,
    reloads: Reloads,
) {
    let contents = |paths: &ReferenceConfig| {
        let read = |path: &Option<_>| path.as_ref().map(|path| std::fs::read(path).ok());
        [
            read(&paths.agencies),
            read(&paths.policy),
            read(&paths.children),
        ]
    };
    let mut seen = contents(&paths);
    let mut every = tokio::time::interval(RULES_CHECK);
    loop {
        every.tick().await;
        let now = contents(&paths);
        if now == seen {
            continue;
        }
        seen = now;
        let read = || -> Result<(Rules, Arc<ChildTable>), NodeError> {
            let rules = Rules {
                agencies: agencies(&paths)?,
                policy: policy(&paths, &registers)?,
            };
            Ok((rules, children(&paths)?))
        };
        match read() {
            Ok((new, children)) => {
                let digest = new.policy.digest().to_owned();
                tracing::info!(policy = digest, "agencies and policy were read again");
                if trail.event(format!("policy {digest} is in force")).is_err() {
                    // What cannot be recorded is not done; the node stops.
                    return;
                }
                board.expect(children, zone);
                rules.send_replace(Arc::new(new));
                failed.send_replace(None);
                reloads.done(POLICY);
            }
            Err(error) => {
                tracing::error!(%error, "the former agencies and policy stay in force");
                failed.send_replace(Some(error.to_string()));
                reloads.failed(POLICY);
            }
        }
    }
}
