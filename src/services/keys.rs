//! The keys of logs: shown to whoever may see the log, changed by administrators.

use tonic::Request;

use super::{
    convert::{int, negative},
    node::Nodes,
};
use crate::{
    audit::Account,
    ledger::{
        LogView,
        entry::timestamp,
        key_change::KeyChange,
        key_history::{Authorisation, KeyPeriod},
        note::{KeyUse, VerifierKey},
    },
    proto::{ledger::v1 as ledger_pb, node::v1 as pb},
    types::{FieldReason, LogNo, Peer, Reason, Refusal, Violations},
};

/// The keys of a log, oldest first.
#[must_use]
pub fn keys_of(view: &LogView) -> ledger_pb::GetKeysResponse {
    let key = |period: KeyPeriod<'_>| {
        let change = period.by.map(|believed| &believed.change);
        ledger_pb::LogKey {
            verifier_key: period.key.to_string(),
            id: period.key.id(),
            from_size: change.map_or(0, |change| int(change.size())),
            until_size: period.until.map(int),
            time: change.map(|change| timestamp(change.time())),
            change: change.map(KeyChange::note).unwrap_or_default(),
            authorised_by: period
                .by
                .map(|believed| believed.authorised_by.clone())
                .unwrap_or_default(),
        }
    };
    ledger_pb::GetKeysResponse {
        origin: view.origin().to_owned(),
        keys: view.keys.periods().into_iter().map(key).collect(),
    }
}

impl Nodes {
    pub(super) async fn rotate<M>(
        &self,
        request: &Request<M>,
        from: Option<i64>,
    ) -> Result<KeyChange, Refusal> {
        let from = from.map(|size| u64::try_from(size).map_err(|_| negative("from_size")));
        let change = self.shared.ledger.rotate(from.transpose()?).await?;
        names(request, change.new_key());
        Ok(change)
    }

    pub(super) async fn authorise(
        &self,
        request: &Request<pb::AuthoriseKeyRequest>,
    ) -> Result<pb::AuthoriseKeyResponse, Refusal> {
        let asked = request.get_ref();
        let size = u64::try_from(asked.from_size).map_err(|_| negative("from_size"))?;
        let key: VerifierKey = asked
            .verifier_key
            .parse()
            .map_err(|e| not_a_key(&format!("{e}")))?;
        if key.purpose() != KeyUse::Log {
            return Err(not_a_key("it must be the key of a log, not of a cosigner"));
        }
        let origin = key.name().to_owned();
        names(request, &key);
        let ledger = &self.shared.ledger;
        match ledger.log(&origin) {
            Some(view) if view.log == LogNo::OWN => {
                return Err(not_a_key("it is of this node's own log: rotate that"));
            }
            Some(_) => {}
            // A log that is not held: of a node above, or of none that this node knows.
            None => {
                let node = origin.split('/').nth(1).unwrap_or_default();
                let known = self.board.knows_above(node);
                if !known || key.as_cosigner().name() != self.name_of(node) {
                    return Err(Reason::LogNotFound.into());
                }
            }
        }
        let peer = request.extensions().get::<Peer>();
        let by = peer.ok_or_else(|| Refusal::new(Reason::IdentityMissing))?;
        let by = by.identity.to_string();
        let authorised = ledger.authorise(Authorisation { key, size, by }).await;
        authorised.map_err(|_| Refusal::new(Reason::ShuttingDown))?;
        Ok(pb::AuthoriseKeyResponse { origin })
    }

    /// The name under which a node of this trust domain cosigns.
    fn name_of(&self, node: &str) -> String {
        format!("{}/{node}", self.shared.trust_domain)
    }
}

/// What the audit trail says that the call was about.
fn names<M>(request: &Request<M>, key: &VerifierKey) {
    if let Some(account) = request.extensions().get::<Account>() {
        account.names(&format!("{}+{}", key.name(), key.id()));
    }
}

fn not_a_key(why: &str) -> Refusal {
    let mut violations = Violations::new();
    violations.field(
        "verifier_key",
        FieldReason::BadFormat,
        why,
        "应为某日志的公钥（名称+编号+密钥）",
    );
    violations.into()
}
