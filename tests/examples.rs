//! What deploy/ shows is what the program takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{fs, path::Path};

use hefu::config::{Config, KEYS, env_name};

#[test]
fn the_example_configurations_load() {
    for file in ["deploy/county.toml", "deploy/city.toml"] {
        Config::load(Path::new(file), &[]).unwrap();
    }
}

#[test]
fn the_county_example_explains_every_key() {
    let text = fs::read_to_string("deploy/county.toml").unwrap();
    for key in KEYS {
        let (section, name) = key.split_once('.').unwrap();
        let body = text.split(&format!("\n[{section}]\n")).nth(1).unwrap();
        let body = body.split("\n[").next().unwrap();
        let set = |line: &str| {
            let line = line.trim_start_matches("# ");
            line.split_once(" = ").is_some_and(|(left, _)| left == name)
        };
        assert!(body.lines().any(set), "{key} is not in deploy/county.toml");
        assert!(
            text.contains(&env_name(key)),
            "{} is not explained",
            env_name(key)
        );
    }
}
