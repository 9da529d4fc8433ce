//! How much a caller may use: `[[limit]]` in a policy file, over defaults for each kind of caller.
//!
//! They are read from top to bottom. One that names the caller sets the keys that it has, and a later one
//! wins over an earlier one, key by key.

use std::{collections::BTreeMap, fmt};

use super::{Policy, Subject, Who};
use crate::types::Role;

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $most:literal,
        [$agency:literal, $node:literal, $admin:literal], $en:literal, $zh:literal;)*) => {
        /// One thing that is limited.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Limit {
            $($(#[$doc])* $name,)*
        }

        impl Limit {
            /// Everything that is limited.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its key in a policy file.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $key,)* }
            }

            /// What it counts, in English and in Chinese.
            #[must_use]
            pub const fn texts(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($en, $zh),)* }
            }

            /// The largest value that a policy may give.
            #[must_use]
            pub const fn most(self) -> u64 {
                match self { $(Self::$name => $most,)* }
            }

            const fn defaults(self) -> [u64; 3] {
                match self { $(Self::$name => [$agency, $node, $admin],)* }
            }
        }
    };
}

limits! {
    /// Calls begun, each second.
    Requests = "requests_per_second", 1_000_000, [500, 500, 500],
        "calls a second", "每秒调用数";
    /// Rows submitted, each second.
    Rows = "rows_per_second", 1_000_000, [2_000, 2_000, 2_000],
        "rows submitted a second", "每秒提交行数";
    /// Records looked at for the caller, each second: by a list, those that do not match too.
    Reads = "reads_per_second", 100_000_000, [20_000, 50_000, 50_000],
        "records read a second", "每秒读取记录数";
    /// Bytes of requests, each second, as they come over the wire.
    BytesIn = "bytes_in_per_second", 4_000_000_000, [8_388_608, 268_435_456, 8_388_608],
        "bytes sent to the node a second", "每秒上行字节数";
    /// Bytes of answers, each second, as they go over the wire.
    BytesOut = "bytes_out_per_second", 4_000_000_000, [16_777_216, 268_435_456, 33_554_432],
        "bytes read from the node a second", "每秒下行字节数";
    /// For how many seconds what was not used is saved up.
    Burst = "burst_seconds", 3_600, [4, 4, 4],
        "seconds of burst", "突发秒数";
    /// Calls at once.
    Calls = "calls", 1_000_000, [64, 64, 64],
        "calls at once", "同时进行的调用数";
    /// Of these, streams and watches.
    Streams = "streams", 1_000_000, [16, 16, 32],
        "streams and watches at once", "同时进行的流和订阅数";
    /// Connections at once.
    Connections = "connections", 1_000_000, [32, 32, 32],
        "connections at once", "同时连接数";
    /// Bytes of one message, decompressed.
    MessageBytes = "message_bytes", 16_777_216, [4_194_304, 16_777_216, 4_194_304],
        "bytes in one message", "单条消息字节数";
    /// Rows of one page.
    PageRows = "page_rows", 1_000, [1_000, 1_000, 1_000],
        "rows of one page", "每页行数";
    /// Comparisons in one filter.
    FilterTerms = "filter_terms", 64, [64, 64, 64],
        "comparisons in one filter", "单个过滤条件的比较项数";
    /// Bytes of the agency's own entries in the node's log, all together.
    StoredBytes = "stored_bytes", 1_000_000_000_000_000,
        [21_474_836_480, 21_474_836_480, 21_474_836_480],
        "bytes of entries stored", "已存条目字节数";
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one caller may use: a value for everything that is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits(BTreeMap<Limit, u64>);

impl Limits {
    /// Those of a caller that no `[[limit]]` names.
    #[must_use]
    pub fn of(role: &Role) -> Self {
        let of = |limit: &Limit| {
            let [agency, node, admin] = limit.defaults();
            match role {
                Role::Agency(_) => agency,
                Role::Node(_) => node,
                Role::Admin(_) | Role::Auditor(_) => admin,
            }
        };
        Self(Limit::ALL.iter().map(|limit| (*limit, of(limit))).collect())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, limit: Limit) -> u64 {
        self.0.get(&limit).copied().unwrap_or(0)
    }
}

/// One `[[limit]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub who: Vec<Who>,
    pub values: BTreeMap<Limit, u64>,
}

