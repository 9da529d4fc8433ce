//! The `hefu` command as a person and a nightly job use it, against real processes.

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
    path::Path,
    process::{Command, Output},
};

use support::{
    Domain, QIDONG,
    process::{Process, configure, port},
};

const HEADER: &str = "name,title,sector,place.division,place.address,level,state,factor,consequences,\
                      responsible_unit.name,regulator\n";

fn row(item: &str, level: &str) -> String {
    format!(
        "{item},储罐区,C2631,320681,启东市试验路1号,{level},IDENTIFIED,泄漏,FIRE;EXPLOSION,测试企业（虚构）,应急管理局\n"
    )
}

fn hefu(domain: &Domain, who: &str, node: &Process, arguments: &[&str]) -> Output {
    let issued = domain.issue(who);
    Command::new(env!("CARGO_BIN_EXE_hefu"))
        .args(arguments)
        .env("HEFU_SERVER", format!("https://{}", node.address))
        .env("HEFU_CERT", issued.certificate)
        .env("HEFU_KEY", issued.key)
        .env("HEFU_ROOTS", issued.root)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn sync(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
    command
        .args(["sync", "--once", "--timeout", "5", "--config"])
        .arg(config)
        .output()
        .unwrap()
}

#[test]
fn a_clerk_and_a_nightly_job_do_their_work() {
    let domain = Domain::new();
    let city_config = configure(
        &domain,
        "nantong",
        &domain.folder.path().join("nantong"),
        None,
    );
    let data = domain.folder.path().join("qidong");
    let config = configure(
        &domain,
        "qidong",
        &data,
        Some(("nantong", port(&city_config))),
    );
    let agency = format!("agency/{QIDONG}");
    let county = Process::start(&config);
    let file = domain.folder.path().join("risks.csv");
    let path = file.display().to_string();

    // A list with a mistake in a cell is not sent; one with a bad row is refused for that row alone.
    std::fs::write(
        &file,
        format!(
            "\u{feff}{HEADER}{}{}",
            row("R-1", "MAJOR"),
            row("R-2", "PURPLE")
        ),
    )
    .unwrap();
    let submit = ["submit", "risks", path.as_str(), "--agency", QIDONG];
    let output = hefu(&domain, &agency, &county, &submit);
    assert_eq!(code(&output), 2, "{}", said(&output));
    assert!(
        said(&output).contains("line 3, column level"),
        "{}",
        said(&output)
    );
    std::fs::write(
        &file,
        format!("{HEADER}{}{}", row("R-1", "MAJOR"), row("R-2", "")),
    )
    .unwrap();
    let output = hefu(&domain, &agency, &county, &submit);
    assert_eq!(code(&output), 3, "{}", said(&output));
    assert!(said(&output).contains("risk.level"), "{}", said(&output));
    assert!(said(&output).contains("created 1") && said(&output).contains("refused 1"));
    std::fs::write(
        &file,
        format!("{HEADER}{}{}", row("R-1", "MAJOR"), row("R-2", "LOW")),
    )
    .unwrap();
    let output = hefu(
        &domain,
        &agency,
        &county,
        &[&submit[..], &["--dry-run"]].concat(),
    );
    assert!(said(&output).contains("created 1") && said(&output).contains("unchanged 1"));
    assert_eq!(code(&hefu(&domain, &agency, &county, &submit)), 0);
    std::fs::write(&file, format!("{HEADER}{}", row("R-1", "MAJOR"))).unwrap();
    let output = hefu(
        &domain,
        &agency,
        &county,
        &[&submit[..], &["--complete"]].concat(),
    );
    assert!(said(&output).contains("withdrawn 1"), "{}", said(&output));

    let name = format!("agencies/{QIDONG}/risks/R-1");
    let output = hefu(&domain, &agency, &county, &["get", &name]);
    assert!(
        said(&output).contains("RISK_LEVEL_MAJOR"),
        "{}",
        said(&output)
    );
    let list = ["list", "risks", "--filter", "level = MAJOR", "-o", "json"];
    assert_eq!(
        said(&hefu(&domain, &agency, &county, &list))
            .lines()
            .count(),
        1
    );
    let output = hefu(
        &domain,
        &agency,
        &county,
        &["list", "risks", "--filter", "colour = RED"],
    );
    assert_eq!(code(&output), 5);
    assert!(said(&output).contains("FILTER_INVALID") && said(&output).contains("sector"));
    let watch = ["watch", "risks", "--from-start", "--count", "2"];
    assert_eq!(
        said(&hefu(&domain, &agency, &county, &watch))
            .lines()
            .count(),
        2
    );
    let history = format!("agencies/{QIDONG}/risks/R-2");
    let output = hefu(&domain, &agency, &county, &["history", &history]);
    assert!(said(&output).contains("withdrawn"), "{}", said(&output));
    let output = hefu(&domain, &agency, &county, &["get", "agencies/x-y/risks/1"]);
    assert_eq!(code(&output), 5, "{}", said(&output));
    assert_eq!(
        code(&hefu(&domain, "admin/operator", &county, &["status"])),
        0
    );
    assert_eq!(
        code(&hefu(
            &domain,
            "admin/operator",
            &county,
            &["verify", "--live"]
        )),
        0
    );

    // The nightly job: the parent is away, then there; the node runs, then does not.
    let output = sync(&config);
    assert!([4, 6].contains(&code(&output)), "{}", said(&output));
    let city = Process::start(&city_config);
    let output = sync(&config);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(
        said(&output).contains("has cosigned everything"),
        "{}",
        said(&output)
    );
    let output = hefu(&domain, &agency, &county, &["custody", &name]);
    assert!(
        said(&output).contains("nantong") && code(&output) == 0,
        "{}",
        said(&output)
    );
    hefu(
        &domain,
        &agency,
        &county,
        &["withdraw", &name, "--reason", "拆除"],
    );
    county.kill();
    let output = sync(&config);
    assert_eq!(code(&output), 0, "the job does it alone: {}", said(&output));

    // The auditor.
    let verify = |folder: &Path| {
        Command::new(env!("CARGO_BIN_EXE_hefu"))
            .arg("verify")
            .arg(folder)
            .output()
            .unwrap()
    };
    let output = verify(&data);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let segment = data.join("journal").join("00000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let output = verify(&data);
    assert_eq!(code(&output), 7, "{}", said(&output));
    assert!(said(&output).contains("00000001.seg"), "{}", said(&output));
    drop(city);
}

#[test]
fn a_node_that_is_told_to_stop_drains_and_keeps_everything() {
    let domain = Domain::new();
    let data = domain.folder.path().join("qidong");
    let config = configure(&domain, "qidong", &data, None);
    let node = Process::start(&config);
    let file = domain.folder.path().join("risks.csv");
    let rows: String = (0..300).map(|n| row(&format!("R-{n}"), "LOW")).collect();
    std::fs::write(&file, format!("{HEADER}{rows}")).unwrap();
    let path = file.display().to_string();
    let submit = ["submit", "risks", path.as_str(), "--agency", QIDONG];
    assert_eq!(
        code(&hefu(&domain, &format!("agency/{QIDONG}"), &node, &submit)),
        0
    );
    assert!(node.stop().success(), "SIGTERM is a clean stop");
    let verified = hefu::cli::verify::folder(&data).unwrap();
    assert_eq!(verified.defects, Vec::<String>::new());
    assert!(
        verified.summary.contains("300 entries hashed"),
        "{}",
        verified.summary
    );
    let rebuilt = Command::new(env!("CARGO_BIN_EXE_hefu"))
        .args(["rebuild", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(
        said(&rebuilt).contains("risks: 300 live"),
        "{}",
        said(&rebuilt)
    );
    assert_eq!(
        hefu::cli::verify::folder(&data).unwrap().defects,
        Vec::<String>::new()
    );
}

/// The operator's questions: why may somebody, what was revoked.
#[test]
fn an_operator_asks_the_policy_and_revokes_a_certificate() {
    let domain = Domain::new();
    let folder = domain.folder.path();
    let config = configure(&domain, "qidong", &folder.join("qidong"), None);
    let hefu = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hefu"))
            .args(arguments)
            .output()
            .unwrap();
        (code(&output), said(&output))
    };
    let config = config.to_str().unwrap();
    let check = |who: &str, may: &str, of: &str| {
        let asked = [
            "policy", "check", "--config", config, "--as", who, "--may", may,
        ];
        hefu(&[asked.as_slice(), &["--register", "risks", "--of", of]].concat())
    };
    let (code, text) = check("agency/qidong-emergency", "read", "qidong-housing");
    assert!(code == 0 && text.starts_with("allowed: grant 1"), "{text}");
    let (code, text) = check("agency/qidong-emergency", "read", "rudong-emergency");
    assert!(code == 5 && text.contains("lies in 320623"), "{text}");
    let (code, text) = check("auditor/one", "read", "qidong-housing");
    assert!(
        code == 5 && text.contains("no grant lets auditor/one read"),
        "{text}"
    );
    let (code, text) = check("agency/qidong-emergency", "write", "qidong-housing");
    assert!(code == 1 && text.contains("none of submit"), "{text}");

    let cases = folder.join("cases.toml");
    let case = |expect: &str| {
        format!("[[case]]\nas = \"auditor/one\"\nmay = \"audit\"\nexpect = \"{expect}\"\n")
    };
    let test = |text: String| {
        std::fs::write(&cases, text).unwrap();
        hefu(&[
            "policy",
            "test",
            "--config",
            config,
            cases.to_str().unwrap(),
        ])
    };
    let (code, text) = test(case("allow"));
    assert!(
        code == 0 && text.contains("1 cases, 0 not as expected"),
        "{text}"
    );
    let (code, text) = test(case("allow") + &case("deny"));
    assert!(
        code == 5 && text.contains("2 cases, 1 not as expected"),
        "{text}"
    );
    let (code, text) = test(case("perhaps"));
    assert!(code == 1 && text.contains("case 1: expect"), "{text}");

    let pki = folder.join("pilot").to_str().unwrap().to_owned();
    let pki = |arguments: &[&str]| hefu(&[&["pki"], arguments, &["--dir", &pki]].concat());
    assert_eq!(pki(&["init"]).0, 0);
    assert_eq!(pki(&["issue", "agency/qidong-emergency"]).0, 0);
    assert_eq!(pki(&["issue", "auditor/one"]).0, 0);
    let (code, text) = pki(&["revoke", "agency/qidong-emergency", "--reason", "key lost"]);
    assert!(code == 0 && text.contains("crl.pem"), "{text}");
    let (code, text) = pki(&["revoke", "agency/qidong-emergency", "--reason", "again"]);
    assert!(code == 1 && text.contains("nothing to revoke"), "{text}");
    let (code, text) = pki(&["list"]);
    assert!(
        code == 0 && text.contains("key lost") && text.contains("valid"),
        "{text}"
    );
    assert_eq!(pki(&["crl"]).0, 0);
    // What is renewed is recorded; what is revoked is shown as such, and is not renewed.
    let (code, text) = pki(&["renew", "auditor/one", "--same-key", "--days", "20"]);
    assert!(code == 0 && text.contains("auditor-one.pem"), "{text}");
    let (code, text) = pki(&["show", "auditor/one"]);
    assert!(
        code == 0
            && text.contains("spiffe://nantong.gov.cn/auditor/one")
            && text.contains("19 days left")
            && text.contains("mode 0600, its own")
            && text.contains("crl.pem"),
        "{text}"
    );
    let (code, text) = pki(&["show", "agency/qidong-emergency"]);
    assert!(code == 7 && text.contains("no: it is revoked"), "{text}");
    let (code, text) = pki(&["renew", "agency/qidong-emergency"]);
    assert!(code == 1 && text.contains("hefu pki issue"), "{text}");
    // Processes that issue at once lose no row.
    std::thread::scope(|scope| {
        for at in 0..6 {
            let pki = &pki;
            scope.spawn(move || assert_eq!(pki(&["issue", &format!("agency/at-once-{at}")]).0, 0));
        }
    });
    let (_, text) = pki(&["list"]);
    assert!(
        (0..6).all(|at| text.contains(&format!("at-once-{at}"))),
        "{text}"
    );
}

#[test]
fn a_hazard_is_submitted_moved_and_extended_by_command() {
    let domain = Domain::new();
    let data = domain.folder.path().join("qidong");
    let config = configure(&domain, "qidong", &data, None);
    let node = Process::start(&config);
    let clerk = format!("agency/{QIDONG}");
    let file = domain.folder.path().join("hazards.csv");
    let text = "name,title,level,source,treatment,place.division,place.address,description,unit.name,\
                found_time,state\n\
                H-1,通道堵塞,GENERAL,DAILY_CHECK,BY_DEADLINE,320681,启东市试验路1号,安全出口堆物,测试企业（虚构）,\
                2024-02-18T08:00:00+08:00,REPORTED\n";
    std::fs::write(&file, text).unwrap();
    let run = |arguments: &[&str]| hefu(&domain, &clerk, &node, arguments);
    let submitted = run(&[
        "submit",
        "hazards",
        file.to_str().unwrap(),
        "--agency",
        QIDONG,
    ]);
    assert_eq!(code(&submitted), 0, "{}", said(&submitted));
    let name = format!("agencies/{QIDONG}/hazards/H-1");
    let skipped = run(&["hazard", "move", &name, "--to", "closed"]);
    assert_ne!(code(&skipped), 0);
    assert!(said(&skipped).contains("HAZARD_STATE_CONFIRMED") || code(&skipped) == 5);
    let moved = run(&["hazard", "move", &name, "--to", "confirmed"]);
    assert!(
        said(&moved).contains("CONFIRMED, revision 2"),
        "{}",
        said(&moved)
    );
    let deadline = "rectification.deadline=2024-03-01T18:00:00+08:00";
    let moved = run(&[
        "hazard",
        "move",
        &name,
        "--to",
        "rectifying",
        "--set",
        deadline,
    ]);
    assert_eq!(code(&moved), 0, "{}", said(&moved));
    let overdue = run(&["list", "hazards", "--filter", "overdue = true"]);
    assert!(said(&overdue).contains("H-1"), "{}", said(&overdue));
    let extended = run(&[
        "hazard",
        "extend",
        &name,
        "--deadline",
        "2094-03-01T18:00:00+08:00",
        "--document",
        "启应急延〔2024〕1号",
        "--approved-by",
        "启东市应急管理局",
        "--approved",
        "2024-02-28T09:00:00+08:00",
        "--reason",
        "备件到货延迟",
    ]);
    assert!(
        said(&extended).contains("revision 4"),
        "{}",
        said(&extended)
    );
    let overdue = run(&["list", "hazards", "--filter", "overdue = true"]);
    assert!(!said(&overdue).contains("H-1"), "{}", said(&overdue));
    // Its figures, and what is said of the day before it was found.
    let days = ["--from", "2024-02-01", "--to", "2024-02-29"];
    let stats = run(&[&["stats", "hazards", "--by", "level,status"], &days[..]].concat());
    let shown = said(&stats);
    assert!(
        shown.contains("HAZARD_LEVEL_GENERAL") && shown.contains("duplicates"),
        "{shown}"
    );
    let json = run(&[&["stats", "hazards", "-o", "json"], &days[..]].concat());
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["total"]["figures"]["count"], "1");
    let sign = |day: &str| {
        let agency = [
            "report-nil",
            "hazards",
            "--agency",
            QIDONG,
            "--post",
            "值班主任",
        ];
        run(&[&agency[..], &["--from", day]].concat())
    };
    assert_eq!(code(&sign("2024-02-18")), 5);
    assert_eq!(code(&sign("2024-02-17")), 0);
    let due = run(&["due", "--within", "366d", "--register", "hazards"]);
    assert!(
        code(&due) == 0 && !said(&due).contains("H-1"),
        "{}",
        said(&due)
    );
    let late = text
        .replace("H-1", "H-2")
        .replace(",state\n", ",rectification.deadline,state\n");
    let late = late.replace(",REPORTED", ",2024-03-01T18:00:00+08:00,REPORTED");
    std::fs::write(&file, late).unwrap();
    let submitted = run(&[
        "submit",
        "hazards",
        file.to_str().unwrap(),
        "--agency",
        QIDONG,
    ]);
    assert_eq!(code(&submitted), 0, "{}", said(&submitted));
    let due = run(&["due", "--division", "320681"]);
    assert!(
        said(&due).contains("OVERDUE") && said(&due).contains("H-2"),
        "{}",
        said(&due)
    );
    let reporting = run(&["reporting", "hazards", "--date", "2024-03-01"]);
    assert_eq!(code(&reporting), 6, "{}", said(&reporting));
    assert!(said(&reporting).contains("MISSING"), "{}", said(&reporting));
}
