//! How a node stands, as tables for people.

use super::table::table;
use crate::proto::node::v1 as node;

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
    let mut registers = table(["register", "live", "withdrawn"]);
    for count in &status.registers {
        let (live, withdrawn) = (count.live.to_string(), count.withdrawn.to_string());
        registers.add_row([count.register.clone(), live, withdrawn]);
    }
    println!("{registers}");
    if !status.uplinks.is_empty() {
        let mut rows = table(["log", "parent", "size", "cosigned", "lag", "state", "why"]);
        for link in &status.uplinks {
            rows.add_row([
                link.origin.clone(),
                link.parent.clone(),
                link.size.to_string(),
                link.cosigned_size.to_string(),
                link.lag.to_string(),
                state(link.state()),
                link.reason.clone(),
            ]);
        }
        println!("{rows}");
    }
    if !status.limited.is_empty() {
        let mut rows = table(["held back", "refused", "slowed", "since", "last", "by"]);
        for limited in &status.limited {
            let time = |time: &Option<prost_types::Timestamp>| {
                time.as_ref().map(ToString::to_string).unwrap_or_default()
            };
            rows.add_row([
                limited.caller.clone(),
                limited.refused.to_string(),
                limited.slowed.to_string(),
                time(&limited.first_time),
                time(&limited.last_time),
                limited.last_limit.clone(),
            ]);
        }
        println!("{rows}");
    }
    if !status.children.is_empty() {
        let mut rows = table(["child", "signed", "held", "cosigned", "lag", "state", "why"]);
        for child in &status.children {
            rows.add_row([
                child.node.clone(),
                child.signed_size.to_string(),
                child.size.to_string(),
                child.cosigned_size.to_string(),
                child.lag.to_string(),
                state(child.state()),
                child.reason.clone(),
            ]);
        }
        println!("{rows}");
    }
}

fn state(state: node::LinkState) -> String {
    state
        .as_str_name()
        .trim_start_matches("LINK_STATE_")
        .to_lowercase()
        .replace('_', " ")
}
