//! One run: what is drawn, and what must hold all the way.

use std::time::Duration;

use hefu::{
    ledger::{Intake, Ledger, LogView, entry::StoredEntry, head::EntryRef},
    proto::replication::v1 as pb,
    replication::LinkState,
    types::{LogIndex, LogNo},
};
use tokio::time::{Instant, sleep};

use crate::{
    attack::{Attack, LIAR, Liar, Victim},
    net::{Net, Weather},
    node::{Node, Running},
    promise::root_of,
    random::Random,
};

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(pub String);

/// What a run was made of; two runs of one seed are equal in all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Played {
    /// Entries in the own logs of all nodes at the end.
    pub entries: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// A digest of all messages with their times.
    pub trace: u64,
    /// Crashes, among them torn writes.
    pub crashes: u64,
    /// Attacks that were tried.
    pub attacks: u64,
    /// Simulated milliseconds.
    pub millis: u64,
}

const CITY: usize = 1;
const COUNTY: usize = 2;
/// Children with their parents.
const LINKS: [(usize, usize); 2] = [(COUNTY, CITY), (CITY, 0)];
/// Until then everything is equal once it is quiet.
const QUIET: Duration = Duration::from_secs(900);

/// Plays the run of a seed. With `lies`, disks lose what they called durable: a control.
///
/// # Errors
/// What did not hold.
pub fn play(seed: u64, lies: bool) -> Result<Played, Wrong> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| Wrong(error.to_string()))?;
    runtime.block_on(async {
        let mut world = World::new(seed, lies).await?;
        world.derives = seed.is_multiple_of(4);
        let steps = 6 + world.random.below(12);
        for _ in 0..steps {
            world.step().await?;
            world.check()?;
        }
        world.settle().await?;
        world.end().await
    })
}

struct World {
    random: Random,
    net: Net,
    nodes: Vec<Node>,
    liar: Liar,
    /// Records that were submitted, of all nodes.
    records: u64,
    /// Records that were acknowledged, by node.
    acknowledged: Vec<Vec<u64>>,
    began: Instant,
    /// Up to when the clocks were moved on.
    clocks: Instant,
    played: Played,
    /// Whether the run ends with deriving every state again: a good part of what a run costs.
    derives: bool,
}

impl World {
    async fn new(seed: u64, lies: bool) -> Result<Self, Wrong> {
        let mut random = Random::new(seed);
        let disorder = random.percent(20);
        let net = Net::new(random.fork(), disorder);
        let nodes = [
            ("jiangsu", None),
            ("nantong", Some("jiangsu")),
            ("qidong", Some("nantong")),
        ];
        let nodes = nodes.map(|(name, parent)| Node::new(name, parent, &net, lies));
        let mut world = Self {
            random,
            net,
            nodes: nodes.into(),
            liar: Liar::default(),
            records: 0,
            acknowledged: vec![Vec::new(); 3],
            began: Instant::now(),
            clocks: Instant::now(),
            played: Played::default(),
            derives: false,
        };
        for node in &mut world.nodes {
            node.start().await?;
        }
        Ok(world)
    }

    async fn step(&mut self) -> Result<(), Wrong> {
        let which = usize::try_from(self.random.below(3)).unwrap();
        let child = self.nodes[1 + which % 2].name;
        match self.random.below(100) {
            0..35 => self.submit(which).await,
            35..45 => self.tear(which),
            45..53 => self.crash(which).await?,
            53..57 => self.nodes[which].stop().await?,
            57..64 => self.net.weather(child, Weather::Partitioned),
            64..72 => self.net.cut(child),
            72..76 => self.net.weather(child, Weather::HalfOpen),
            76..84 => self.net.weather(child, Weather::Fair),
            84..89 => self.turn_clock(which),
            _ => self.attack().await?,
        }
        let long = self.random.percent(5);
        sleep(self.random.millis(if long { 130_000 } else { 1_500 })).await;
        self.move_clocks();
        self.revive(50).await
    }

    async fn submit(&mut self, which: usize) {
        let count = 1 + self.random.below(4);
        let records = self.records..self.records + count;
        self.records += count;
        if self.nodes[which].submit(records.clone()).await {
            self.acknowledged[which].extend(records);
        }
    }

    fn tear(&mut self, which: usize) {
        let (after, keeps) = (self.random.below(4), self.random.percent(50));
        if let Some(running) = &self.nodes[which].running {
            running.life.tear(after, keeps);
        }
    }

    async fn crash(&mut self, which: usize) -> Result<(), Wrong> {
        self.played.crashes += 1;
        self.nodes[which].crash(&mut self.random).await
    }

