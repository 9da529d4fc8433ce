//! A county that has forked its log: the evidence as a proof, and the ways out, with the real program.

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
    process::Command,
    time::{Duration, Instant},
};

use hefu::proto::node::v1::{Child, GetStatusRequest, LinkState};
use support::{
    Clients, Domain, QIDONG, copy,
    process::{Process, configure, port},
    risk,
};

fn run(arguments: &[&str], envs: &[(&str, String)]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
    command.args(arguments);
    command.envs(envs.iter().map(|(key, value)| (*key, value)));
    let output = command.output().unwrap();
    let (out, err) = (&output.stdout, &output.stderr);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    );
    (output.status.code().unwrap(), text)
}

struct Scene {
    domain: Domain,
    config: PathBuf,
    data: PathBuf,
    /// The county's folder as it was when the city had cosigned everything.
    sound: PathBuf,
    city: Process,
    county: Option<Process>,
    origin: String,
}

async fn submit(county: &Process, domain: &Domain, item: &str, title: &str) {
    let mut agency = county.clients(domain, &format!("agency/{QIDONG}")).await;
    let mut risk = risk(item);
    risk.title = title.to_owned();
    agency.submit(risk).await.unwrap();
}

async fn children(city: &Process, domain: &Domain) -> Vec<Child> {
    let mut above: Clients = city.clients(domain, "admin/operator").await;
    let asked = above.node.get_status(GetStatusRequest {}).await;
    asked.unwrap().into_inner().children
}

