//! What an operator should see to: certificates that end, files that are wrong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    gateway::{
        connections::Connections,
        identity::end,
        inventory::{Item, Kind, inventory},
    },
    services,
    types::{Clock as _, SystemClock},
};

/// From so many days before its end on, a certificate is told of: at each of these once, and every day.
const STEPS: [i64; 3] = [30, 7, 1];
/// A client's certificate that has ended is told of for so many days: by then its holder is gone.
const GONE_DAYS: i64 = 7;
/// How often it is looked whether something is to be told in the log.
const LOOK: Duration = Duration::from_secs(60);
/// What was told is told again after so many seconds.
const AGAIN: i64 = 86_400;

const DAY: i64 = 86_400;

/// Certificates that are told of one by one.
const MAX_WARNINGS: usize = 100;

/// What an operator should see to.
#[derive(Clone)]
pub(super) struct Upkeep {
    pub connections: Arc<Connections>,
    /// Why the newest agency table or policy is not in force.
    pub rules_failed: watch::Receiver<Option<String>>,
    /// Why the newest certificates are not in force.
    pub keys_failed: watch::Receiver<Option<String>>,
}

impl services::node::Upkeep for Upkeep {
    fn certificate_end(&self) -> Option<Timestamp> {
        let in_force = self.connections.keys().current();
        in_force.credentials().chain.first().and_then(end)
    }

    fn warnings(&self) -> Vec<String> {
        let failed = [&self.rules_failed, &self.keys_failed];
        let failed = failed.iter().filter_map(|failed| failed.borrow().clone());
        let endings = self.endings(SystemClock.now());
        let more = endings.len().saturating_sub(MAX_WARNINGS);
        let more = (more > 0).then(|| format!("{more} more certificates end soon"));
        let endings = endings.iter().take(MAX_WARNINGS).map(Ending::text);
        failed.chain(endings).chain(more).collect()
    }
}

impl Upkeep {
    /// What ends within 30 days, or has ended; the soonest first.
    fn endings(&self, now: Timestamp) -> Vec<Ending> {
        let in_force = self.connections.keys().current();
        let own = inventory(in_force.credentials());
        let own = own.iter().filter_map(|item| Ending::of_item(item, now));
        let seen = self.connections.seen();
        let seen = seen.iter().map(|(who, end)| Ending {
            what: format!("the certificate of {who}"),
            end: *end,
            seconds: seconds(*end, now),
            mend: "its holder needs another",
        });
        let seen = seen.filter(|ending| ending.seconds > -GONE_DAYS * DAY);
        let mut endings: Vec<_> = own.chain(seen).filter(Ending::is_near).collect();
        endings.sort_by_key(|ending| ending.seconds);
        endings
    }

    /// Tells the log of what ends, once a day and whenever it becomes more urgent, until dropped.
    pub(super) async fn remind(self) {
        let mut told = BTreeMap::new();
        let mut every = tokio::time::interval(LOOK);
        loop {
            every.tick().await;
            let now = SystemClock.now();
            for ending in self.endings(now) {
                if due(&mut told, &ending, now) {
                    tracing::warn!("{}", ending.text());
                }
            }
        }
    }
}

/// Whether it is to be told now: it was not yet at this step, or a day has passed.
fn due(told: &mut BTreeMap<String, (i64, Timestamp)>, ending: &Ending, now: Timestamp) -> bool {
    let step = ending.step();
    let before = told.get(&ending.what);
    let told_already = before.is_some_and(|(at, when)| *at <= step && seconds(now, *when) < AGAIN);
    if told_already {
        return false;
    }
    told.insert(ending.what.clone(), (step, now));
    true
}

/// Something that ends soon, or has ended.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    what: String,
    end: Timestamp,
    /// Left until then; below 0 it has passed.
    seconds: i64,
    mend: &'static str,
}

impl Ending {
    fn of_item(item: &Item, now: Timestamp) -> Option<Self> {
        let short = item.fingerprint.get(..16).unwrap_or_default();
        let (what, mend) = match item.kind {
            Kind::Certificate => (
                "the certificate of this node".to_owned(),
                "renew it and put it in the place of the old one",
            ),
            Kind::Intermediate => (
                format!("the intermediate {short}"),
                "put its authority's next one behind the certificate",
            ),
            Kind::Root => (
                format!("the root {short}"),
                "name the authority's next one in tls.roots beside it",
            ),
            Kind::RevocationList => (
                format!("the revocation list {short}"),
                "fetch a newer one from its authority",
            ),
        };
        let end = item.end?;
        Some(Self {
            what,
            end,
            seconds: seconds(end, now),
            mend,
        })
    }

    fn is_near(&self) -> bool {
        self.days() <= STEPS[0]
    }

    /// Days left, rounded up.
    fn days(&self) -> i64 {
        self.seconds.max(0).saturating_add(DAY - 1) / DAY
    }

    /// The smallest of the steps that was reached; 0 where it has ended.
    fn step(&self) -> i64 {
        let days = self.days();
        let reached = STEPS.iter().copied().filter(|step| days <= *step).min();
        if days == 0 {
            0
        } else {
            reached.unwrap_or(days)
        }
    }

    fn text(&self) -> String {
        let Self { what, mend, .. } = self;
        let day = self.end.strftime("%Y-%m-%d");
        match self.days() {
            0 => format!("{what} has ended, on {day}: {mend}"),
            1 => format!("{what} ends within a day, on {day}: {mend}"),
            days => format!("{what} ends in {days} days, on {day}: {mend}"),
        }
    }
}

fn seconds(end: Timestamp, now: Timestamp) -> i64 {
    end.duration_since(now).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(seconds: i64) -> Ending {
        Ending {
            what: "the certificate of this node".to_owned(),
            end: Timestamp::from_second(1_800_000_000).unwrap(),
            seconds,
            mend: "renew it",
        }
    }

    #[test]
    fn days_are_rounded_up_and_steps_reached() {
        for (seconds, days, near, step) in [
            (-5, 0, true, 0),
            (0, 0, true, 0),
            (1, 1, true, 1),
            (DAY, 1, true, 1),
            (DAY + 1, 2, true, 7),
            (7 * DAY, 7, true, 7),
            (7 * DAY + 1, 8, true, 30),
            (30 * DAY, 30, true, 30),
            (30 * DAY + 1, 31, false, 31),
        ] {
            let ending = ending(seconds);
            let found = (ending.days(), ending.is_near(), ending.step());
            assert_eq!(found, (days, near, step), "{seconds}");
        }
        assert!(ending(-1).text().contains("has ended, on 2027-01-15"));
    }

    #[test]
    fn what_ends_is_told_once_a_day_and_at_every_step() {
        let (mut told, start) = (BTreeMap::new(), Timestamp::from_second(0).unwrap());
        let mut lines = Vec::new();
        // Every minute of its last 32 days.
        for minute in 0..32 * 1_440_i64 {
            let now = Timestamp::from_second(minute * 60).unwrap();
            let ending = ending(32 * DAY - seconds(now, start));
            if ending.is_near() && due(&mut told, &ending, now) {
                lines.push(ending.days());
            }
        }
        let expected: Vec<i64> = (1..=30).rev().collect();
        assert_eq!(lines, expected);
    }
}