    fn turn_clock(&mut self, which: usize) {
        let clock = &self.nodes[which].disk().clock;
        let by = self.random.millis(7_200_000);
        let now = hefu::types::Clock::now(clock.as_ref());
        clock.set(match self.random.percent(50) {
            true => now + by,
            false => now - by,
        });
    }

    fn move_clocks(&mut self) {
        let passed = self.clocks.elapsed();
        self.clocks = Instant::now();
        for node in &self.nodes {
            node.disk().clock.advance(passed);
        }
    }

    /// Nodes whose disk has failed under them are down; so many of a hundred of those that are down come
    /// back.
    async fn revive(&mut self, percent: u64) -> Result<(), Wrong> {
        for which in 0..self.nodes.len() {
            if self.nodes[which].has_failed() {
                self.crash(which).await?;
            }
            if self.nodes[which].running.is_none() && self.random.percent(percent) {
                self.nodes[which].start().await?;
            }
        }
        Ok(())
    }

    fn running(&self, which: usize) -> Option<&Running> {
        self.nodes[which].running.as_ref()
    }

    async fn attack(&mut self) -> Result<(), Wrong> {
        let drawn = self.random.below(Attack::ALL.len() as u64);
        let attack = Attack::ALL[usize::try_from(drawn).unwrap()];
        let more = 1 + self.random.below(3);
        let Some(city) = self.running(CITY).map(|running| running.ledger.clone()) else {
            return Ok(());
        };
        let held = |liar: &Liar| city.log(liar.origin()).map_or(0, |view| view.tree.size());
        if !self.liar.is_proven
            && let Some(link) = self.net.dial("nantong", LIAR)
        {
            let before = held(&self.liar);
            self.liar.be_honest(link, before, more).await;
        }
        let victim = self.victim(&city);
        let (held, link) = (held(&self.liar), self.net.dial("nantong", LIAR));
        let (Some(victim), Some(link)) = (victim, link) else {
            return Ok(());
        };
        if self.liar.try_on(attack, link, held, &victim).await? {
            self.played.attacks += 1;
        }
        Ok(())
    }

    /// The county's log, as someone on the way may have it.
    fn victim(&self, city: &Ledger) -> Option<Victim> {
        let county = &self.running(COUNTY)?.ledger;
        let view = county.log("")?;
        // At first sight a key is pinned; before that, only a policy can tell whose log it is.
        let held = city.log(view.origin())?.tree.size();
        let offer = pb::LogOffer {
            origin: view.origin().to_owned(),
            verifier_key: view.keys.current().to_string(),
            checkpoint: view.note.clone(),
            ..pb::LogOffer::default()
        };
        let behind = (held..view.tree.size())
            .map(|index| county.journal().read(LogNo::OWN, LogIndex(index)))
            .map(|entry| entry.unwrap().unwrap());
        Some(Victim {
            offer,
            held,
            behind: behind.collect(),
        })
    }

    // What must hold, all the way.

    fn check(&self) -> Result<(), Wrong> {
        for (which, node) in self.nodes.iter().enumerate() {
            if let Some(running) = self.running(which) {
                self.check_node(node.name, running)?;
            }
        }
        for (child, parent) in LINKS {
            self.check_link(child, parent)?;
        }
        Ok(())
    }

    fn check_node(&self, name: &str, running: &Running) -> Result<(), Wrong> {
        if let Intake::BehindParent(why) = &*running.ledger.intake().borrow() {
            return Err(Wrong(format!("{name} was stopped: {why}")));
        }
        for view in running.ledger.published().logs.values() {
            if view.origin() == self.liar.origin() {
                if self.liar.root(view.tree.size()) != Some(view.tree.root()) {
                    return Err(Wrong(format!("{name} holds what {LIAR} never signed")));
                }
            } else if let Some(why) = &view.quarantined {
                let origin = view.origin();
                return Err(Wrong(format!("{name} has quarantined {origin}: {why}")));
            }
        }
        for status in running.board.children() {
            let held = running.ledger.log(&status.origin);
            let current = status.state == LinkState::Current;
            if held.is_none_or(|view| view.tree.size() != status.size)
                || (current && status.lag() > 0)
            {
                return Err(Wrong(format!("{name} does not tell the truth: {status:?}")));
            }
        }
        Ok(())
    }

