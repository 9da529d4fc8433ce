//! Who may do what, and how much of it: grants and limits from one readable file. What is not granted is denied.
//!
//! The same functions answer for the gate, the services, and `hefu policy check`, so that an
//! explanation cannot differ from a decision.

mod file;
mod limits;
mod question;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt};

pub use file::PolicyError;
pub use limits::{Limit, Limits};
pub use question::{Case, Question, Verdict};

use super::{Agency, AgencyId, AgencyTable, DivisionCode, Identity, NodeId, RegisterId, Role};

/// What a grant lets one do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Submit and withdraw records under one's own agency's name.
    Submit,
    /// Read records: get, list, watch, history, entries, custody; and prove what one reads.
    Read,
    /// Logs, checkpoints and proofs of every entry, without what is in it.
    Prove,
    /// The audit trail.
    Audit,
    /// Status, syncing, keys: the node itself.
    Administer,
    /// Bring logs as a child.
    Replicate,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 6] = [
        Self::Submit,
        Self::Read,
        Self::Prove,
        Self::Audit,
        Self::Administer,
        Self::Replicate,
    ];

    /// Its name in a policy file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Prove => "prove",
            Self::Audit => "audit",
            Self::Administer => "administer",
            Self::Replicate => "replicate",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    /// `agency/*`: all of a kind.
    Kind(&'static str),
    /// `agency/qidong-emergency`.
    One(Role),
    /// `self`: the node's own certificate, with which its own commands call it.
    Itself,
}

/// Which divisions a grant covers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Area {
    /// `*`.
    Everywhere,
    /// `own`: those of the calling agency.
    Own,
    /// A division, with everything under it.
    Division(DivisionCode),
}

/// Whose logs a child may bring.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Brings {
    /// `*`.
    Any,
    /// `own`: those that it writes itself.
    Own,
    /// Those of one node.
    Node(NodeId),
}

/// One `[[grant]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// Its place in the file, from 1.
    number: usize,
    who: Vec<Who>,
    may: BTreeSet<Action>,
    /// `None` is all registers.
    registers: Option<BTreeSet<RegisterId>>,
    divisions: Vec<Area>,
    brings: Vec<Brings>,
}

/// Who asks, as far as a policy looks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// From the certificate.
    pub identity: &'a Identity,
    /// Its registration, where it is an agency that has one.
    pub agency: Option<&'a Agency>,
    /// The node that is asked.
    pub here: &'a NodeId,
}

/// All grants of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    grants: Vec<Grant>,
    bounds: Vec<limits::Bound>,
    digest: String,
}

impl Default for Policy {
    /// The policy of a node that is given none: `seeds/policy.toml`. A test parses it; if it did not
    /// parse, it would grant nothing.
    fn default() -> Self {
        Self::from_toml(include_str!("../../seeds/policy.toml")).unwrap_or(Self {
            grants: Vec::new(),
            bounds: Vec::new(),
            digest: String::new(),
        })
    }
}

impl Policy {
    /// SHA-256 of the file's text in hexadecimal digits: which policy it is.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The registers that grants name, so that a misspelt one is noticed.
    pub fn registers(&self) -> impl Iterator<Item = &RegisterId> {
        self.grants
            .iter()
            .flat_map(|grant| grant.registers.iter().flatten())
    }

    /// Whether the action is granted at all; for a register, where one is named.
    #[must_use]
    pub fn permits(
        &self,
        subject: &Subject<'_>,
        action: Action,
        register: Option<&RegisterId>,
    ) -> bool {
        self.granting(subject, action, register).next().is_some()
    }

    /// Whether anything is granted.
    #[must_use]
    pub fn knows(&self, subject: &Subject<'_>) -> bool {
        self.grants.iter().any(|grant| grant.is_for(subject))
    }

