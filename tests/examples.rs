//! What deploy/ shows is what the program takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{fs, path::Path};

use hefu::config::{Config, KEYS, LogConfig, StorageConfig, env_name};

const COUNTY: &str = "deploy/county.toml";

/// The key that a line sets, or would set if it were not commented out.
fn key(line: &str) -> Option<&str> {
    let (left, _) = line.trim_start_matches("# ").split_once(" = ")?;
    left.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        .then_some(left)
}

#[test]
fn the_example_configurations_load() {
    for file in [COUNTY, "deploy/city.toml"] {
        Config::load(Path::new(file), &[]).unwrap();
    }
}

#[test]
fn the_county_example_explains_every_key_and_no_other() {
    let text = fs::read_to_string(COUNTY).unwrap();
    let (mut section, mut before, mut explained) = ("", Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
        } else if let Some(name) = key(line) {
            let key = format!("{section}.{name}");
            let variable = format!("# {}", env_name(&key));
            let told = |line: &&str| line.split(',').next() == Some(variable.as_str());
            assert!(before.iter().any(told), "{key}: {variable} is not above it");
            explained.push(key);
        } else if line.starts_with('#') {
            before.push(line);
            continue;
        }
        before.clear();
    }
    assert_eq!(explained, KEYS);
}

#[test]
fn what_the_county_example_comments_out_is_the_default() {
    let text = fs::read_to_string(COUNTY).unwrap();
    let set = |line: &str| match key(line) {
        Some(_) => line.trim_start_matches("# ").to_owned(),
        None => line.to_owned(),
    };
    let set: Vec<_> = text.lines().map(set).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("county.toml");
    fs::write(&file, set.join("\n")).unwrap();
    let (all, shown) = (Config::load(&file, &[]), Config::load(COUNTY.as_ref(), &[]));
    let (all, shown) = (all.unwrap(), shown.unwrap());
    assert!(all.reference.divisions.is_some() && all.reference.rules.is_some());
    assert_eq!(
        all.parent.unwrap().mode,
        shown.parent.unwrap().mode,
        "parent.mode"
    );
    let storage = StorageConfig::default();
    assert_eq!(format!("{:?}", all.storage), format!("{storage:?}"));
    assert_eq!(
        format!("{:?}", all.log),
        format!("{:?}", LogConfig::default())
    );
}
