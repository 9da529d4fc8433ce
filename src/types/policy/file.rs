//! Policy files: TOML in, grants out, or an error that names the grant.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Action, Area, Brings, Grant, Policy, Who, limits::Bound};
use crate::types::{RegisterId, Role};

/// Why a policy is not used. The text says which grant is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Parse(String),
    /// A grant is wrong.
    #[error("grant {number}: {cause}")]
    Grant {
        /// Its place in the file, from 1.
        number: usize,
        /// What is wrong.
        cause: String,
    },
    /// A limit is wrong.
    #[error("limit {number}: {cause}")]
    Limit {
        /// Its place in the file, from 1.
        number: usize,
        /// What is wrong.
        cause: String,
    },
    /// A case of a test file is wrong.
    #[error("case {number}: {cause}")]
    Case {
        /// Its place in the file, from 1.
        number: usize,
        /// What is wrong.
        cause: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    grant: Vec<RawGrant>,
    #[serde(default)]
    limit: Vec<RawLimit>,
}

#[derive(Deserialize)]
struct RawLimit {
    who: Vec<String>,
    /// All other keys, each a limit.
    #[serde(flatten)]
    keys: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrant {
    who: Vec<String>,
    may: Vec<String>,
    registers: Option<Vec<String>>,
    divisions: Option<Vec<String>>,
    brings: Option<Vec<String>>,
}

impl Policy {
    /// Parses a policy file.
    ///
    /// # Errors
    /// [`PolicyError`] names the grant. A grant that could never apply is an error too: it is not what
    /// its author meant.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let file: File = toml::from_str(text).map_err(|e| PolicyError::Parse(e.to_string()))?;
        let grants = file.grant.iter().enumerate().map(|(at, raw)| {
            let number = at + 1;
            grant(number, raw, &file.groups).map_err(|cause| PolicyError::Grant { number, cause })
        });
        let bounds = file.limit.iter().enumerate().map(|(at, raw)| {
            let number = at + 1;
            let bound = whom(&raw.who, &file.groups).and_then(|who| Bound::new(who, &raw.keys));
            bound.map_err(|cause| PolicyError::Limit { number, cause })
        });
        Ok(Self {
            grants: grants.collect::<Result<_, _>>()?,
            bounds: bounds.collect::<Result<_, _>>()?,
            digest: HEXLOWER.encode(&Sha256::digest(text.as_bytes())),
        })
    }
}

fn grant(
    number: usize,
    raw: &RawGrant,
    groups: &BTreeMap<String, Vec<String>>,
) -> Result<Grant, String> {
    let may: Vec<Action> = raw
        .may
        .iter()
        .map(|t| action(t))
        .collect::<Result<_, _>>()?;
    if may.is_empty() {
        return Err("may: name at least one action".to_owned());
    }
    let records = may.contains(&Action::Submit) || may.contains(&Action::Read);
    let replicates = may.contains(&Action::Replicate);
    let registers = list(
        "registers",
        raw.registers.as_ref(),
        records,
        "submit or read",
    )?;
    let divisions = list(
        "divisions",
        raw.divisions.as_ref(),
        records,
        "submit or read",
    )?;
    let brings = list("brings", raw.brings.as_ref(), replicates, "replicate")?;
    Ok(Grant {
        number,
        who: whom(&raw.who, groups)?,
        may: may.into_iter().collect(),
        registers: if registers.iter().any(|text| text == "*") {
            None
        } else {
            let parse = |t: &String| {
                t.parse::<RegisterId>()
                    .map_err(|e| format!("registers: {e}"))
            };
            Some(registers.iter().map(parse).collect::<Result<_, _>>()?)
        },
        divisions: divisions
            .iter()
            .map(|t| area(t))
            .collect::<Result<_, _>>()?,
        brings: brings
            .iter()
            .map(|t| brought(t))
            .collect::<Result<_, _>>()?,
    })
}

/// Whom a list names, its groups resolved.
fn whom(texts: &[String], groups: &BTreeMap<String, Vec<String>>) -> Result<Vec<Who>, String> {
    let mut members = Vec::new();
    for text in texts {
        match text.strip_prefix("group/") {
            Some(group) => members.extend(
                groups
                    .get(group)
                    .ok_or_else(|| format!("who: there is no group {group:?}"))?,
            ),
            None => members.push(text),
        }
    }
    if members.is_empty() {
        return Err("who: name at least one".to_owned());
    }
    members.into_iter().map(|text| who(text)).collect()
}

/// A list that must be there exactly where an action needs it.
fn list<'a>(
    key: &str,
    given: Option<&'a Vec<String>>,
    needed: bool,
    by: &str,
) -> Result<&'a [String], String> {
    match given {
        Some(list) if needed && !list.is_empty() => Ok(list),
        None if !needed => Ok(&[]),
        Some(_) if !needed => Err(format!("{key}: it means nothing without {by}")),
        _ => Err(format!("{key}: {by} needs it; \"*\" is all of them")),
    }
}

pub(super) fn action(text: &str) -> Result<Action, String> {
    let found = Action::ALL.into_iter().find(|a| a.as_str() == text);
    found.ok_or_else(|| {
        let all: Vec<_> = Action::ALL.iter().map(|a| a.as_str()).collect();
        format!("may: {text:?} is none of {}", all.join(", "))
    })
}

fn who(text: &str) -> Result<Who, String> {
    match text {
        "self" => return Ok(Who::Itself),
        "agency/*" => return Ok(Who::Kind("agency")),
        "node/*" => return Ok(Who::Kind("node")),
        "admin/*" => return Ok(Who::Kind("admin")),
        "auditor/*" => return Ok(Who::Kind("auditor")),
        _ => {}
    }
    let role: Role = text.parse().map_err(|_| {
        format!(
            "who: {text:?} is no kind/id such as agency/qidong-emergency, admin/*, group/NAME or self"
        )
    })?;
    Ok(Who::One(role))
}

fn area(text: &str) -> Result<Area, String> {
    Ok(match text {
        "*" => Area::Everywhere,
        "own" => Area::Own,
        code => Area::Division(code.parse().map_err(|e| format!("divisions: {e}"))?),
    })
}

fn brought(text: &str) -> Result<Brings, String> {
    Ok(match text {
        "*" => Brings::Any,
        "own" => Brings::Own,
        node => Brings::Node(node.parse().map_err(|e| format!("brings: {e}"))?),
    })
}
