//! Cuts the power under a node that takes entries in, and asks whether anything acknowledged is gone.
//!
//! The disk is a loop-mounted ext4 that is shut down without flushing its log: what no fsync had
//! forced out is lost, as at a power failure. It does not model a drive that reorders its own cache.
//! Needs root; elsewhere it says that it is skipped, and why. `HEFU_CUTS=400 cargo test --release
//! --test powercut -- --nocapture` runs it longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use hefu::{
    cli::verify,
    proto::{
        ledger::v1::GetInclusionProofRequest, risk::v1::SubmitRiskRequest, r#type::v1::Receipt,
    },
};
use support::{
    Clients, Domain, QIDONG,
    process::{Process, Random, configure, times},
    risk,
};

type Acks = Arc<Mutex<Vec<Receipt>>>;

/// A disk in a file, and the tool that cuts its power.
struct Disk {
    folder: PathBuf,
    mounted: bool,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {}: {said}", arguments.join(" ")))
}

impl Disk {
    fn new(folder: &Path) -> Result<Self, String> {
        let disk = Self {
            folder: folder.to_owned(),
            mounted: false,
        };
        std::fs::create_dir_all(disk.mount_point()).map_err(|e| e.to_string())?;
        run("truncate", &["-s", "1G", &disk.image()])?;
        run(
            "mkfs.ext4",
            &["-q", "-F", "-E", "lazy_itable_init=0", &disk.image()],
        )?;
        let tools = [("cut.c", "cut", ""), ("nosync.c", "nosync.so", "-shared")];
        for (source, target, flag) in tools {
            let (source, target) = (format!("tests/powercut/{source}"), disk.path(target));
            let flags: Vec<&str> = [flag, "-fPIC"]
                .into_iter()
                .filter(|f| !f.is_empty())
                .collect();
            run("cc", &[&flags[..], &["-o", &target, &source]].concat())?;
        }
        Ok(disk)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn image(&self) -> String {
        self.path("disk.img")
    }

    fn mount_point(&self) -> String {
        self.path("disk")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("disk").join("node")
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image(), &self.mount_point()])?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) {
        for _ in 0..200 {
            if !self.mounted || run("umount", &[&self.mount_point()]).is_ok() {
                self.mounted = false;
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the disk stays busy");
    }

    fn cut(&self) {
        run(&self.path("cut"), &[&self.mount_point()]).unwrap();
    }

    /// A real power cut is followed by another boot; here the machine goes on, so its mark is changed.
    fn another_boot(&self) {
        let mark = self.data().join("state").join("RUNNING");
        if mark.exists() {
            std::fs::write(mark, "another boot").unwrap();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.mount_point()]);
    }
}

async fn write(mut clients: Clients, cut: u64, writer: u64, acks: Acks) {
    for n in 0.. {
        let risk = Some(risk(&format!("P{cut}-{writer}-{n}")));
        let request = SubmitRiskRequest {
            risk,
            ..Default::default()
        };
        let Ok(answer) = clients.risks.submit_risk(request).await else {
            return;
        };
        acks.lock()
            .unwrap()
            .push(answer.into_inner().receipt.unwrap());
    }
}

/// The acknowledged entries that are not where their receipts say.
async fn missing(clients: &mut Clients, acks: &[Receipt]) -> usize {
    let mut missing = 0;
    for receipt in acks {
        let request = GetInclusionProofRequest {
            index: receipt.index,
            ..Default::default()
        };
        let proof = clients.ledger.get_inclusion_proof(request).await;
        let held = proof.ok().and_then(|proof| proof.into_inner().leaf_hash);
        missing += usize::from(held != receipt.leaf_hash);
    }
    missing
}

/// One cut: how many acknowledgements it came after, and what is wrong behind it.
async fn cut(
    domain: &Domain,
    disk: &mut Disk,
    (number, moment): (u64, Duration),
    acks: &Acks,
    env: &[(&str, String)],
) -> Result<(), String> {
    let thorough = number % 10 == 9;
    disk.mount()?;
    let data = disk.data();
    let config = configure(domain, "qidong", &data, None);
    let node = Process::with_env(&config, env);
    let clients = node.clients(domain, &format!("agency/{QIDONG}")).await;
    let before = acks.lock().unwrap().len();
    let mut work = tokio::task::JoinSet::new();
    for writer in 0..4 {
        work.spawn(write(clients.clone(), number, writer, acks.clone()));
    }
    while acks.lock().unwrap().len() == before {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(moment).await;
    disk.cut();
    node.kill();
    while work.join_next().await.is_some() {}
    disk.unmount();
    disk.mount()?;
    disk.another_boot();
    let node = Process::try_start(&config);
    let result = match node {
        Err(said) => Err(format!("it does not start again: {said}")),
        Ok(node) => {
            let mut clients = node.clients(domain, &format!("agency/{QIDONG}")).await;
            // Those of the newest cuts every time; all of them at some cuts, with an audit.
            let acks = acks.lock().unwrap().clone();
            let acks = &acks[if thorough {
                0
            } else {
                acks.len().saturating_sub(400)
            }..];
            let lost = missing(&mut clients, acks).await;
            node.kill();
            if lost == 0 {
                Ok(())
            } else {
                Err(format!("{lost} of {} are gone", acks.len()))
            }
        }
    };
    if result.is_ok() && thorough {
        let verified = verify::folder(&data).map_err(|e| e.to_string())?;
        assert_eq!(verified.defects, Vec::<String>::new());
    }
    disk.unmount();
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let seed = random.seed();
    let mut disk = match Disk::new(&domain.folder.path().join("honest")) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: {why}"),
    };
    if let Err(why) = disk.mount() {
        return println!("skipped: {why}");
    }
    disk.unmount();
    let (cuts, acks) = (times("HEFU_CUTS", 40), Acks::default());
    for number in 0..cuts {
        let moment = Duration::from_micros(random.below(300_000));
        if let Err(why) = cut(&domain, &mut disk, (number, moment), &acks, &[]).await {
            panic!("cut {number}: {why} (seed {seed})");
        }
    }
    let acknowledged = acks.lock().unwrap().len();
    println!("{cuts} cuts, {acknowledged} acknowledged, 0 cuts failed (seed {seed})");

    // The control: the same on a disk that lies about syncing must lose something.
    let mut failed = 0;
    for number in 0..3 {
        let mut disk = Disk::new(&domain.folder.path().join(format!("lying-{number}"))).unwrap();
        let env = [("LD_PRELOAD", disk.path("nosync.so"))];
        let moment = Duration::from_micros(random.below(300_000));
        let result = cut(&domain, &mut disk, (number, moment), &Acks::default(), &env).await;
        disk.unmount();
        failed += usize::from(result.is_err());
    }
    println!("control without fsync: {failed} of 3 cuts failed, as they must");
    assert!(failed > 0, "the test would not see a loss");
}
