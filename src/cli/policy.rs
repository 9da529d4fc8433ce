//! `hefu policy`: why somebody may, or may not.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, Exit, client::table::table};
use crate::{
    config::{Config, ReferenceConfig},
    node::Reference,
    types::{Case, NodeId, Question, TrustDomain},
};

/// Ask an access policy, or test it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu policy check --config county.toml --as auditor/one --may audit\n  \
    hefu policy test --config county.toml cases.toml"
)]
pub struct Policy {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Explain one decision
    #[command(after_help = "Examples:\n  \
        hefu policy check --config county.toml --as agency/qidong-emergency --may read --register risks --of qidong-housing\n  \
        hefu policy check --config city.toml --as node/qidong --may replicate --log haimen\n\n\
        Exit codes: 0 allowed, 5 denied, 1 the policy is wrong")]
    Check {
        #[command(flatten)]
        source: Source,
        /// Who: agency/ID, node/ID, admin/ID, auditor/ID, or a whole SPIFFE ID
        #[arg(long = "as", value_name = "ID")]
        who: String,
        /// What: submit, read, prove, audit, administer or replicate
        #[arg(long, value_name = "ACTION")]
        may: String,
        /// On which register
        #[arg(long)]
        register: Option<String>,
        /// Whose records; without it the caller's own
        #[arg(long, value_name = "AGENCY")]
        of: Option<String>,
        /// For which division, when submitting
        #[arg(long, value_name = "CODE")]
        division: Option<String>,
        /// Which node's log, when replicating
        #[arg(long, value_name = "NODE")]
        log: Option<String>,
    },
    /// Run cases from a file: each says who may or may not do what
    #[command(after_help = "Example:\n  \
        hefu policy test --config county.toml cases.toml\n\n\
        A case:\n  \
        [[case]]\n  \
        as = \"agency/qidong-emergency\"\n  \
        may = \"read\"\n  \
        register = \"incidents\"\n  \
        of = \"rudong-emergency\"\n  \
        expect = \"deny\"\n\n\
        Exit codes: 0 all as expected, 5 some not, 1 a file is wrong")]
    Test {
        #[command(flatten)]
        source: Source,
        /// TOML of cases
        cases: PathBuf,
    },
}

/// Where policy, agencies and node come from.
#[derive(Debug, Args)]
struct Source {
    /// The node's configuration: its policy, agencies and node are asked
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Another policy, such as one that is not yet in force
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Another agency table
    #[arg(long, value_name = "FILE")]
    agencies: Option<PathBuf>,
    /// The node that is asked; needed without a configuration
    #[arg(long)]
    node: Option<String>,
}

/// What a question is put to.
struct Asked {
    reference: Reference,
    node: NodeId,
    domain: TrustDomain,
}

impl Source {
    fn load(&self) -> Result<Asked, CliError> {
        let config = self.config.as_deref().map(|path| Config::load(path, &[]));
        let config = config.transpose().map_err(other)?;
        let given = config.as_ref().map(|config| config.reference.clone());
        let mut paths: ReferenceConfig = given.unwrap_or_default();
        paths.policy = self.policy.clone().or(paths.policy);
        paths.agencies = self.agencies.clone().or(paths.agencies);
        let (node, domain) = match (&self.node, &config) {
            (Some(node), _) => (node.parse().map_err(other)?, None),
            (None, Some(config)) => {
                let domain = config.trust_domain().map_err(other)?;
                (config.node_id().map_err(other)?, Some(domain))
            }
            (None, None) => {
                return Err(other("name the node: --config FILE, or --node ID"));
            }
        };
        let domain = match domain {
            Some(domain) => domain,
            // Decisions do not depend on it: a certificate of another one never gets this far.
            None => "example.org".parse().map_err(other)?,
        };
        Ok(Asked {
            reference: Reference::of(&paths)?,
            node,
            domain,
        })
    }
}

impl Policy {
    /// Runs it.
    ///
    /// # Errors
    /// Files that are wrong.
    pub(super) fn run(&self) -> Result<Exit, CliError> {
        match &self.command {
            Command::Check {
                source,
                who,
                may,
                register,
                of,
                division,
                log,
            } => {
                let asked = source.load()?;
                let parts = [register, of, division, log].map(Option::as_deref);
                let question = Question::parse(&asked.domain, who, may, parts).map_err(other)?;
                let verdict = asked.answer(&question);
                let word = if verdict.allowed { "allowed" } else { "denied" };
                println!("{word}: {}", verdict.why);
                Ok(if verdict.allowed {
                    Exit::Done
                } else {
                    Exit::Refused
                })
            }
            Command::Test { source, cases } => source.load()?.test(cases),
        }
    }
}

impl Asked {
    fn answer(&self, question: &Question) -> crate::types::Verdict {
        let (policy, agencies) = (&self.reference.policy, &self.reference.agencies);
        policy.answer(question, agencies, &self.node)
    }

    fn test(&self, path: &Path) -> Result<Exit, CliError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| other(format!("{}: {error}", path.display())))?;
        let cases = Case::from_toml(&text, &self.domain)
            .map_err(|error| other(format!("{}: {error}", path.display())))?;
        let word = |allowed| if allowed { "allow" } else { "deny" };
        let mut wrong = table(["case", "who", "may", "expected", "decided", "why"]);
        let mut failed = 0;
        for case in &cases {
            let verdict = self.answer(&case.question);
            if verdict.allowed != case.allowed {
                failed += 1;
                wrong.add_row([
                    case.number.to_string(),
                    case.question.identity.role.to_string(),
                    case.question.action.to_string(),
                    word(case.allowed).to_owned(),
                    word(verdict.allowed).to_owned(),
                    verdict.why,
                ]);
            }
        }
        if failed > 0 {
            println!("{wrong}");
        }
        println!("{} cases, {failed} not as expected", cases.len());
        Ok(if failed == 0 {
            Exit::Done
        } else {
            Exit::Refused
        })
    }
}

fn other(error: impl std::fmt::Display) -> CliError {
    CliError::Other(error.to_string())
}
