//! `hefu bench` measures and leaves nothing behind.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::process::Command;

fn bench(options: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hefu"));
    command.arg("bench").args(options).output().unwrap()
}

#[test]
fn every_figure_has_a_name_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("cost.svg");
    let output = bench(&[
        "--quick",
        "--json",
        "--only",
        "list,replication,grow",
        "--rows",
        "400",
        "--sizes",
        "400,800",
        "--folder",
        folder.path().to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in [
        "list_burst.ratio",
        "list_16.ratio",
        "list_sustained.bare_per_second",
        "replication.ratio",
        "disk.county",
        "at_400.get_p50_us",
        "at_800.custody_p99_us",
        "at_800.rss_mib",
        "at_800.start_after_kill_s",
        "rebuild.per_second",
        "flat.submit_p50",
    ] {
        assert!(figures[name].as_f64().unwrap() > 0.0, "{name}");
    }
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert_eq!(drawn.matches("<polyline").count(), 6);
    std::fs::remove_file(plot).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_node_that_is_there_is_not_written_to_by_mistake() {
    let output = bench(&["--server", "https://localhost:1", "--division", "320681"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--into"), "{said}");
}
