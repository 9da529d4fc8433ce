//! One node: the real ledger, board, mirror and uplink over a simulated disk and network.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hefu::{
    ledger::{
        Intake, Ledger, Options,
        rules::{Change, Intent, JudgeError, Judgement, Proposal, Revision, Rules},
        seeds::MemorySeeds,
        staged::StateRead,
    },
    replication::{Admission, Board, Mirror, Uplink, UplinkOptions},
    storage::Batch,
    types::{AgencyId, Identity, Origin, RecordName, RegisterId},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    disk::{Disk, Life},
    net::{Net, Wire},
    random::Random,
    world::Wrong,
};

/// Lets every child bring every log.
struct Open;

impl Admission for Open {
    fn brings(&self, _: &Identity, _: &Origin) -> bool {
        true
    }

    fn belongs(&self, _: &AgencyId, _: &Origin) -> bool {
        true
    }
}

/// Knows no register: everything is carried.
struct Carry;

impl Rules for Carry {
    fn knows(&self, _: &RegisterId) -> bool {
        false
    }

    fn judge(&self, _: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError> {
        let record = match change.intent {
            Intent::Submit(record) => record.clone(),
            Intent::Withdraw { .. } => Bytes::new(),
        };
        Ok(Judgement {
            record,
            cascade: Vec::new(),
        })
    }

    fn index(&self, _: &RecordName, _: Option<Revision<'_>>, _: Revision<'_>, _: &mut Batch) {}
}

/// The seed of a node's signing key.
#[must_use]
pub fn seed_of(node: &str) -> [u8; 32] {
    let mut seed = [0; 32];
    for (byte, of) in seed.iter_mut().zip(node.bytes()) {
        *byte = of;
    }
    seed
}

/// A node that runs.
pub struct Running {
    /// Its ledger.
    pub ledger: Ledger,
    /// How its logs stand.
    pub board: Arc<Board>,
    /// Its disk, for this run.
    pub life: Arc<Life>,
    shutdown: CancellationToken,
    uplink: Option<JoinHandle<()>>,
}

/// A node, whether it runs or not.
pub struct Node {
    /// Its id.
    pub name: &'static str,
    parent: Option<&'static str>,
    disk: Disk,
    net: Net,
    /// While it runs.
    pub running: Option<Running>,
}

impl Node {
    /// A node with an empty disk, not started.
    #[must_use]
    pub fn new(name: &'static str, parent: Option<&'static str>, net: &Net, lies: bool) -> Self {
        Self {
            name,
            parent,
            disk: Disk::new(lies),
            net: net.clone(),
            running: None,
        }
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Starts, and checks that what was promised before is there.
    ///
    /// # Errors
    /// Where it does not open, or has lost something.
    pub async fn start(&mut self) -> Result<(), Wrong> {
        let (life, ledger) = self.open(&self.disk).await?;
        self.net
            .promises(|promises| promises.kept(self.name, &ledger))?;
        let parent = self.parent.map(|parent| parent.parse().unwrap());
        let board = Board::new(ledger.clone(), self.disk.clock.clone(), parent).unwrap();
        let shutdown = CancellationToken::new();
        let mirror = Mirror::new(board.clone(), Arc::new(Open), shutdown.clone());
        self.net.listen(self.name, mirror);
        let uplink = self.parent.and_then(|parent| self.uplink(parent, &board));
        let uplink = uplink.map(|uplink| {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { uplink.run(shutdown).await })
        });
        self.running = Some(Running {
            ledger,
            board,
            life,
            shutdown,
            uplink,
        });
        Ok(())
    }

    async fn open(&self, disk: &Disk) -> Result<(Arc<Life>, Ledger), Wrong> {
        let (life, journal, state) = disk.mount();
        let opened = Ledger::open_in_turn(Options {
            journal,
            state,
            rules: Arc::new(Carry),
            clock: disk.clock.clone(),
            trust_domain: "nantong.gov.cn".parse().unwrap(),
            node: self.name.parse().unwrap(),
            seeds: Arc::new(MemorySeeds::new(seed_of(self.name))),
            key_is_lost: false,
            incarnation: 7,
            head_file: None,
            progress: None,
        });
        let ledger = opened.await;
        let ledger = ledger.map_err(|e| Wrong(format!("{} does not open: {e}", self.name)))?;
        Ok((life, ledger))
    }

    /// Whether the derived state, after all that it went through, is what the journal alone gives.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn derives_again(&self) -> Result<(), Wrong> {
        let again = self.disk.underived();
        let (_, ledger) = self.open(&again).await?;
        ledger.stop().await;
        if again.derived() != self.disk.derived() {
            let text = "the derived state is not what the journal gives";
            return Err(Wrong(format!("{}: {text}", self.name)));
        }
        Ok(())
    }

    fn uplink(&self, parent: &'static str, board: &Arc<Board>) -> Option<Arc<Uplink>> {
        let wire = Wire {
            net: self.net.clone(),
            child: self.name,
            parent,
        };
        let options = UplinkOptions {
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            jitter: false,
            ..UplinkOptions::default()
        };
        Uplink::new(board.clone(), Arc::new(wire), options)
    }

    /// The power goes: at once, and whatever is under way.
    ///
    /// # Errors
    /// Where a part of it had panicked.
    pub async fn crash(&mut self, random: &mut Random) -> Result<(), Wrong> {
        if let Some(running) = self.running.take() {
            running.life.end();
            running.shutdown.cancel();
            let mut tasks = self.net.leave(self.name);
            tasks.extend(running.uplink);
            drop(running.ledger);
            for task in tasks {
                task.abort();
                no_panic(self.name, task).await?;
            }
        }
        self.disk.crash(random);
        Ok(())
    }

    /// A clean stop.
    ///
    /// # Errors
    /// Where a part of it had panicked.
    pub async fn stop(&mut self) -> Result<(), Wrong> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        running.shutdown.cancel();
        let mut tasks = self.net.leave(self.name);
        tasks.extend(running.uplink);
        for task in tasks {
            no_panic(self.name, task).await?;
        }
        running.ledger.stop().await;
        Ok(())
    }

    /// Submits records; what is acknowledged is promised.
    pub async fn submit(&self, records: std::ops::Range<u64>) -> bool {
        let Some(running) = &self.running else {
            return false;
        };
        let proposals = records.map(|record| Proposal {
            name: format!("agencies/{}-emergency/notes/N-{record}", self.name)
                .parse()
                .unwrap(),
            intent: Intent::Submit(Bytes::from(format!("record {record}"))),
            submitter: String::new(),
            request: None,
            etag: None,
            validate_only: false,
        });
        let Ok(submitted) = running.ledger.submit(proposals.collect()).await else {
            return false;
        };
        self.net
            .promises(|promises| promises.note(self.name, &submitted.checkpoint));
        submitted.results.iter().all(Result::is_ok)
    }

    /// Whether its storage has failed under it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| matches!(*running.ledger.intake().borrow(), Intake::Failed(_)))
    }
}

async fn no_panic(node: &str, task: JoinHandle<()>) -> Result<(), Wrong> {
    match task.await {
        Err(error) if error.is_panic() => Err(Wrong(format!("{node}: {error}"))),
        _ => Ok(()),
    }
}