async fn until(city: &Process, domain: &Domain, what: &str, shows: impl Fn(&[Child]) -> bool) {
    let start = Instant::now();
    loop {
        let children = children(city, domain).await;
        if shows(&children) {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "never {what}: {children:#?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn sync(config: &Path) -> (i32, String) {
    run(
        &[
            "sync",
            "--once",
            "--timeout",
            "20",
            "--config",
            config.to_str().unwrap(),
        ],
        &[],
    )
}

impl Scene {
    /// A county that was restored from an old copy and grew before it met its city again.
    async fn forked() -> Self {
        let domain = Domain::new();
        let folder = domain.folder.path().to_owned();
        let city_config = configure(&domain, "nantong", &folder.join("nantong"), None);
        let data = folder.join("qidong");
        let config = configure(
            &domain,
            "qidong",
            &data,
            Some(("nantong", port(&city_config))),
        );
        let city = Process::start(&city_config);
        let county = Process::start(&config);
        submit(&county, &domain, "R-1", "first").await;
        assert_eq!(sync(&config).0, 0);
        assert!(county.stop().success());
        let (old, sound) = (folder.join("old"), folder.join("sound"));
        copy(&data, &old);
        let county = Process::start(&config);
        submit(&county, &domain, "R-2", "second").await;
        assert_eq!(sync(&config).0, 0);
        let origin = children(&city, &domain).await.remove(0).origin;
        assert!(county.stop().success());
        copy(&data, &sound);
        assert!(city.stop().success());
        std::fs::remove_dir_all(&data).unwrap();
        copy(&old, &data);
        let county = Process::start(&config);
        submit(&county, &domain, "R-9", "of another history").await;
        let city = Process::start(&city_config);
        let quarantined = |children: &[Child]| children[0].state() == LinkState::Quarantined;
        until(&city, &domain, "quarantined", quarantined).await;
        Self {
            domain,
            config,
            data,
            sound,
            city,
            county: Some(county),
            origin,
        }
    }

    fn hefu(&self, who: &str, arguments: &[&str]) -> (i32, String) {
        let issued = self.domain.issue(who);
        let envs = [
            ("HEFU_SERVER", format!("https://{}", self.city.address)),
            ("HEFU_CERT", issued.certificate.display().to_string()),
            ("HEFU_KEY", issued.key.display().to_string()),
            ("HEFU_ROOTS", issued.root.display().to_string()),
        ];
        run(arguments, &envs)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_proven_offline_and_a_log_that_agrees_again_goes_on() {
    let mut scene = Scene::forked().await;
    let (origin, folder) = (scene.origin.clone(), scene.domain.folder.path().to_owned());
    let (code, text) = scene.hefu("auditor/one", &["evidence", "list"]);
    assert!(code == 0 && text.contains("QUARANTINED"), "{text}");
    let (code, text) = scene.hefu("auditor/one", &["evidence", "show", &origin]);
    assert!(code == 0 && text.contains("of two histories"), "{text}");
    let file = folder.join("fork.json");
    let path = file.to_str().unwrap();
    let (code, text) = scene.hefu("auditor/one", &["evidence", "export", &origin, path]);
    assert!(
        code == 0 && text.contains("proves a contradiction"),
        "{text}"
    );

    // Offline, with the public key alone; without it, with another one, or with a byte changed it proves nothing.
    let written = std::fs::read_to_string(&file).unwrap();
    let exported: serde_json::Value = serde_json::from_str(&written).unwrap();
    let key = exported["key"].as_str().unwrap();
    let verify = |file: &Path, key: &str| {
        let mut arguments = vec!["verify", "--evidence", file.to_str().unwrap()];
        if !key.is_empty() {
            arguments.extend(["--vkey", key]);
        }
        run(&arguments, &[])
    };
    let (code, text) = verify(&file, key);
    assert!(code == 0 && text.contains("two histories"), "{text}");
    let (code, text) = verify(&file, "");
    assert!(
        code == 7 && text.contains("proves nothing by itself"),
        "{text}"
    );
    for (field, from, to) in [("held", "\n2\n", "\n3\n"), ("offered", "\n2\n", "\n1\n")] {
        let mut changed = exported.clone();
        let note = changed[field].as_str().unwrap().replace(from, to);
        assert_ne!(note, exported[field].as_str().unwrap());
        changed[field] = note.into();
        let other = folder.join(format!("{field}.json"));
        std::fs::write(&other, changed.to_string()).unwrap();
        let (code, text) = verify(&other, key);
        assert!(code == 7 && text.contains("signature"), "{field}: {text}");
    }
    let mut same = exported.clone();
    same["offered"] = exported["held"].clone();
    let other = folder.join("same.json");
    std::fs::write(&other, same.to_string()).unwrap();
    let (code, text) = verify(&other, key);
    assert!(code == 7 && text.contains("do not contradict"), "{text}");

    // An auditor looks, and does not decide; a decision has a reason.
    let resume = |reason: &'static str| {
        let origin = origin.clone();
        move |scene: &Scene, who: &str| {
            let accept = [
                "evidence", "resolve", &origin, "--accept", "resume", "--reason", reason,
            ];
            scene.hefu(who, &accept)
        }
    };
    assert_eq!(resume("x")(&scene, "auditor/one").0, 5);
    let (code, text) = resume("")(&scene, "admin/operator");
    assert!(code == 5 && text.contains("reason"), "{text}");

    // While the county still has the other history, lifting the quarantine brings it back.
    let (code, text) = resume("a false alarm, it was said")(&scene, "admin/operator");
    assert!(code == 0 && text.contains("resumed at 2 entries"), "{text}");
    sync(&scene.config);
    let again = |children: &[Child]| children[0].state() == LinkState::Quarantined;
    until(&scene.city, &scene.domain, "quarantined again", again).await;
    let (_, text) = scene.hefu("admin/operator", &["evidence", "list"]);
    assert!(
        text.contains("resumed at 2") && text.contains("QUARANTINED"),
        "{text}"
    );

    // With the sound copy in place it goes on as the same log.
    scene.county.take().unwrap().kill();
    std::fs::remove_dir_all(&scene.data).unwrap();
    copy(&scene.sound, &scene.data);
    let county = Process::start(&scene.config);
    let (code, text) = resume("the sound copy is in place")(&scene, "admin/operator");
    assert_eq!(code, 0, "{text}");
    submit(&county, &scene.domain, "R-3", "third").await;
    let (code, text) = sync(&scene.config);
    assert_eq!(code, 0, "{text}");
    let current =
        |children: &[Child]| children[0].state() == LinkState::Current && children[0].size == 3;
    until(&scene.city, &scene.domain, "current", current).await;
    let (code, text) = scene.hefu("admin/operator", &["audit", "list", "--output", "json"]);
    assert!(
        code == 0 && text.contains("the sound copy is in place"),
        "{text}"
    );
}
