//! Certificates, roots and revocation lists are put in force again when their files change.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use tokio::sync::watch;

use super::metrics::{CERTIFICATES, Reloads};
use crate::{
    audit::Trail,
    config::{Config, TlsConfig},
    gateway::{
        identity::end,
        inventory::{Item, Kind, inventory},
        keys::{InForce, Keys},
        tls::{Files, TlsError},
    },
    types::{NodeId, TrustDomain},
};

/// How often the files are looked at: a change is in force within this time.
pub const KEYS_CHECK: Duration = Duration::from_secs(2);

/// Puts what the files hold in force whenever that changes, and records what changed.
pub(super) struct KeysWatch {
    files: TlsConfig,
    node: NodeId,
    domain: TrustDomain,
    keys: Keys,
    failed: watch::Sender<Option<String>>,
    trail: Trail,
    reloads: Reloads,
}

impl KeysWatch {
    /// Of a node with these files. `failed` says why what they hold now is not in force.
    pub(super) fn new(
        config: &Config,
        keys: Keys,
        failed: watch::Sender<Option<String>>,
        trail: Trail,
        reloads: Reloads,
    ) -> Result<Self, crate::config::ConfigError> {
        Ok(Self {
            files: config.tls.clone(),
            node: config.node_id()?,
            domain: config.trust_domain()?,
            keys,
            failed,
            trail,
            reloads,
        })
    }

    /// Runs until dropped, or until what changed cannot be recorded: then the node stops. What is wrong, or
    /// half written, changes nothing: the former stays in force.
    pub(super) async fn run(self) {
        let mut every = tokio::time::interval(KEYS_CHECK);
        // None at first: what changed while the node started is found too.
        let mut seen = None;
        loop {
            every.tick().await;
            let files = self.files.clone();
            let read = tokio::task::spawn_blocking(move || {
                let files = Files::of(&files);
                (files.digest(), files)
            });
            let Ok((digest, files)) = read.await else {
                continue;
            };
            if seen.replace(digest) == Some(digest) {
                continue;
            }
            match self.check(&files) {
                Ok(new) => {
                    if self.put(new).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the former certificates stay in force");
                    self.reloads.failed(CERTIFICATES);
                    self.failed.send_replace(Some(format!(
                        "{error}; the former certificates stay in force"
                    )));
                }
            }
        }
    }

    /// Whether the files hold what a node can go on with: as at start, and no certificate that has ended in
    /// the place of one that has not.
    fn check(&self, files: &Files) -> Result<InForce, TlsError> {
        let credentials = files.parse()?;
        let holder = credentials.of_node(&self.node, &self.domain)?;
        let current = self.keys.current();
        let first = current.credentials().chain.first();
        let stands = first
            .and_then(end)
            .is_some_and(|end| end > Timestamp::now());
        if stands && holder.end <= Timestamp::now() {
            let text = format!("the new certificate ended at {}", holder.end);
            return Err(TlsError::Setup(text));
        }
        InForce::new(credentials)
    }

    /// Recorded first: what cannot be recorded is not done.
    fn put(&self, new: InForce) -> Result<(), crate::audit::AuditError> {
        let of = |set: &InForce| BTreeSet::from_iter(inventory(set.credentials()));
        let current = self.keys.current();
        let (before, after) = (of(&current), of(&new));
        self.failed.send_replace(None);
        // The key is that of the certificate.
        if current.credentials().chain == new.credentials().chain && before == after {
            return Ok(());
        }
        for item in after.difference(&before) {
            self.record(&format!("{item} is in force{}", until(item)))?;
        }
        // A node has one certificate, so that a new one says enough.
        let gone = before.difference(&after);
        for item in gone.filter(|item| item.kind != Kind::Certificate) {
            self.record(&format!("{item} is in force no more"))?;
        }
        self.keys.replace(new);
        self.reloads.done(CERTIFICATES);
        Ok(())
    }

    fn record(&self, change: &str) -> Result<(), crate::audit::AuditError> {
        tracing::info!(change, "certificates were read again");
        self.trail.event(change)
    }
}

fn until(item: &Item) -> String {
    item.end
        .map_or_else(String::new, |end| format!(" until {end}"))
}
