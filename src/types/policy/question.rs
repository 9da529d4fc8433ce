//! Questions to a policy, answered with reasons: `hefu policy check` and `hefu policy test`.

use serde::Deserialize;

use super::{Action, Policy, PolicyError, Subject};
use crate::types::{
    AgencyId, AgencyTable, DivisionCode, Identity, NodeId, RegisterId, TrustDomain,
};

/// May somebody do something?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who.
    pub identity: Identity,
    /// What.
    pub action: Action,
    /// On which register; `submit` and `read` need it.
    pub register: Option<RegisterId>,
    /// Whose records; `None` stands for the caller's own.
    pub of: Option<AgencyId>,
    /// For which division; only `submit` looks at it.
    pub division: Option<DivisionCode>,
    /// Which node's log; only `replicate` looks at it. `None` stands for the caller's own.
    pub log: Option<NodeId>,
}

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// Why, in a sentence for the operator.
    pub why: String,
}

/// A question whose answer is known: a line of `hefu policy test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its place in the file, from 1.
    pub number: usize,
    /// The question.
    pub question: Question,
    /// Whether it must be allowed.
    pub allowed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    case: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    r#as: String,
    may: String,
    register: Option<String>,
    of: Option<String>,
    division: Option<String>,
    log: Option<String>,
    expect: String,
}

impl Question {
    /// Parses the parts of a question.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(
        domain: &TrustDomain,
        who: &str,
        action: &str,
        [register, of, division, log]: [Option<&str>; 4],
    ) -> Result<Self, String> {
        let identity = if who.starts_with("spiffe://") {
            who.parse().map_err(|e| format!("as: {e}"))?
        } else {
            let role = who.parse().map_err(|_| {
                format!("as: {who:?} is no kind/id such as agency/qidong-emergency")
            })?;
            Identity {
                domain: domain.clone(),
                role,
            }
        };
        let action = super::file::action(action)?;
        let question = Self {
            identity,
            action,
            register: part("register", register)?,
            of: part("of", of)?,
            division: part("division", division)?,
            log: part("log", log)?,
        };
        if matches!(action, Action::Submit | Action::Read) && question.register.is_none() {
            return Err(format!("register: {action} needs one, such as risks"));
        }
        Ok(question)
    }
}

fn part<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&str>,
) -> Result<Option<T>, String> {
    text.map(|text| text.parse().map_err(|e| format!("{name}: {e}")))
        .transpose()
}

impl Case {
    /// Parses a file of cases.
    ///
    /// # Errors
    /// [`PolicyError`] names the case.
    pub fn from_toml(text: &str, domain: &TrustDomain) -> Result<Vec<Self>, PolicyError> {
        let cases: Cases = toml::from_str(text).map_err(|e| PolicyError::Parse(e.to_string()))?;
        let case = |(at, raw): (usize, &RawCase)| {
            let number = at + 1;
            let parts = [&raw.register, &raw.of, &raw.division, &raw.log];
            let parts = parts.map(Option::as_deref);
            let question = Question::parse(domain, &raw.r#as, &raw.may, parts);
            let allowed = match raw.expect.as_str() {
                "allow" => Ok(true),
                "deny" => Ok(false),
                other => Err(format!("expect: {other:?} is neither allow nor deny")),
            };
            match (question, allowed) {
                (Ok(question), Ok(allowed)) => Ok(Self {
                    number,
                    question,
                    allowed,
                }),
                (Err(cause), _) | (_, Err(cause)) => Err(PolicyError::Case { number, cause }),
            }
        };
        cases.case.iter().enumerate().map(case).collect()
    }
}

impl Policy {
    /// Answers a question at the node `here`, as the node itself would decide.
    #[must_use]
    pub fn answer(&self, question: &Question, agencies: &AgencyTable, here: &NodeId) -> Verdict {
        let identity = &question.identity;
        let agency = identity.agency().and_then(|id| agencies.get(id));
        let subject = Subject {
            identity,
            agency,
            here,
        };
        let action = question.action;
        let on_records = matches!(action, Action::Submit | Action::Read);
        let register = question.register.as_ref().filter(|_| on_records);
        if !self.permits(&subject, action, register) {
            let on = register.map(|r| format!(" {r}")).unwrap_or_default();
            return no(format!("no grant lets {} {action}{on}", identity.role));
        }
        let numbers: Vec<_> = self
            .granting(&subject, action, register)
            .map(|grant| grant.number.to_string())
            .collect();
        let granted = format!("grant {}", numbers.join(", "));
        match (action, register) {
            (Action::Submit, Some(register)) => {
                self.answer_submit(&subject, register, question, &granted)
            }
            (Action::Read, Some(register)) => {
                let Some(owner) = question.of.as_ref().or(identity.agency()) else {
                    return yes(format!("{granted}, within its divisions"));
                };
                let place = agencies.get(owner).map_or_else(
                    || format!("{owner} is not in the agency table"),
                    |owner| format!("{} lies in {}", owner.id, codes(&owner.divisions)),
                );
                if self.reads(&subject, Some(register), owner, agencies) {
                    yes(format!("{granted}; {place}"))
                } else {
                    no(format!("{granted} does not cover it: {place}"))
                }
            }
            (Action::Replicate, _) => {
                let Some(log) = question.log.as_ref().or(identity.node()) else {
                    return no("only a node replicates".to_owned());
                };
                if self.brings(&subject, log) {
                    yes(format!("{granted} lets it bring the log of {log}"))
                } else {
                    no(format!("{granted} does not let it bring the log of {log}"))
                }
            }
            _ => yes(granted),
        }
    }

    fn answer_submit(
        &self,
        subject: &Subject<'_>,
        register: &RegisterId,
        question: &Question,
        granted: &str,
    ) -> Verdict {
        let (here, role) = (subject.here, &subject.identity.role);
        if question.of.is_some() && question.of.as_ref() != subject.identity.agency() {
            return no(format!("{role} submits under its own name only"));
        }
        let Some(agency) = subject.agency else {
            return no(format!("{role} is not in the agency table"));
        };
        if !agency.is_at(here) {
            return no(format!(
                "the agency table does not place {role} at node {here}"
            ));
        }
        let divisions = self.writes(subject, register);
        let covered = match &question.division {
            Some(division) => divisions.iter().any(|own| own.contains(division)),
            None => !divisions.is_empty(),
        };
        let text = format!("{granted}; it submits for {}", codes(&divisions));
        if covered { yes(text) } else { no(text) }
    }
}

fn yes(why: String) -> Verdict {
    Verdict { allowed: true, why }
}

fn no(why: String) -> Verdict {
    Verdict {
        allowed: false,
        why,
    }
}

fn codes(divisions: &[DivisionCode]) -> String {
    if divisions.is_empty() {
        return "no division".to_owned();
    }
    let codes: Vec<_> = divisions.iter().map(DivisionCode::as_str).collect();
    codes.join(", ")
}
