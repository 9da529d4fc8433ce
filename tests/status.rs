//! A parent tells the truth about its children whatever happens to them, and a sync about how it ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::too_many_lines,
    reason = "a test tells one story from start to end"
)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use hefu::proto::node::v1::{Child, GetStatusRequest, GetStatusResponse, LinkState};
use support::{
    Clients, Domain, QIDONG,
    process::{Process, configure, port},
    proxy::Proxy,
    risk,
};

/// Heartbeats every second; silent after three.
const BEATS: &str = "[children]\nheartbeat_s = 1\nsilent_after_s = 3\n";

/// Adds lines to a section of a configuration, or to its end.
fn amend(config: &Path, before: &str, lines: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.contains(before));
    std::fs::write(
        config,
        text.replacen(before, &format!("{lines}{before}"), 1),
    )
    .unwrap();
}

struct Scene {
    domain: Domain,
    city: PathBuf,
    county: PathBuf,
    line: Proxy,
}

impl Scene {
    /// A city that listens for heartbeats, and a county that dials it through a line that can be cut.
    fn new(parent: &str) -> Self {
        let domain = Domain::new();
        let folder = domain.folder.path().to_owned();
        let city = configure(&domain, "nantong", &folder.join("nantong"), None);
        amend(&city, "[storage]", BEATS);
        let children = folder.join("children.csv");
        amend(
            &city,
            "[children]",
            &format!("children = \"{}\"\n", children.display()),
        );
        domain.replace("children.csv", "node,name\nqidong,启东市\n");
        let line = Proxy::to(port(&city));
        let county = configure(
            &domain,
            "qidong",
            &folder.join("qidong"),
            Some(("nantong", line.port)),
        );
        amend(&county, "[reference]", parent);
        Self {
            domain,
            city,
            county,
            line,
        }
    }

    fn hefu(&self, node: &Process, arguments: &[&str]) -> (i32, String) {
        let issued = self.domain.issue("admin/operator");
        let output = Command::new(env!("CARGO_BIN_EXE_hefu"))
            .args(arguments)
            .env("HEFU_SERVER", format!("https://{}", node.address))
            .env("HEFU_CERT", issued.certificate)
            .env("HEFU_KEY", issued.key)
            .env("HEFU_ROOTS", issued.root)
            .output()
            .unwrap();
        told(&output)
    }

    fn sync(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
        command
            .args(["sync", "--once", "--config"])
            .arg(&self.county)
            .args(arguments);
        command
    }
}

fn told(output: &Output) -> (i32, String) {
    let (out, err) = (&output.stdout, &output.stderr);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    );
    (output.status.code().unwrap(), text)
}

async fn status(clients: &mut Clients) -> GetStatusResponse {
    let asked = clients.node.get_status(GetStatusRequest {}).await;
    asked.unwrap().into_inner()
}

