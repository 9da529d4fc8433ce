//! Who calls a service that is no register's own, and the account of the call.

use std::sync::Arc;

use tonic::Request;

use super::{
    access::{Access, Caller},
    quota::Meter,
};
use crate::{
    audit::Account,
    types::{Peer, Reason, Refusal},
};

/// A caller, and the account of the call.
pub(super) struct Asker {
    caller: Caller,
    /// The account.
    pub account: Account,
    /// What it uses.
    pub meter: Arc<Meter>,
}

impl std::ops::Deref for Asker {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Asker {
    /// Who made a request.
    pub fn of<M>(access: &Access, request: &Request<M>) -> Result<Self, Refusal> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Refusal::new(Reason::IdentityMissing))?;
        let account = request.extensions().get::<Account>();
        let account = account.ok_or_else(|| Refusal::new(Reason::Internal))?;
        let meter = request.extensions().get::<Arc<Meter>>();
        let meter = meter.ok_or_else(|| Refusal::new(Reason::Internal))?;
        Ok(Self {
            caller: access.caller(&peer.identity),
            account: account.clone(),
            meter: meter.clone(),
        })
    }
}
