use tokio::sync::watch;

use super::*;
use crate::{
    services::access::Rules,
    types::{NodeId, Policy},
};

const POLICY: &str = "[[limit]]\nwho = [\"agency/*\"]\nrequests_per_second = 2\nburst_seconds = 1\n\
                      calls = 2\nrows_per_second = 100\n";

fn rules(policy: &str) -> Arc<Rules> {
    Arc::new(Rules {
        agencies: Arc::default(),
        policy: Arc::new(Policy::from_toml(policy).unwrap()),
    })
}

fn quotas() -> (Quotas, watch::Sender<Arc<Rules>>) {
    let sender = watch::Sender::new(rules(POLICY));
    let here: NodeId = "qidong".parse().unwrap();
    let quotas = Quotas::new(Access::new(sender.subscribe(), here));
    (quotas, sender)
}

fn identity(role: &str) -> Identity {
    format!("spiffe://nantong.gov.cn/{role}").parse().unwrap()
}

#[tokio::test]
async fn what_one_uses_up_is_not_the_others_business() {
    let (quotas, _rules) = quotas();
    let [one, two] = ["agency/a-one", "agency/a-two"].map(|who| quotas.meter(&identity(who)));
    assert_eq!(one.take(Limit::Requests, 2), Ok(()));
    let refusal = one.take(Limit::Requests, 1).unwrap_err();
    assert_eq!(refusal.reason, Reason::QuotaExceeded);
    assert_eq!(refusal.metadata["subject"], "agency/a-one");
    assert_eq!(refusal.metadata["limit"], "requests_per_second");
    let wait = refusal.retry_after.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500));
    assert_eq!(two.take(Limit::Requests, 1), Ok(()));
    // The same identity has one meter, on however many connections.
    let again = quotas.meter(&identity("agency/a-one"));
    assert!(again.take(Limit::Requests, 1).is_err());
    let limited = quotas.limited();
    assert_eq!(limited.len(), 1);
    assert_eq!(limited[0].1.refused, 2);
    assert_eq!(limited[0].1.last.unwrap().0, Limit::Requests);
}

#[tokio::test]
async fn places_are_given_back() {
    let (quotas, _rules) = quotas();
    let meter = quotas.meter(&identity("agency/a-one"));
    let first = meter.hold(Limit::Calls).unwrap();
    let _second = meter.hold(Limit::Calls).unwrap();
    assert!(meter.hold(Limit::Calls).is_err());
    assert!(
        meter.hold(Limit::Calls).is_err(),
        "a refusal takes no place"
    );
    drop(first);
    assert!(meter.hold(Limit::Calls).is_ok());
}

#[tokio::test]
async fn a_new_policy_is_in_force_at_once_and_an_equal_one_refills_nothing() {
    let (quotas, sender) = quotas();
    let meter = quotas.meter(&identity("agency/a-one"));
    meter.take(Limit::Requests, 2).unwrap();
    sender.send_replace(rules(POLICY));
    assert!(meter.take(Limit::Requests, 1).is_err());
    sender.send_replace(rules(&POLICY.replace("_second = 2", "_second = 7")));
    assert_eq!(meter.take(Limit::Requests, 7), Ok(()));
    assert!(meter.take(Limit::Requests, 1).is_err());
}

#[tokio::test]
async fn rows_wait_for_their_rate() {
    let (quotas, _rules) = quotas();
    let meter = quotas.meter(&identity("agency/a-one"));
    let started = std::time::Instant::now();
    for _ in 0..3 {
        meter.pace(Limit::Rows, 50).await.unwrap();
    }
    assert!(
        started.elapsed() >= Duration::from_millis(450),
        "100 a second"
    );
    assert_eq!(meter.usage().slowed, 1);
    assert_eq!(meter.usage().refused, 0);
}

#[tokio::test]
async fn many_refusals_are_answered_slowly_and_few_at_once() {
    let (quotas, _rules) = quotas();
    let meter = quotas.meter(&identity("agency/a-one"));
    let now = Instant::now();
    let waits: Vec<_> = (0..1_000).map(|_| meter.answers(now) - now).collect();
    assert!(waits[..50].iter().all(Duration::is_zero));
    assert!(waits[60] > Duration::ZERO);
    assert_eq!(waits[999], Duration::from_secs(5));
    let later = now + Duration::from_secs(10);
    assert_eq!(meter.answers(later), later);
}

#[tokio::test]
async fn meters_of_those_who_went_are_dropped_when_room_is_needed() {
    let (quotas, _rules) = quotas();
    let kept = quotas.meter(&identity("agency/kept"));
    kept.take(Limit::Requests, 2).unwrap();
    for n in 0..MAX_IDLE * 3 {
        drop(quotas.meter(&identity(&format!("agency/a-{n}"))));
    }
    assert!(quotas.meters().len() <= MAX_IDLE + 1);
    let again = quotas.meter(&identity("agency/kept"));
    assert!(Arc::ptr_eq(&kept, &again), "one in use stays");
}
