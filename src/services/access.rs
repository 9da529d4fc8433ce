//! Who may see and write what: the one place that decides it for records.
//!
//! An agency writes under its own name, within its own divisions, at its own node. It reads its own
//! records, and those of agencies whose divisions all lie within its own: the city's emergency bureau reads
//! every county's, a county's bureau its county's. Administrators read everything. What one may not
//! read does not exist for one.

use std::sync::Arc;

use crate::types::{
    Agency, AgencyId, AgencyTable, Identity, NodeId, Reason, RecordName, Refusal, Role,
};

/// The rule table of access: the agencies, and which node this is.
#[derive(Clone)]
pub struct Access {
    agencies: Arc<AgencyTable>,
    node: NodeId,
}

/// A caller, as far as records go.
#[derive(Clone)]
pub struct Caller {
    identity: Identity,
    agency: Option<Agency>,
    access: Access,
}

impl Access {
    /// Access at a node, for these agencies.
    #[must_use]
    pub fn new(agencies: Arc<AgencyTable>, node: NodeId) -> Self {
        Self { agencies, node }
    }

    /// A caller with its agency's registration, where it is an agency that has one.
    #[must_use]
    pub fn caller(&self, identity: &Identity) -> Caller {
        let agency = identity
            .agency()
            .and_then(|id| self.agencies.get(id))
            .cloned();
        Caller {
            identity: identity.clone(),
            agency,
            access: self.clone(),
        }
    }
}

impl Caller {
    /// The SPIFFE ID.
    #[must_use]
    pub fn spiffe(&self) -> String {
        self.identity.to_string()
    }

    /// The agency that may write `name` here.
    ///
    /// # Errors
    /// [`Reason::AgencyMismatch`], [`Reason::AgencyUnknown`], [`Reason::MethodNotAllowed`].
    pub fn writer(&self) -> Result<&Agency, Refusal> {
        let Some(id) = self.identity.agency() else {
            return Err(Refusal::new(Reason::MethodNotAllowed));
        };
        let here = self
            .agency
            .as_ref()
            .filter(|agency| agency.node.as_ref() == Some(&self.access.node));
        here.ok_or_else(|| Refusal::new(Reason::AgencyUnknown).with("agency", id))
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

    /// Whether the caller may read records of that agency.
    #[must_use]
    pub fn sees(&self, owner: &AgencyId) -> bool {
        if matches!(self.identity.role, Role::Admin(_)) || self.identity.agency() == Some(owner) {
            return true;
        }
        let Some(agency) = &self.agency else {
            return false;
        };
        let Some(owner) = self.access.agencies.get(owner) else {
            return false;
        };
        owner
            .divisions
            .iter()
            .all(|theirs| agency.divisions.iter().any(|own| own.contains(theirs)))
    }

    /// Whether the caller may read that record; if not, it is as absent.
    ///
    /// # Errors
    /// [`Reason::RecordNotFound`].
    pub fn reads(&self, name: &RecordName) -> Result<(), Refusal> {
        if self.sees(name.agency()) {
            Ok(())
        } else {
            Err(Reason::RecordNotFound.into())
        }
    }

    /// Whether the caller may read the ledger as a whole: administrators and nodes.
    #[must_use]
    pub fn sees_everything(&self) -> bool {
        matches!(self.identity.role, Role::Admin(_))
    }
}
