//! The configuration of a node: a TOML file, overridden by the environment, overridden by flags.
//!
//! `deploy/county.toml` is the commented example; a test loads it and compares its keys with these.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

use crate::types::{DailyWindow, NodeId, TrustDomain, UtcOffset};

/// Why a configuration is not used. The text says what to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The text is not valid TOML, has an unknown key, or a value of the wrong type.
    #[error("{path}: {cause}")]
    Parse {
        /// The file.
        path: String,
        /// What and where.
        cause: String,
    },
    /// An override is not `key=value` of a known key.
    #[error("{0}: an override is key=value, such as node.id=qidong; known keys: {1}")]
    Override(String, String),
    /// A value breaks its rule.
    #[error("{0}")]
    Value(String),
}

/// Everything that a node is told. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who the node is and where it listens.
    pub node: NodeConfig,
    /// Its certificate, key and roots.
    pub tls: TlsConfig,
    /// Its parent; absent at the top.
    pub parent: Option<ParentConfig>,
    /// What it wants to hear of its children.
    #[serde(default)]
    pub children: ChildrenConfig,
    /// Reference data; what is absent is the program's own.
    #[serde(default)]
    pub reference: ReferenceConfig,
    /// Storage.
    #[serde(default)]
    pub storage: StorageConfig,
    /// The audit trail.
    #[serde(default)]
    pub audit: AuditConfig,
    /// Metrics.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[node]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's id: a slug.
    pub id: String,
    /// The trust domain that all certificates share.
    pub trust_domain: String,
    /// The data folder; created when it is missing.
    pub data: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The zone of hours in the configuration and in tables.
    #[serde(default)]
    pub utc_offset: UtcOffset,
}

/// `[tls]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file: the node's certificate, then intermediates.
    pub certificate: PathBuf,
    /// PEM file: its private key; not readable by group or others.
    pub key: PathBuf,
    /// PEM files: the roots that clients, children and the parent are verified with.
    pub roots: Vec<PathBuf>,
    /// PEM files: revocation lists of the authorities behind the roots.
    #[serde(default)]
    pub crls: Vec<PathBuf>,
}

/// How a child brings its parent up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationMode {
    /// Always connected.
    #[default]
    Continuous,
    /// Connected in a part of every day, and when `hefu sync` asks.
    Window,
    /// Only when `hefu sync` asks.
    Manual,
}

/// `[parent]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentConfig {
    /// `https://host:port`; the host must be in the parent's certificate.
    pub endpoint: String,
    /// The parent's node id: its certificate must name it.
    pub node: String,
    /// Continuous, window or manual.
    #[serde(default)]
    pub mode: ReplicationMode,
    /// The part of every day, with mode window.
    #[serde(default = "night")]
    pub window: DailyWindow,
    /// KiB sent up in a second at most, in every mode; 0 for no limit.
    #[serde(default)]
    pub bandwidth_kib_s: u64,
}

/// The window where none is set.
fn night() -> DailyWindow {
    DailyWindow::NIGHT
}

/// `[children]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChildrenConfig {
    /// Seconds between two heartbeats that children send.
    pub heartbeat_s: u64,
    /// A log of which nothing was heard for so many seconds is silent.
    pub silent_after_s: u64,
}

impl Default for ChildrenConfig {
    fn default() -> Self {
        Self {
            heartbeat_s: 10,
            silent_after_s: 60,
        }
    }
}

/// `[reference]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceConfig {
    /// CSV of agencies: who may submit here, for which divisions.
    pub agencies: Option<PathBuf>,
    /// CSV of divisions.
    pub divisions: Option<PathBuf>,
    /// TOML of dated rules.
    pub rules: Option<PathBuf>,
    /// TOML of grants: who may do what.
    pub policy: Option<PathBuf>,
    /// CSV of the children that are expected, and by which hour.
    pub children: Option<PathBuf>,
}

/// `[storage]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Cache of the derived state, in MiB.
    pub cache_mib: u64,
    /// Size of a journal segment, in MiB.
    pub segment_mib: u64,
    /// Intake stops below this much free space, in MiB.
    pub watermark_mib: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            cache_mib: 64,
            segment_mib: 64,
            watermark_mib: 1_024,
        }
    }
}