/// Waits until the city shows something of the county.
async fn until(city: &mut Clients, what: &str, shows: impl Fn(&Child) -> bool) -> Child {
    let start = Instant::now();
    loop {
        let status = status(city).await;
        if let Some(child) = status
            .children
            .iter()
            .find(|c| c.node == "qidong" && shows(c))
        {
            return child.clone();
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "never {what}: {status:#?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn seconds(time: Option<prost_types::Timestamp>) -> f64 {
    let time = time.unwrap();
    time.seconds as f64 + f64::from(time.nanos) / 1e9
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_killed_frozen_or_cut_off_is_silent_and_missing_by_name() {
    let scene = Scene::new("");
    let (city, county) = (Process::start(&scene.city), Process::start(&scene.county));
    let mut above = city.clients(&scene.domain, "admin/operator").await;
    let mut agency = county
        .clients(&scene.domain, &format!("agency/{QIDONG}"))
        .await;
    agency.submit(risk("R-1")).await.unwrap();
    let current = |child: &Child| child.state() == LinkState::Current && child.size > 0;
    until(&mut above, "current", current).await;
    let (code, text) = scene.hefu(&city, &["status", "--check"]);
    assert!(
        code == 0 && text.contains("nothing needs attention"),
        "{text}"
    );

    // Frozen: its connection stays open, and the kernel goes on answering for it.
    let silent = |child: &Child| child.state() == LinkState::Silent;
    county.signal("STOP");
    let child = until(&mut above, "silent when frozen", silent).await;
    let quiet = seconds(child.since) - seconds(child.alive_time);
    assert!(
        (quiet - 3.0).abs() < 0.01,
        "silent three seconds after the last sign of life: {quiet}"
    );
    let (code, text) = scene.hefu(&city, &["status", "--check"]);
    assert!(
        code == 9 && text.contains("CHILD MISSING: qidong"),
        "{text}"
    );
    let (code, text) = scene.hefu(&city, &["status", "--watch", "1", "--times", "2"]);
    assert!(code == 0 && text.matches("MISSING;").count() == 2, "{text}");
    county.signal("CONT");
    until(&mut above, "current again", current).await;

    // Cut off, and nobody is told: the county goes on taking entries, and knows that they are not up there.
    scene.line.cut(true);
    agency.submit(risk("R-2")).await.unwrap();
    until(&mut above, "silent when cut off", silent).await;
    let mut below = county.clients(&scene.domain, "admin/operator").await;
    let own = status(&mut below).await.uplinks.remove(0);
    assert_eq!((own.size, own.cosigned_size, own.lag), (2, 1, 1));
    scene.line.cut(false);
    let child = until(&mut above, "caught up", |child| {
        child.size == 2 && current(child)
    })
    .await;
    assert_eq!((child.signed_size, child.lag), (2, 0));

    // Killed.
    county.kill();
    let child = until(&mut above, "silent when killed", silent).await;
    assert!(child.expected && child.missing_since.is_some());
    // One that has never come is missing as well, by its name.
    scene
        .domain
        .replace("children.csv", "node,name\nqidong,启东市\nrugao,如皋市\n");
    let start = Instant::now();
    let (code, text) = loop {
        let (code, text) = scene.hefu(&city, &["status", "--check"]);
        if text.contains("rugao") || start.elapsed() > Duration::from_secs(30) {
            break (code, text);
        }
    };
    assert!(code == 9 && text.contains("CHILD MISSING: rugao"), "{text}");
    assert!(text.contains("CHILD MISSING: qidong"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_killed_forgets_neither_the_lag_nor_when_it_last_heard() {
    let scene = Scene::new("");
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut agency = county
        .clients(&scene.domain, &format!("agency/{QIDONG}"))
        .await;
    agency.submit(risk("R-1")).await.unwrap();
    let mut above = city.clients(&scene.domain, "admin/operator").await;
    until(&mut above, "cosigned", |child| child.size == 1).await;
    // From here on the city refuses what the county has: its table places the agency elsewhere.
    let table = std::fs::read_to_string(scene.domain.folder.path().join("agencies.csv")).unwrap();
    let folder = scene.domain.folder.path();
    let moved = table.replace("county-department,qidong", "county-department,rudong");
    let elsewhere = folder.join("elsewhere.csv");
    std::fs::write(&elsewhere, moved).unwrap();
    city.kill();
    let text = std::fs::read_to_string(&scene.city).unwrap();
    let text = text.replace("agencies.csv", "elsewhere.csv");
    std::fs::write(&scene.city, text).unwrap();
    for item in 2..=5 {
        agency.submit(risk(&format!("R-{item}"))).await.unwrap();
    }
    let city = Process::start(&scene.city);
    let mut above = city.clients(&scene.domain, "admin/operator").await;
    let refused = |child: &Child| child.state() == LinkState::Refused && child.lag == 4;
    until(&mut above, "refused", refused).await;
    let (code, text) = scene.hefu(&city, &["status", "--check"]);
    assert!(code == 10 && text.contains("LOG REFUSED"), "{text}");
    // It is written down within a second or so; only then may both be gone.
    let file = folder.join("nantong").join("heard.json");
    let start = Instant::now();
    let written = |file: &Path| std::fs::read_to_string(file).is_ok_and(|t| t.contains("\\n5\\n"));
    while !written(&file) {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "it is never written"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    county.kill();
    city.kill();
    let city = Process::start(&scene.city);
    let mut above = city.clients(&scene.domain, "admin/operator").await;
    let child = status(&mut above).await.children.remove(0);
    assert_eq!((child.signed_size, child.size, child.lag), (5, 1, 4));
    assert!(child.alive_time.is_some());
    until(&mut above, "silent", |child| {
        child.state() == LinkState::Silent && child.lag == 4
    })
    .await;
}

/// What a long sync said that was under way, and what another one said meanwhile.
fn two_at_once(scene: &Scene, seconds: &str) -> (String, String) {
    let long = ["--timeout", seconds, "--json"];
    let mut first = scene.sync(&long);
    let first = std::thread::spawn(move || {
        loop {
            let (code, text) = told(&first.output().unwrap());
            if code != 8 {
                return text;
            }
        }
    });
    let start = Instant::now();
    let second = loop {
        let (code, text) = told(&scene.sync(&["--timeout", "1", "--json"]).output().unwrap());
        if code == 8 || start.elapsed() > Duration::from_secs(60) {
            break text;
        }
    };
    (first.join().unwrap(), second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_says_how_it_ended_and_two_at_once_are_one_too_many() {
    let scene = Scene::new("mode = \"manual\"\n");
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut agency = county
        .clients(&scene.domain, &format!("agency/{QIDONG}"))
        .await;
    agency.submit(risk("R-1")).await.unwrap();

    // The line is dead. One sync waits; another one, at the running node, leaves.
    scene.line.cut(true);
    let (first, second) = two_at_once(&scene, "4");
    assert!(second.contains("SYNC_OUTCOME_BUSY"), "{second}");
    assert!(first.contains("SYNC_OUTCOME_NOT_REACHED"), "{first}");

    // No node runs: one has the data folder, and the other says so.
    county.kill();
    let (first, second) = two_at_once(&scene, "4");
    assert!(second.contains("\"exit_code\":8"), "{second}");
    assert!(first.contains("\"exit_code\":4"), "{first}");

    scene.line.cut(false);
    let (code, text) = told(&scene.sync(&["--json"]).output().unwrap());
    let summary: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(
        (code, &summary["exit_code"], &summary["moved"]),
        (0, &0.into(), &1.into())
    );
    assert_eq!(summary["outcome"], "SYNC_OUTCOME_COMPLETE");
    // Once more moves nothing.
    let (code, text) = told(&scene.sync(&[]).output().unwrap());
    assert!(
        code == 0 && text.contains("has cosigned everything"),
        "{text}"
    );
    drop(city);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_is_kept_and_a_sync_that_runs_out_of_time_is_gone_on_with() {
    let hour = jiff::Timestamp::now().as_second() / 3_600 + 8;
    let window = format!("{:02}:30-{:02}:30", (hour + 6) % 24, (hour + 7) % 24);
    let scene = Scene::new(&format!("mode = \"window\"\nwindow = \"{window}\"\n"));
    let city = Process::start(&scene.city);
    let county = Process::start(&scene.county);
    let mut agency = county
        .clients(&scene.domain, &format!("agency/{QIDONG}"))
        .await;
    for item in 0..60 {
        let mut risk = risk(&format!("R-{item}"));
        risk.factor = "储罐老化".repeat(150);
        agency.submit(risk).await.unwrap();
    }
    let mut below = county.clients(&scene.domain, "admin/operator").await;
    let own = status(&mut below).await.uplinks.remove(0);
    assert!(
        own.lag >= 59,
        "nothing but the greeting goes up outside the window: {own:?}"
    );
    // 60 entries of 2 KB and more, 16 KiB in a second: it cannot be done in three seconds.
    let capped = ["--bandwidth-kib-s", "16", "--timeout", "3"];
    let (code, text) = told(&scene.sync(&capped).output().unwrap());
    assert_eq!(code, 6, "{text}");
    let start = Instant::now();
    while status(&mut below).await.uplinks[0].state() != LinkState::Disconnected {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = status(&mut below).await.uplinks.remove(0);
    assert!(
        before.cosigned_size > 0 && before.lag > 0,
        "it ends where a batch ends: {before:?}"
    );
    let (code, text) = told(&scene.sync(&["--json"]).output().unwrap());
    let summary: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(code, 0, "{text}");
    assert_eq!(summary["moved"], before.lag);
    drop(city);
}