    /// The divisions that the subject's agency may submit for: its own, as far as they are granted.
    /// Empty where it may not submit.
    #[must_use]
    pub fn writes(&self, subject: &Subject<'_>, register: &RegisterId) -> Vec<DivisionCode> {
        let Some(agency) = subject.agency else {
            return Vec::new();
        };
        let mut divisions = BTreeSet::new();
        for grant in self.granting(subject, Action::Submit, Some(register)) {
            for area in &grant.divisions {
                match area {
                    Area::Everywhere | Area::Own => {
                        divisions.extend(agency.divisions.iter().cloned());
                    }
                    Area::Division(granted) => {
                        divisions.extend(
                            agency
                                .divisions
                                .iter()
                                .filter_map(|own| narrower(own, granted)),
                        );
                    }
                }
            }
        }
        divisions.into_iter().collect()
    }

    /// Whether the subject may read an agency's records: its own, and those of an agency whose divisions
    /// are all granted. An agency that is not registered is within `*` only. Without a register: whether in
    /// any of them.
    #[must_use]
    pub fn reads(
        &self,
        subject: &Subject<'_>,
        register: Option<&RegisterId>,
        owner: &AgencyId,
        agencies: &AgencyTable,
    ) -> bool {
        let own = subject.identity.agency() == Some(owner);
        let divisions = agencies.get(owner).map(|owner| owner.divisions.as_slice());
        self.granting(subject, Action::Read, register)
            .any(|grant| own || grant.covers(subject, divisions))
    }

    /// Whether the subject may read all records of all registers.
    #[must_use]
    pub fn reads_everything(&self, subject: &Subject<'_>) -> bool {
        self.granting(subject, Action::Read, None)
            .any(|grant| grant.registers.is_none() && grant.divisions.contains(&Area::Everywhere))
    }

    /// Whether a child may bring a log that `origin` writes.
    #[must_use]
    pub fn brings(&self, subject: &Subject<'_>, origin: &NodeId) -> bool {
        self.granting(subject, Action::Replicate, None)
            .flat_map(|grant| &grant.brings)
            .any(|brings| match brings {
                Brings::Any => true,
                Brings::Own => subject.identity.node() == Some(origin),
                Brings::Node(node) => node == origin,
            })
    }

    fn granting<'a>(
        &'a self,
        subject: &'a Subject<'_>,
        action: Action,
        register: Option<&'a RegisterId>,
    ) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(move |grant| {
            grant.may.contains(&action)
                && grant.is_for(subject)
                && register.is_none_or(|register| grant.is_of(register))
        })
    }
}

impl Who {
    fn names(&self, subject: &Subject<'_>) -> bool {
        let role = &subject.identity.role;
        match self {
            Self::Kind(kind) => role.kind() == *kind,
            Self::One(one) => role == one,
            Self::Itself => subject.identity.node() == Some(subject.here),
        }
    }
}

impl Grant {
    fn is_for(&self, subject: &Subject<'_>) -> bool {
        self.who.iter().any(|who| who.names(subject))
    }

    fn is_of(&self, register: &RegisterId) -> bool {
        self.registers
            .as_ref()
            .is_none_or(|registers| registers.contains(register))
    }

    /// Whether all of `divisions` lie within the grant; `None` stands for those that are not known.
    fn covers(&self, subject: &Subject<'_>, divisions: Option<&[DivisionCode]>) -> bool {
        if self.divisions.contains(&Area::Everywhere) {
            return true;
        }
        let within = |division: &DivisionCode| {
            self.divisions.iter().any(|area| match area {
                Area::Everywhere => true,
                Area::Own => subject.agency.is_some_and(|own| own.may_write(division)),
                Area::Division(granted) => granted.contains(division),
            })
        };
        divisions.is_some_and(|divisions| divisions.iter().all(within))
    }
}

/// What two divisions have in common: the narrower one, where it lies within the other.
fn narrower(one: &DivisionCode, other: &DivisionCode) -> Option<DivisionCode> {
    if one.contains(other) {
        Some(other.clone())
    } else {
        other.contains(one).then(|| one.clone())
    }
}
