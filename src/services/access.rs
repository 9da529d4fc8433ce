//! Who may see and write what: the one place that asks the policy, for gate and services alike.
//!
//! What one may not read does not exist for one. Rules are read when they are asked, not when a call
//! begins: a change of the policy reaches watches that are under way.

use std::sync::Arc;

use tokio::sync::watch;

use super::methods::Need;
use crate::{
    ledger::LogView,
    replication::Admission,
    types::{
        Action, Agency, AgencyId, AgencyTable, Identity, Limits, LogNo, NodeId, Origin, Policy,
        Reason, RecordName, Refusal, RegisterId, Role, Subject,
    },
};

/// What decisions rest on; replaced as a whole when a file changes.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Who is who, and where.
    pub agencies: Arc<AgencyTable>,
    /// Who may do what.
    pub policy: Arc<Policy>,
}

/// The rules of a node, as they stand now.
#[derive(Clone)]
pub struct Access {
    rules: watch::Receiver<Arc<Rules>>,
    node: NodeId,
}

/// A caller, as far as records go.
#[derive(Clone)]
pub struct Caller {
    identity: Identity,
    access: Access,
}

impl Access {
    /// Access at a node, by rules that may change.
    #[must_use]
    pub fn new(rules: watch::Receiver<Arc<Rules>>, node: NodeId) -> Self {
        Self { rules, node }
    }

    /// The node that decides.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Tells when the rules change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.clone()
    }

    /// The rules of this moment.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.borrow().clone()
    }

    /// A caller.
    #[must_use]
    pub fn caller(&self, identity: &Identity) -> Caller {
        Caller {
            identity: identity.clone(),
            access: self.clone(),
        }
    }

    /// Whether the identity may call a method at all.
    #[must_use]
    pub fn allows(&self, identity: &Identity, need: &Need) -> bool {
        self.ask(identity, |rules, subject| match need {
            Need::Nothing => true,
            Need::Something => rules.policy.knows(subject),
            Need::AnyOf(actions) => actions
                .iter()
                .any(|action| rules.policy.permits(subject, *action, None)),
            Need::On(action, register) => rules.policy.permits(subject, *action, Some(register)),
        })
    }

    /// How much the identity may use.
    #[must_use]
    pub fn limits(&self, identity: &Identity) -> Limits {
        self.ask(identity, |rules, subject| rules.policy.limits(subject))
    }

    fn ask<T>(&self, identity: &Identity, answer: impl FnOnce(&Rules, &Subject<'_>) -> T) -> T {
        let rules = self.rules.borrow();
        let agency = identity.agency().and_then(|id| rules.agencies.get(id));
        let subject = Subject {
            identity,
            agency,
            here: &self.node,
        };
        answer(&rules, &subject)
    }
}

impl Admission for Access {
    fn brings(&self, child: &Identity, origin: &Origin) -> bool {
        self.ask(child, |rules, subject| {
            rules.policy.brings(subject, origin.node())
        })
    }

    fn belongs(&self, agency: &AgencyId, origin: &Origin) -> bool {
        let rules = self.rules.borrow();
        let nodes = rules.agencies.get(agency).map(|agency| &agency.nodes);
        nodes.is_none_or(|nodes| nodes.is_empty() || nodes.contains(origin.node()))
    }
}

impl Caller {
    /// The SPIFFE ID.
    #[must_use]
    pub fn spiffe(&self) -> String {
        self.identity.to_string()
    }

    /// The agency, where it is one.
    #[must_use]
    pub fn agency(&self) -> Option<&AgencyId> {
        self.identity.agency()
    }

    /// Whether an action is granted.
    #[must_use]
    pub fn may(&self, action: Action) -> bool {
        self.access.ask(&self.identity, |rules, subject| {
            rules.policy.permits(subject, action, None)
        })
    }

    /// The agency that may write here, with the divisions that it may write for.
    ///
    /// # Errors
    /// [`Reason::AgencyUnknown`], [`Reason::MethodNotAllowed`].
    pub fn writer(&self, register: &RegisterId) -> Result<Agency, Refusal> {
        let Some(id) = self.identity.agency() else {
            return Err(Refusal::new(Reason::MethodNotAllowed));
        };
        self.access.ask(&self.identity, |rules, subject| {
            let here = subject.agency.filter(|agency| agency.is_at(subject.here));
            let unknown = || Refusal::new(Reason::AgencyUnknown).with("agency", id);
            let agency = here.ok_or_else(unknown)?;
            let divisions = rules.policy.writes(subject, register);
            if divisions.is_empty() {
                return Err(Refusal::new(Reason::MethodNotAllowed));
            }
            Ok(Agency {
                divisions,
                ..agency.clone()
            })
        })
    }

    /// Whether the caller may write records of that agency: only its own.
    ///
    /// # Errors
    /// [`Reason::AgencyMismatch`].
    pub fn owns(&self, agency: &AgencyId) -> Result<(), Refusal> {
        if self.identity.agency() == Some(agency) {
            return Ok(());
        }
        Err(Refusal::new(Reason::AgencyMismatch).with("agency", agency))
    }

    /// Whether the caller may read records of that agency in that register.
    #[must_use]
    pub fn sees(&self, register: &RegisterId, owner: &AgencyId) -> bool {
        self.access.ask(&self.identity, |rules, subject| {
            rules
                .policy
                .reads(subject, Some(register), owner, &rules.agencies)
        })
    }

    /// Whether the caller may read that record; if not, it is as absent.
    ///
    /// # Errors
    /// [`Reason::RecordNotFound`].
    pub fn reads(&self, name: &RecordName) -> Result<(), Refusal> {
        if self.sees(name.register(), name.agency()) {
            Ok(())
        } else {
            Err(Reason::RecordNotFound.into())
        }
    }

    /// Whether the caller may know of that log: it is the node's own, the caller may prove any entry, or
    /// may read records of an agency whose records it may hold.
    #[must_use]
    pub fn sees_log(&self, view: &LogView) -> bool {
        if view.log == LogNo::OWN || self.may(Action::Prove) {
            return true;
        }
        self.access.ask(&self.identity, |rules, subject| {
            rules.agencies.iter().any(|agency| {
                let holds = agency.nodes.iter().any(|node| node.as_str() == view.node());
                let reads = || {
                    rules
                        .policy
                        .reads(subject, None, &agency.id, &rules.agencies)
                };
                holds && reads()
            })
        })
    }

    /// Whether the caller may read entries that name no record: bytes of a later version.
    #[must_use]
    pub fn sees_unnamed(&self) -> bool {
        self.access.ask(&self.identity, |rules, subject| {
            rules.policy.reads_everything(subject)
        })
    }

    /// Whether a read of that agency's record crosses from one agency to another.
    #[must_use]
    pub fn crosses(&self, owner: &AgencyId) -> bool {
        !matches!(&self.identity.role, Role::Agency(id) if id == owner)
    }
}