impl Bound {
    /// From its members and the keys of a file.
    pub fn new(who: Vec<Who>, keys: &BTreeMap<String, toml::Value>) -> Result<Self, String> {
        let values = keys.iter().map(|(key, value)| {
            let limit = Limit::ALL.iter().find(|limit| limit.as_str() == key);
            let limit = *limit.ok_or_else(|| {
                let all: Vec<_> = Limit::ALL.iter().map(|limit| limit.as_str()).collect();
                format!("{key}: it is none of {}", all.join(", "))
            })?;
            let number = value.as_integer().and_then(|n| u64::try_from(n).ok());
            match number {
                Some(number) if (1..=limit.most()).contains(&number) => Ok((limit, number)),
                _ => Err(format!("{key}: it must be 1 to {}", limit.most())),
            }
        });
        let values: BTreeMap<_, _> = values.collect::<Result<_, String>>()?;
        if values.is_empty() {
            return Err("set at least one limit".to_owned());
        }
        Ok(Self { who, values })
    }
}

impl Policy {
    /// What the subject may use.
    #[must_use]
    pub fn limits(&self, subject: &Subject<'_>) -> Limits {
        let mut limits = Limits::of(&subject.identity.role);
        for bound in &self.bounds {
            if bound.who.iter().any(|who| who.names(subject)) {
                limits.0.extend(&bound.values);
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, NodeId};

    fn limits(policy: &Policy, who: &str) -> Limits {
        let identity: Identity = format!("spiffe://nantong.gov.cn/{who}").parse().unwrap();
        let here: NodeId = "qidong".parse().unwrap();
        policy.limits(&Subject {
            identity: &identity,
            agency: None,
            here: &here,
        })
    }

    #[test]
    fn later_ones_win_key_by_key() {
        let text = r#"
            [groups]
            heavy = ["agency/a-one", "agency/a-two"]
            [[limit]]
            who = ["agency/*"]
            requests_per_second = 10
            streams = 3
            [[limit]]
            who = ["group/heavy", "self"]
            requests_per_second = 70
            [[limit]]
            who = ["agency/a-two"]
            streams = 9
        "#;
        let policy = Policy::from_toml(text).unwrap();
        let of = |who: &str| {
            let limits = limits(&policy, who);
            [Limit::Requests, Limit::Streams, Limit::Calls].map(|limit| limits.get(limit))
        };
        assert_eq!(of("agency/a-zero"), [10, 3, 64]);
        assert_eq!(of("agency/a-one"), [70, 3, 64]);
        assert_eq!(of("agency/a-two"), [70, 9, 64]);
        assert_eq!(of("node/qidong"), [70, 16, 64]);
        assert_eq!(of("node/rudong"), [500, 16, 64]);
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |body: &str| {
            let text = format!("[[limit]]\nwho = [\"agency/*\"]\ncalls = 1\n[[limit]]\n{body}");
            Policy::from_toml(&text).unwrap_err().to_string()
        };
        assert!(
            refused("who = [\"agency/*\"]\nrequests = 5")
                .starts_with("limit 2: requests: it is none of")
        );
        assert!(
            refused("who = [\"agency/*\"]\ncalls = 0").contains("limit 2: calls: it must be 1 to")
        );
        assert!(refused("who = [\"agency/*\"]\ncalls = -1").contains("calls: it must be"));
        assert!(refused("who = [\"agency/*\"]\npage_rows = 1001").contains("1 to 1000"));
        assert!(refused("who = [\"agency/*\"]\ncalls = \"many\"").contains("calls: it must be"));
        assert!(refused("who = [\"agency/*\"]").contains("at least one limit"));
        assert!(refused("who = []\ncalls = 1").contains("who: name at least one"));
        assert!(refused("who = [\"group/none\"]\ncalls = 1").contains("there is no group"));
        assert!(refused("calls = 1").contains("who"));
    }

    #[test]
    fn the_policy_that_is_built_in_shows_the_defaults() {
        let text = include_str!("../../../seeds/policy.toml");
        let policy = Policy::from_toml(text).unwrap();
        assert_eq!(policy.bounds.len(), 3);
        for who in ["agency/a-one", "node/rudong", "admin/one", "auditor/one"] {
            let role = who.parse().unwrap();
            assert_eq!(limits(&policy, who), Limits::of(&role), "{who}");
        }
        for limit in Limit::ALL {
            let shown = policy
                .bounds
                .iter()
                .all(|bound| bound.values.contains_key(limit));
            assert!(shown, "{limit} is not shown for every kind");
        }
    }
}
