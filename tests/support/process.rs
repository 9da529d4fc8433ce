//! Real `hefu serve` processes, to be killed.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "nothing here must last")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{Clients, Domain, dial};

/// A node as a process of its own.
pub struct Process {
    child: Child,
    pub address: std::net::SocketAddr,
}

/// Writes a configuration for a node that listens on a port that stays the same.
pub fn configure(domain: &Domain, name: &str, data: &Path, parent: Option<(&str, u16)>) -> PathBuf {
    let issued = domain.issue(&format!("node/{name}"));
    let parent = parent.map_or(String::new(), |(node, port)| {
        format!("[parent]\nendpoint = \"https://127.0.0.1:{port}\"\nnode = \"{node}\"\n")
    });
    let path = domain.folder.path().join(format!("{name}.toml"));
    let text = format!(
        "[node]\nid = \"{name}\"\ntrust_domain = \"{}\"\ndata = \"{}\"\nlisten = \"127.0.0.1:{}\"\n\
         [tls]\ncertificate = \"{}\"\nkey = \"{}\"\nroots = [\"{}\"]\n{parent}\
         [reference]\nagencies = \"{}\"\n[storage]\ncache_mib = 8\nwatermark_mib = 0\n\
         [log]\nlevel = \"error\"\n",
        super::DOMAIN,
        data.display(),
        free_port(),
        issued.certificate.display(),
        issued.key.display(),
        issued.root.display(),
        domain.folder.path().join("agencies.csv").display(),
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The port that a configuration names.
pub fn port(config: &Path) -> u16 {
    let text = std::fs::read_to_string(config).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("listen"))
        .unwrap();
    line.rsplit(':')
        .next()
        .unwrap()
        .trim_end_matches('"')
        .parse()
        .unwrap()
}

impl Process {
    /// Starts a node and waits until it says that it listens.
    pub fn start(config: &Path) -> Self {
        Self::with_env(config, &[])
    }

    pub fn with_env(config: &Path, env: &[(&str, String)]) -> Self {
        Self::launch(config, env, Stdio::inherit())
            .unwrap_or_else(|said| panic!("it did not start: {said}"))
    }

    /// Starts a node that may refuse to.
    pub fn try_start(config: &Path) -> Result<Self, String> {
        Self::launch(config, &[], Stdio::inherit())
    }

    /// Starts a node whose log goes to a file.
    pub fn logging(config: &Path, env: &[(&str, String)], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        Self::launch(config, env, log.into()).unwrap()
    }

    fn launch(config: &Path, env: &[(&str, String)], log: Stdio) -> Result<Self, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
        command
            .args(["serve", "--config"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(log);
        command.envs(env.iter().map(|(key, value)| (*key, value)));
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        match address.parse() {
            Ok(address) => Ok(Self { child, address }),
            Err(_) => {
                let status = child.wait().unwrap();
                Err(format!("{status}, it said {line:?}"))
            }
        }
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// SIGTERM, and the status that it ends with.
    pub fn stop(mut self) -> std::process::ExitStatus {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.child.wait().unwrap()
    }

    /// Waits until the node ends by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    pub async fn clients(&self, domain: &Domain, identity: &str) -> Clients {
        Clients::new(dial(&domain.issue(identity), self.address).await.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A small generator for tests that draw from a printed seed.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let seed = std::env::var("HEFU_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let time = jiff::Timestamp::now().as_nanosecond();
        Self(seed.unwrap_or_else(|| u64::try_from(time % i128::from(u32::MAX)).unwrap()))
    }

    pub fn seed(&self) -> u64 {
        self.0
    }

    /// SplitMix64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// How often: an environment variable, or the default.
pub fn times(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}
