//! The architecture is a test: layers point one way, files stay small, habits hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each layer, lowest first; those in one row are siblings and never import each other.
const LAYERS: &[&[&str]] = &[
    &["types", "proto"],
    &["storage", "metrics"],
    &["ledger", "audit"],
    &["registers", "replication"],
    &["services"],
    &["config"],
    &["gateway"],
    &["node"],
    &["cli"],
];
/// Beyond their layer: what a module may import all the same, and why.
const EXCEPTIONS: &[(&str, &str)] = &[];
/// Lines of a source file, at most; generated and test files aside.
const MAX_LINES: usize = 700;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules of this crate that a text imports or names by path.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("crate::") {
        rest = &rest[at + "crate::".len()..];
        if let Some(inner) = rest.strip_prefix('{') {
            // use crate::{a::…, b::…}: the names at depth one.
            let (mut depth, mut name) = (1, String::new());
            let mut taking = true;
            for c in inner.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => {
                        found.push(std::mem::take(&mut name));
                        taking = true;
                        continue;
                    }
                    ':' if depth == 1 => taking = false,
                    c if depth == 1 && taking && !c.is_whitespace() => name.push(c),
                    _ => {}
                }
                if depth == 0 {
                    found.push(name);
                    break;
                }
            }
        } else {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
        }
    }
    found.retain(|name| rank(name).is_some());
    found
}

#[test]
fn layers_point_one_way() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 60, "the sources were not found");
    let mut wrong = Vec::new();
    for file in &files {
        let inside = file.strip_prefix("src").unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        let own = first.trim_end_matches(".rs");
        if matches!(own, "lib" | "main") {
            continue;
        }
        let own_rank = rank(own).unwrap_or_else(|| panic!("{own} is in no layer"));
        for import in imports(&fs::read_to_string(file).unwrap()) {
            let allowed = import == own
                || rank(&import).unwrap() < own_rank
                || EXCEPTIONS.contains(&(own, import.as_str()));
            if !allowed {
                wrong.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_import_reader_sees_what_it_should() {
    let text = "use crate::{a, ledger::{keys, note::Note}, types::{self, Clock},\n    storage};\n\
                let x = crate::node::open(); pub(crate) fn f() {}";
    assert_eq!(imports(text), ["ledger", "types", "storage", "node"]);
}

#[test]
fn only_one_file_names_the_engine_and_no_register_is_named_below() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    for file in files {
        let (path, text) = (
            file.display().to_string(),
            fs::read_to_string(&file).unwrap(),
        );
        let engine = text.contains(" ::sled::") || text.contains("(::sled::");
        assert!(
            !engine || path.starts_with("src/storage/sled"),
            "{path} names sled"
        );
        if path.starts_with("src/replication") || path.starts_with("src/storage") {
            assert!(!text.contains("crate::registers"), "{path} names registers");
        }
        assert!(
            !text.contains("todo!(") && !text.contains("unimplemented!("),
            "{path}"
        );
        let lines = text.lines().count();
        assert!(
            lines <= MAX_LINES,
            "{path} has {lines} lines: does it still do one thing?"
        );
    }
}

#[test]
fn every_register_has_the_same_shapes_as_the_generic_service() {
    use hefu::proto::DESCRIPTORS;
    use prost_reflect::{DescriptorPool, Kind};
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let shapes = |package: &str, one: &str, many: &str| -> Vec<String> {
        let mut shapes = Vec::new();
        // The name is read without the rest of a record.
        let record = pool.get_message_by_name(&format!("{package}.{one}"));
        let first = record.and_then(|record| record.get_field(1)).unwrap();
        assert_eq!((first.name(), first.kind()), ("name", Kind::String));
        for (message, tail) in [
            (format!("Submit{one}"), "Request"),
            (format!("Submit{one}"), "Response"),
            (format!("Submit{many}"), "Request"),
            (format!("Submit{many}"), "Response"),
            (format!("Get{one}"), "Request"),
            (format!("Get{one}"), "Response"),
            (format!("List{many}"), "Request"),
            (format!("List{many}"), "Response"),
            (format!("List{one}Revisions"), "Request"),
            (format!("List{one}Revisions"), "Response"),
            (format!("Watch{many}"), "Request"),
            (format!("Watch{many}"), "Response"),
            (format!("Withdraw{one}"), "Request"),
            (format!("Withdraw{one}"), "Response"),
        ] {
            let name = format!("{package}.{message}{tail}");
            let found = pool
                .get_message_by_name(&name)
                .unwrap_or_else(|| panic!("no {name}"));
            for field in found.fields() {
                let kind = format!("{:?}", field.kind())
                    .replace(one, "S")
                    .replace(package, "P");
                let field_name = field.name().replace(&one.to_lowercase(), "s");
                let list = field.is_list();
                let message = message.replace(many, "M").replace(one, "S");
                shapes.push(format!(
                    "{message}{tail} {} {field_name} {kind} {list}",
                    field.number()
                ));
            }
        }
        shapes.sort();
        shapes
    };
    let risks = shapes("hefu.risk.v1", "Risk", "Risks");
    assert!(risks.len() > 40);
    assert_eq!(risks, shapes("hefu.measure.v1", "Measure", "Measures"));
    assert_eq!(risks, shapes("hefu.incident.v1", "Incident", "Incidents"));
    assert_eq!(risks, shapes("hefu.hazard.v1", "Hazard", "Hazards"));
    assert_eq!(
        risks,
        shapes("hefu.nilreport.v1", "NilReport", "NilReports")
    );
}