/// `[audit]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Days that the audit trail is kept: 183 at least.
    pub keep_days: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { keep_days: 400 }
    }
}

/// `[metrics]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port at which they can be read over plain HTTP; none is served without it.
    pub listen: Option<SocketAddr>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or directives such as `info,hefu=debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

/// Every key that can be overridden; `node.id` is `HEFU_NODE_ID` in the environment.
pub const KEYS: &[&str] = &[
    "node.id",
    "node.trust_domain",
    "node.data",
    "node.listen",
    "node.utc_offset",
    "tls.certificate",
    "tls.key",
    "tls.roots",
    "tls.crls",
    "parent.endpoint",
    "parent.node",
    "parent.mode",
    "parent.window",
    "parent.bandwidth_kib_s",
    "children.heartbeat_s",
    "children.silent_after_s",
    "reference.agencies",
    "reference.divisions",
    "reference.rules",
    "reference.policy",
    "reference.children",
    "storage.cache_mib",
    "storage.segment_mib",
    "storage.watermark_mib",
    "audit.keep_days",
    "metrics.listen",
    "log.level",
    "log.format",
];

impl Config {
    /// Reads a file, then the environment, then `key=value` flags; later ones win.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, line and key.
    pub fn load(path: &std::path::Path, flags: &[String]) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read {
            path: path.to_owned(),
            cause,
        })?;
        let env = |key: &str| std::env::var(env_name(key)).ok();
        Self::parse(&path.display().to_string(), &text, env, flags)
    }

    fn parse(
        path: &str,
        text: &str,
        env: impl Fn(&str) -> Option<String>,
        flags: &[String],
    ) -> Result<Self, ConfigError> {
        let parse_error = |cause: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            cause: cause.to_string(),
        };
        let mut overrides: Vec<(&str, String)> = KEYS
            .iter()
            .filter_map(|key| Some((*key, env(key)?)))
            .collect();
        for flag in flags {
            let known = flag.split_once('=').and_then(|(key, value)| {
                Some((*KEYS.iter().find(|known| **known == key)?, value.to_owned()))
            });
            overrides.push(known.ok_or_else(|| override_error(flag))?);
        }
        // Without overrides the file is parsed as it is: errors then point into it.
        let config: Self = if overrides.is_empty() {
            toml::from_str(text).map_err(parse_error)?
        } else {
            let mut table: toml::Table = text.parse().map_err(parse_error)?;
            for (key, value) in overrides {
                set(&mut table, key, &value)?;
            }
            table.try_into().map_err(parse_error)?
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.node_id()?;
        self.trust_domain()?;
        if self.tls.roots.is_empty() {
            return Err(ConfigError::Value(
                "tls.roots: name at least one file".to_owned(),
            ));
        }
        if let Some(parent) = &self.parent {
            parent.node_id()?;
            if !parent.endpoint.starts_with("https://") {
                let text = "parent.endpoint: it must be https://host:port";
                return Err(ConfigError::Value(text.to_owned()));
            }
        }
        let cap = self.parent.as_ref().map_or(0, |p| p.bandwidth_kib_s);
        let (beat, silent) = (self.children.heartbeat_s, self.children.silent_after_s);
        let sizes = [
            ("parent.bandwidth_kib_s", cap, 0, 1_048_576),
            ("children.heartbeat_s", beat, 1, 3_600),
            (
                "children.silent_after_s",
                silent,
                2 * beat.min(3_600),
                86_400,
            ),
            ("storage.cache_mib", self.storage.cache_mib, 4, 65_536),
            ("storage.segment_mib", self.storage.segment_mib, 1, 4_096),
            (
                "storage.watermark_mib",
                self.storage.watermark_mib,
                0,
                1_048_576,
            ),
            ("audit.keep_days", self.audit.keep_days.into(), 183, 36_500),
        ];
        for (key, value, low, high) in sizes {
            if !(low..=high).contains(&value) {
                let text = format!("{key}: {value} is not within {low} to {high}");
                return Err(ConfigError::Value(text));
            }
        }
        Ok(())
    }

    /// The node's id.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn node_id(&self) -> Result<NodeId, ConfigError> {
        self.node
            .id
            .parse()
            .map_err(|e| ConfigError::Value(format!("node.id: {e}")))
    }

    /// The trust domain.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn trust_domain(&self) -> Result<TrustDomain, ConfigError> {
        let domain = self.node.trust_domain.parse();
        domain.map_err(|e| ConfigError::Value(format!("node.trust_domain: {e}")))
    }
}

impl ParentConfig {
    /// The parent's node id.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn node_id(&self) -> Result<NodeId, ConfigError> {
        self.node
            .parse()
            .map_err(|e| ConfigError::Value(format!("parent.node: {e}")))
    }
}

/// The environment variable of a key.
#[must_use]
pub fn env_name(key: &str) -> String {
    format!("HEFU_{}", key.replace('.', "_").to_uppercase())
}

fn override_error(flag: &str) -> ConfigError {
    ConfigError::Override(flag.to_owned(), KEYS.join(", "))
}

/// Sets a key from text: lists are split on commas, numbers are numbers.
fn set(table: &mut toml::Table, key: &str, text: &str) -> Result<(), ConfigError> {
    let (section, name) = key.split_once('.').ok_or_else(|| override_error(key))?;
    let value = match key {
        "tls.roots" | "tls.crls" => {
            toml::Value::from(text.split(',').map(str::trim).collect::<Vec<_>>())
        }
        _ if ["_mib", "_days", "_s"]
            .iter()
            .any(|unit| name.ends_with(unit)) =>
        {
            let number: i64 = text.parse().map_err(|_| override_error(key))?;
            toml::Value::from(number)
        }
        _ => toml::Value::from(text),
    };
    let section = table
        .entry(section)
        .or_insert_with(|| toml::Table::new().into());
    let section = section.as_table_mut().ok_or_else(|| override_error(key))?;
    section.insert(name.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
[node]
id = "qidong"
trust_domain = "nantong.gov.cn"
data = "data"
listen = "127.0.0.1:7443"
[tls]
certificate = "node.pem"
key = "node.key"
roots = ["ca.pem"]
"#;

    fn parse(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        Config::parse("test.toml", text, |_| None, &flags)
    }

    #[test]
    fn a_minimal_file_has_defaults() {
        let config = parse(MINIMAL, &[]).unwrap();
        assert_eq!(config.storage.watermark_mib, 1_024);
        assert!(config.parent.is_none());
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let env = |key: &str| (key == "node.id").then(|| "rudong".to_owned());
        let config = Config::parse("test.toml", MINIMAL, env, &[]).unwrap();
        assert_eq!(config.node.id, "rudong");
        let flags = [
            "node.id=haian".to_owned(),
            "tls.roots=a.pem, b.pem".to_owned(),
        ];
        let config = Config::parse("test.toml", MINIMAL, env, &flags).unwrap();
        assert_eq!(config.node.id, "haian");
        assert_eq!(config.tls.roots.len(), 2);
        let flags = ["storage.cache_mib=128".to_owned()];
        let config = Config::parse("test.toml", MINIMAL, |_| None, &flags).unwrap();
        assert_eq!(config.storage.cache_mib, 128);
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = parse(&format!("{MINIMAL}\n[nodes]\nx = 1\n"), &[]).unwrap_err();
        assert!(unknown.to_string().contains("nodes"), "{unknown}");
        let id = parse(MINIMAL, &["node.id=Qi Dong"]).unwrap_err();
        assert!(id.to_string().contains("node.id"), "{id}");
        let flag = parse(MINIMAL, &["node.colour=red"]).unwrap_err();
        assert!(flag.to_string().contains("node.trust_domain"), "{flag}");
        let parent = "\n[parent]\nendpoint = \"http://x\"\nnode = \"nantong\"\n";
        let parent = parse(&format!("{MINIMAL}{parent}"), &[]).unwrap_err();
        assert!(parent.to_string().contains("https://"), "{parent}");
        for (flag, names) in [
            ("node.utc_offset=8", "+08:00"),
            ("children.heartbeat_s=0", "children.heartbeat_s"),
            ("children.silent_after_s=19", "within 20 to 86400"),
        ] {
            let told = parse(MINIMAL, &[flag]).unwrap_err().to_string();
            assert!(told.contains(names), "{flag}: {told}");
        }
        let low = parse(MINIMAL, &["storage.cache_mib=1"]).unwrap_err();
        assert!(low.to_string().contains("cache_mib"), "{low}");
    }
}
