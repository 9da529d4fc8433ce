//! How a node stands, as tables for people.

use prost_types::{Duration, Timestamp};

use super::table::table;
use crate::{proto::node::v1 as node, types::beijing_time};

/// Prints how a node stands.
pub fn print(status: &node::GetStatusResponse) {
    let health = status
        .health()
        .as_str_name()
        .trim_start_matches("HEALTH_")
        .to_lowercase();
    println!(
        "node {} ({}) is {health} {}",
        status.node, status.version, status.health_reason
    );
    println!("log {} has {} entries", status.origin, status.size);
    for damage in &status.damage {
        println!("DAMAGED: {damage}");
    }
    for warning in &status.warnings {
        println!("WARNING: {warning}");
    }
    let mut registers = table(["register", "live", "withdrawn"]);
    for count in &status.registers {
        let (live, withdrawn) = (count.live.to_string(), count.withdrawn.to_string());
        registers.add_row([count.register.clone(), live, withdrawn]);
    }
    println!("{registers}");
    if !status.uplinks.is_empty() {
        uplinks(&status.uplinks);
    }
    if !status.children.is_empty() {
        children(&status.children);
    }
    if !status.alerts.is_empty() {
        alerts(status);
    }
}

fn uplinks(links: &[node::Uplink]) {
    let mut rows = table([
        "log", "parent", "size", "cosigned", "lag", "state", "since", "why",
    ]);
    for link in links {
        rows.add_row([
            link.origin.clone(),
            link.parent.clone(),
            link.size.to_string(),
            link.cosigned_size.to_string(),
            link.lag.to_string(),
            state(link.state()),
            time(link.since.as_ref()),
            link.reason.clone(),
        ]);
    }
    println!("{rows}");
}

fn children(children: &[node::Child]) {
    let mut rows = table([
        "child", "signed", "cosigned", "lag", "heard", "due", "state", "since", "why",
    ]);
    for child in children {
        let missing = match child.missing_since {
            Some(_) => format!("MISSING; {}", child.reason),
            None => child.reason.clone(),
        };
        rows.add_row([
            child.node.clone(),
            child.signed_size.to_string(),
            child.cosigned_size.to_string(),
            child.lag.to_string(),
            age(child.silence.as_ref()),
            child.due.clone(),
            state(child.state()),
            time(child.since.as_ref()),
            missing,
        ]);
    }
    println!("{rows}");
}

/// What needs attention, a line each; or that nothing does.
pub fn alerts(status: &node::GetStatusResponse) {
    for alert in &status.alerts {
        let kind = alert.kind().as_str_name();
        let kind = kind.trim_start_matches("ALERT_KIND_").replace('_', " ");
        let (subject, since) = (&alert.subject, time(alert.since.as_ref()));
        println!("{kind}: {subject} since {since}: {}", alert.text);
    }
    if status.alerts.is_empty() {
        let (node, reason) = (&status.node, &status.health_reason);
        println!("{node}: nothing needs attention {reason}");
    }
}

fn state(state: node::LinkState) -> String {
    state
        .as_str_name()
        .trim_start_matches("LINK_STATE_")
        .to_lowercase()
        .replace('_', " ")
}

fn time(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|time| jiff::Timestamp::from_second(time.seconds).ok());
    time.map(beijing_time).unwrap_or_default()
}

/// How long ago, in its largest unit.
fn age(age: Option<&Duration>) -> String {
    match age.map(|age| age.seconds) {
        None => "never".to_owned(),
        Some(s @ ..120) => format!("{s} s ago"),
        Some(s @ 120..7_200) => format!("{} min ago", s / 60),
        Some(s @ 7_200..172_800) => format!("{} h ago", s / 3_600),
        Some(s) => format!("{} d ago", s / 86_400),
    }
}
