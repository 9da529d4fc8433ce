//! What a node measures of itself: a registry for each node, so that several in one process do not mix, read as
//! text by a Prometheus server.
//!
//! Whoever measures something asks for its family once and keeps it; what can be looked up is set just before
//! every reading. `docs/metrics.md` names all of it, and a test compares. Labels come from this program's own
//! words or from what a policy or table names: never from what a caller sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

/// Names and values.
pub type Labels = Vec<(&'static str, String)>;
/// Whole numbers that go up and down.
pub type Gauges = Family<Labels, Gauge>;
/// Numbers that only grow.
pub type Counters = Family<Labels, Counter>;
/// Durations in seconds.
pub type Seconds = Family<Labels, Histogram, fn() -> Histogram>;

/// Upper bounds of the classes of durations, in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0,
];

type Refresh = Box<dyn Fn() + Send>;

/// The measurements of a node.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    registry: Mutex<Registry>,
    refreshes: Mutex<Vec<Refresh>>,
}

impl Metrics {
    /// A family of counters; the name is without `hefu_` before it and `_total` behind it.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str) -> Counters {
        self.add(name, help, Counters::default())
    }

    /// A family of gauges; the name is without `hefu_` before it, and ends with the unit.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str) -> Gauges {
        self.add(name, help, Gauges::default())
    }

    /// A family of durations; the name is without `hefu_` before it and `_seconds` behind it.
    #[must_use]
    pub fn seconds(&self, name: &str, help: &str) -> Seconds {
        let family = Seconds::new_with_constructor(|| Histogram::new(BOUNDS));
        self.add(&format!("{name}_seconds"), help, family)
    }

    fn add<M: Metric + Clone>(&self, name: &str, help: &str, family: M) -> M {
        lock(&self.0.registry).register(format!("hefu_{name}"), help, family.clone());
        family
    }

    /// Runs `refresh` before every reading, to set what can be looked up.
    pub fn before_reading(&self, refresh: impl Fn() + Send + 'static) {
        lock(&self.0.refreshes).push(Box::new(refresh));
    }

    /// Everything as it stands now, in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        // Held to the end: another reading must not meet families that are being set.
        let refreshes = lock(&self.0.refreshes);
        refreshes.iter().for_each(|refresh| refresh());
        let mut text = String::new();
        // A string takes everything.
        let _ = prometheus_text::encode(&mut text, &lock(&self.0.registry));
        text
    }
}

/// Sets a family to these values, and drops all others that it had.
pub fn set(family: &Gauges, values: impl IntoIterator<Item = (Labels, i64)>) {
    family.clear();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_its_own_and_tells_what_is_true_when_it_is_read() {
        let (one, other) = (Metrics::default(), Metrics::default());
        let calls = one.counters("calls", "Calls");
        calls.get_or_create(&vec![("code", "OK".to_owned())]).inc();
        let durations = one.seconds("call_duration", "How long");
        durations.get_or_create(&Labels::new()).observe(0.015);
        let gauges = one.gauges("states", "States");
        let turn = std::sync::atomic::AtomicI64::new(0);
        one.before_reading(move || {
            let turn = turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            set(&gauges, [(vec![("turn", turn.to_string())], turn)]);
        });
        assert!(!one.text().is_empty());
        let text = one.text();
        for line in [
            "hefu_calls_total{code=\"OK\"} 1",
            "hefu_call_duration_seconds_bucket{le=\"0.02\"} 1",
            "hefu_states{turn=\"1\"} 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("turn=\"0\""), "what was before is gone");
        assert_eq!(other.text(), "");
    }
}
