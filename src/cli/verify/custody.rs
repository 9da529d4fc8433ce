//! `hefu verify --custody`: a custody file, checked with public keys alone.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    cli::{
        CliError, Exit,
        client::{ClientError, args::Output, table::table},
    },
    ledger::{
        custody::{Custody, Ladder, Rung},
        evidence::EvidenceFile,
        note::VerifierKey,
    },
    proto::ledger::v1::GetCustodyResponse,
    types::beijing_time,
};

/// What `hefu verify --custody` takes.
#[derive(Debug, Args)]
pub struct CustodyArgs {
    /// Check a custody file, offline
    #[arg(long, value_name = "FILE", group = "offline", conflicts_with_all = ["folder", "live"])]
    pub custody: Option<PathBuf>,
    /// Check an evidence file, offline
    #[arg(long, value_name = "FILE", group = "offline", conflicts_with_all = ["folder", "live"])]
    pub evidence: Option<PathBuf>,
    /// A public key that you trust, as name+id+key; a custody must have its statement
    #[arg(long = "vkey", value_name = "VKEY", requires = "offline")]
    vkeys: Vec<VerifierKey>,
    /// A file of public keys that you trust, one a line; # begins a comment
    #[arg(long = "vkeys", value_name = "FILE", requires = "offline")]
    vkey_file: Option<PathBuf>,
}

impl CustodyArgs {
    /// Checks the file: done where the origin and every key of `--vkey` stand proven behind the entry.
    pub(super) fn run(&self, file: &Path, output: Output) -> Result<Exit, CliError> {
        let not_proven = |why: String| CliError::from(ClientError::NotProven(why));
        let trusted = self.trusted()?;
        let custody = Custody::parse(&read(file)?);
        let ladder = custody.and_then(|custody| custody.verify(&trusted));
        let ladder = ladder.map_err(|e| not_proven(format!("{}: {e}", file.display())))?;
        match output {
            Output::Table => print(&ladder),
            Output::Json => println!("{}", json(&ladder)),
        }
        self.judge(&ladder).map_err(not_proven)?;
        Ok(Exit::Done)
    }

    fn trusted(&self) -> Result<Vec<VerifierKey>, CliError> {
        let mut trusted = self.vkeys.clone();
        if let Some(file) = &self.vkey_file {
            trusted.extend(keys(file)?);
        }
        Ok(trusted)
    }

    /// Checks an evidence file: done where a trusted key has signed two histories.
    pub(super) fn evidence(&self, file: &Path, output: Output) -> Result<Exit, CliError> {
        let not_proven = |why: String| CliError::from(ClientError::NotProven(why));
        let trusted = self.trusted()?;
        let evidence = EvidenceFile::parse(&read(file)?);
        let found = evidence.and_then(|evidence| evidence.verify(&trusted));
        let found = found.map_err(|e| not_proven(format!("{}: {e}", file.display())))?;
        let (held, offered) = (found.held_size, found.offered_size);
        match output {
            Output::Table => println!(
                "{} has signed two histories: {held} entries, and {offered} that do not begin them\nnoticed \
                 {}: {}\nby {}",
                found.origin, found.noticed, found.reason, found.key
            ),
            Output::Json => println!(
                "{}",
                serde_json::json!({
                    "origin": found.origin, "held_size": held, "offered_size": offered,
                    "key": found.key.to_string(), "proven": found.trusted,
                })
            ),
        }
        match found.trusted {
            true => Ok(Exit::Done),
            false => Err(not_proven(
                "not proven: the key in the file proves nothing by itself; give the log's with --vkey \
                 once its operator has told you that it is right"
                    .to_owned(),
            )),
        }
    }

    fn judge(&self, ladder: &Ladder) -> Result<(), String> {
        let proven = |key: &VerifierKey| {
            let mut rungs = ladder.rungs.iter();
            rungs.any(|rung| rung.trusted && rung.key == *key)
        };
        if let Some(absent) = self.vkeys.iter().find(|key| !proven(key)) {
            return Err(format!("the file has no statement of {}", absent.name()));
        }
        match ladder.rungs.first() {
            Some(origin) if origin.trusted => Ok(()),
            _ => Err(
                "not proven: keys in the file prove nothing by themselves; give the origin's with \
                 --vkey once its operator has told you that it is right"
                    .to_owned(),
            ),
        }
    }
}

/// Checks what a node answered, with the keys that the node itself names.
///
/// # Errors
/// What does not verify.
pub fn custody(answer: &GetCustodyResponse) -> Result<(Custody, Ladder), String> {
    let custody = Custody::of(answer).map_err(|e| e.to_string())?;
    let keys = custody.keys().map_err(|e| e.to_string())?;
    let ladder = custody.verify(&keys).map_err(|e| e.to_string())?;
    Ok((custody, ladder))
}

fn read(file: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(file)
        .map_err(|e| ClientError::Usage(format!("{}: {e}", file.display())).into())
}

fn keys(file: &Path) -> Result<Vec<VerifierKey>, CliError> {
    let text = read(file)?;
    let lines = text.lines().map(str::trim).enumerate();
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let key = |(at, line): (usize, &str)| {
        line.parse::<VerifierKey>().map_err(|e| {
            ClientError::Usage(format!("{}, line {}: {e}", file.display(), at + 1)).into()
        })
    };
    keys.map(key).collect()
}

/// Prints a ladder for people: what, and who has signed for it.
fn print(ladder: &Ladder) {
    println!("{} revision {}", ladder.record, ladder.revision);
    println!(
        "submitted by {}, taken in at {}",
        ladder.submitter,
        beijing_time(ladder.accepted.timestamp())
    );
    println!("{}", rows(ladder));
}

/// The rungs of a ladder as a table.
#[must_use]
pub fn rows(ladder: &Ladder) -> String {
    let mut rows = table(["node", "statement", "at", "proven"]);
    for rung in &ladder.rungs {
        let (verb, at) = match rung.time {
            None => ("signed", String::new()),
            Some(time) => ("cosigned", beijing_time(time.timestamp())),
        };
        let proven = match rung.trusted {
            true => "yes".to_owned(),
            false => format!("no: it needs {}", rung.key),
        };
        let statement = format!("{verb} entry {} in a tree of {}", ladder.index, rung.size);
        rows.add_row([rung.node.clone(), statement, at, proven]);
    }
    rows.to_string()
}

fn json(ladder: &Ladder) -> serde_json::Value {
    let rung = |rung: &Rung| {
        serde_json::json!({
            "node": rung.node,
            "size": rung.size,
            "time": rung.time.map(|time| time.to_string()),
            "key": rung.key.to_string(),
            "proven": rung.trusted,
        })
    };
    serde_json::json!({
        "record": ladder.record,
        "revision": ladder.revision,
        "submitter": ladder.submitter,
        "accepted": ladder.accepted.to_string(),
        "index": ladder.index,
        "statements": ladder.rungs.iter().map(rung).collect::<Vec<_>>(),
    })
}