    fn check_link(&self, child: usize, parent: usize) -> Result<(), Wrong> {
        let above = self.nodes[parent].name;
        let Some(below) = self.running(child) else {
            return Ok(());
        };
        for status in below.board.uplinks() {
            let promised = self.net.promises(|p| p.size(above, &status.origin));
            let current = status.state == LinkState::Current;
            let size = below.ledger.log(&status.origin).map(|v| v.tree.size());
            if status.cosigned > promised
                || size != Some(status.size)
                || (current && status.lag() > 0)
            {
                let name = self.nodes[child].name;
                return Err(Wrong(format!(
                    "{name} does not tell the truth: {status:?}, cosigned are {promised}"
                )));
            }
        }
        let Some(held) = self.running(parent) else {
            return Ok(());
        };
        for view in below.ledger.published().logs.values() {
            if let Some(copy) = held.ledger.log(view.origin())
                && root_of(&below.ledger, view, copy.tree.size()) != Some(copy.tree.root())
            {
                let (origin, size) = (view.origin(), copy.tree.size());
                return Err(Wrong(format!("{above} holds another {origin} of {size}")));
            }
        }
        Ok(())
    }

    /// All is well from now on: everything becomes equal.
    async fn settle(&mut self) -> Result<(), Wrong> {
        self.net.heal();
        for node in &self.nodes {
            if let Some(running) = &node.running {
                running.life.tear(u64::MAX, false);
            }
        }
        self.revive(100).await?;
        let quiet = Instant::now();
        while let Some(why) = self.unequal() {
            if quiet.elapsed() > QUIET {
                return Err(Wrong(format!("after {QUIET:?} of quiet, {why}")));
            }
            sleep(Duration::from_secs(2)).await;
            self.move_clocks();
            self.check()?;
        }
        self.check()
    }

    fn unequal(&self) -> Option<String> {
        for (child, parent) in LINKS {
            let (name, above) = (self.nodes[child].name, self.nodes[parent].name);
            let (Some(below), Some(held)) = (self.running(child), self.running(parent)) else {
                return Some(format!("{name} or {above} does not run"));
            };
            for status in below.board.uplinks() {
                let copy = held.ledger.log(&status.origin);
                let size = copy
                    .as_ref()
                    .map_or(0, |copy: &std::sync::Arc<LogView>| copy.tree.size());
                let stands =
                    status.state == LinkState::Current || status.origin == self.liar.origin();
                if size != status.size || !stands {
                    return Some(format!("{above} holds {size} of {status:?}"));
                }
            }
        }
        None
    }

    /// The last look: at every entry, at what is derived, and once more after a restart.
    async fn end(mut self) -> Result<Played, Wrong> {
        if let Some(city) = self.running(CITY) {
            let view = city.ledger.log(self.liar.origin());
            let quarantined = view.is_some_and(|view| view.quarantined.is_some());
            let Liar {
                is_proven,
                is_suspect,
                ..
            } = self.liar;
            if (is_proven && !quarantined) || (quarantined && !is_proven && !is_suspect) {
                return Err(Wrong(format!(
                    "{LIAR} is quarantined: {quarantined}, is a proven liar: {is_proven}"
                )));
            }
        }
        for which in 0..self.nodes.len() {
            self.played.entries += self.check_entries(which)?;
        }
        for node in &mut self.nodes {
            node.stop().await?;
            if self.derives {
                node.derives_again().await?;
            }
        }
        for node in &mut self.nodes {
            node.start().await?;
        }
        self.check()?;
        (self.played.messages, self.played.trace) = self.net.trace();
        let millis = self.began.elapsed().as_millis();
        self.played.millis = u64::try_from(millis).unwrap();
        Ok(self.played)
    }

    /// What was acknowledged is there, once, in the order of the acknowledgements.
    fn check_entries(&self, which: usize) -> Result<u64, Wrong> {
        let (name, Some(running)) = (self.nodes[which].name, self.running(which)) else {
            return Ok(0);
        };
        let size = running.ledger.log("").map_or(0, |view| view.tree.size());
        let mut found = Vec::new();
        for index in (0..size).map(LogIndex) {
            let log = LogNo::OWN;
            let bytes = running.ledger.journal().read(log, index).unwrap().unwrap();
            let entry = StoredEntry::parse(EntryRef { log, index }, bytes).unwrap();
            let item = entry
                .name
                .item()
                .as_str()
                .trim_start_matches("N-")
                .to_owned();
            found.push(item.parse::<u64>().unwrap());
        }
        let mut sorted = found.clone();
        sorted.dedup();
        let in_order = found.is_sorted() && sorted.len() == found.len();
        let missing = self.acknowledged[which]
            .iter()
            .find(|record| found.binary_search(record).is_err());
        match (in_order, missing) {
            (true, None) => Ok(size),
            (_, missing) => Err(Wrong(format!(
                "{name} holds {found:?}, not once or not in order, or without {missing:?}"
            ))),
        }
    }
}
