//! Editions of a rule: dated, in order, without gaps.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;
use toml::Spanned;

use super::RuleError;
use crate::types::beijing_date;

/// One edition of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edition<T> {
    /// The first day on which it holds.
    pub valid_from: Date,
    /// The first day on which it holds no more; the next edition's `valid_from`.
    pub valid_to: Option<Date>,
    /// The legal source, as shown beside every result.
    pub source: String,
    /// The rule.
    pub rules: T,
}

impl<T> Edition<T> {
    /// Source and first day, such as `国务院令第493号第三条, 2007-06-01`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}, {}", self.source, self.valid_from)
    }
}

/// The editions of one rule, in order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Editions<T> {
    first: Edition<T>,
    later: Vec<Edition<T>>,
}

impl<T> Editions<T> {
    /// The least and the greatest of something over all editions.
    pub fn spread<V: Ord + Copy>(&self, least: fn(&T) -> V, greatest: fn(&T) -> V) -> (V, V) {
        let first = &self.first.rules;
        let later = self.later.iter().map(|edition| &edition.rules);
        later.fold((least(first), greatest(first)), |(low, high), rules| {
            (low.min(least(rules)), high.max(greatest(rules)))
        })
    }

    pub fn at(&self, occurred: Timestamp) -> &Edition<T> {
        let day = beijing_date(occurred);
        self.later
            .iter()
            .rev()
            .find(|e| e.valid_from <= day)
            .unwrap_or(&self.first)
    }
}

/// What is wrong with a rule: the key, and why.
pub(super) type Wrong = (&'static str, String);

/// Checks the editions of one section and joins them.
pub(super) fn editions<T>(
    text: &str,
    section: &'static str,
    found: Vec<Spanned<Edition<T>>>,
    check: fn(&T) -> Result<(), Wrong>,
) -> Result<Editions<T>, RuleError> {
    let mut editions: Vec<Edition<T>> = Vec::with_capacity(found.len());
    let mut before = 1;
    for edition in found {
        let line = line_of(text, edition.span().start);
        let wrong = |line, (key, cause): Wrong| {
            let key = format!("{section}.{key}");
            RuleError::Rule { line, key, cause }
        };
        let edition = edition.into_inner();
        check(&edition.rules).map_err(|w| wrong(line, w))?;
        if edition.source.trim().is_empty() {
            return Err(wrong(
                line,
                ("source", "must name the legal source".to_owned()),
            ));
        }
        if let Some(last) = editions.last() {
            let (end, start) = (last.valid_to, edition.valid_from);
            if start <= last.valid_from {
                let cause = format!("must be after {} of the edition above", last.valid_from);
                return Err(wrong(line, ("valid_from", cause)));
            }
            if end.is_some_and(|end| end != start) {
                let cause = format!("must be {start}, where the next edition begins, or left out");
                return Err(wrong(before, ("valid_to", cause)));
            }
        }
        before = line;
        editions.push(edition);
    }
    if editions.last().is_some_and(|last| last.valid_to.is_some()) {
        let key = format!("{section}.valid_to");
        let cause = "must be left out of the last edition, or be followed by another".to_owned();
        return Err(RuleError::Rule {
            line: before,
            key,
            cause,
        });
    }
    let mut editions = editions.into_iter();
    let first = editions.next().ok_or(RuleError::NoEdition { section })?;
    Ok(Editions {
        first,
        later: editions.collect(),
    })
}

/// The line, from 1, that holds a byte.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|b| *b == b'\n').count() + 1
}
