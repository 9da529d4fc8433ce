//! From a register's message type to bytes.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use prost::Message as _;

use super::{
    super::{About, AnyRegister, Context, Link, Linked, Part, Register, Silence, Tie},
    clock::{Due, Kind, Running},
    filter::{Condition, Filter},
    index,
    tally::Tally,
    value::{Field, Seen, Value},
};
use crate::{
    ledger::entry::StoredEntry,
    types::{FieldReason, LedgerTime, Reason, RecordName, Refusal, Violations},
};

/// What every record begins with. Reading it alone costs a fraction of reading the record.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    /// The name.
    #[prost(string, tag = "1")]
    name: String,
}

/// A register as an [`AnyRegister`].
pub struct Erased<R>(pub R);

impl<R: Register> Erased<R> {
    fn is_ours(name: &RecordName) -> bool {
        name.register().as_str() == R::ABOUT.id
    }

    fn seen<'a>(
        &'a self,
        message: &'a R::Message,
        taken: LedgerTime,
        now: Timestamp,
    ) -> Seen<'a, R> {
        Seen {
            register: &self.0,
            message,
            taken,
            now,
        }
    }
}

impl<R: Register> AnyRegister for Erased<R> {
    fn about(&self) -> &'static About {
        &R::ABOUT
    }

    fn name(&self, record: &[u8]) -> Option<RecordName> {
        let named = Named::decode(record).ok()?;
        named.name.parse().ok().filter(Self::is_ours)
    }

    fn validate(&self, record: &[u8], context: &Context<'_>) -> Result<RecordName, Refusal> {
        let message = R::Message::decode(record).map_err(|e| {
            // The decoder's words name fields and wire types, never content.
            Refusal::new(Reason::RequestMalformed).because(&e, &e)
        })?;
        let mut v = Violations::new();
        let name = {
            let mut record = v.scope(R::ABOUT.field);
            let name: Option<RecordName> = record.parse("name", R::name(&message));
            if name.as_ref().is_some_and(|name| !Self::is_ours(name)) {
                let id = R::ABOUT.id;
                let en =
                    format!("is of another register, must be agencies/{{agency}}/{id}/{{item}}");
                let zh = format!("属于其他登记册，应为 agencies/{{单位}}/{id}/{{编号}}");
                record.field("name", FieldReason::BadFormat, en, zh);
            }
            self.0.validate(&message, context, &mut record);
            name
        };
        let name = v.into_complete(name).map_err(Refusal::from)?;
        self.0.permits(&message, context)?;
        Ok(name)
    }

    fn step(&self, before: Option<&[u8]>, after: &[u8]) -> Result<(), Refusal> {
        let decode = |bytes: &[u8]| {
            R::Message::decode(bytes).map_err(|_| Refusal::new(Reason::RequestMalformed))
        };
        let before = before.map(decode).transpose()?;
        self.0.step(before.as_ref(), &decode(after)?)
    }

    fn withdrawal(&self) -> Vec<u8> {
        R::withdrawal().encode_to_vec()
    }

    fn assess(&self, record: &[u8], taken: LedgerTime, now: Timestamp) -> Option<Vec<u8>> {
        self.0.assess(&R::Message::decode(record).ok()?, taken, now)
    }

    fn links(&self, record: &[u8]) -> Vec<Linked> {
        if R::LINKS.is_empty() {
            return Vec::new();
        }
        let Ok(message) = R::Message::decode(record) else {
            return Vec::new();
        };
        let linked = |link: &Link<R::Message>| Linked {
            field: link.field,
            tie: link.tie,
            name: (link.get)(&message).to_owned(),
        };
        let links = R::LINKS.iter().map(linked);
        links.filter(|linked| !linked.name.is_empty()).collect()
    }

    fn naming(&self, name: &RecordName, tie: Tie) -> Vec<Vec<u8>> {
        let such = R::LINKS
            .iter()
            .filter(|link| link.tie == tie && link.register == name.register().as_str());
        let value = Value::Text(name.to_string().into());
        such.filter_map(|link| {
            let number = self.index_of(link.field)?;
            Some(index::exact(R::ABOUT.id, number, &value))
        })
        .collect()
    }

    fn index_keys(&self, name: &RecordName, record: &[u8]) -> Vec<Vec<u8>> {
        // Bytes that a foreign node sent may be anything: what does not decode is not found by fields.
        let Ok(message) = R::Message::decode(record) else {
            return Vec::new();
        };
        let fixed = Timestamp::UNIX_EPOCH;
        let seen = self.seen(&message, LedgerTime::from(fixed), fixed);
        let key = |field: &Field<R>| {
            let value = (field.get)(&seen);
            let absent = value == Value::Absent;
            let key = index::key(R::ABOUT.id, field.index?, &value, name);
            (!absent).then_some(key)
        };
        let keys: BTreeSet<_> = R::fields().iter().filter_map(key).collect();
        keys.into_iter().collect()
    }

    fn event(&self) -> Option<u8> {
        self.index_of(R::EVENT?)
    }

    fn silence(&self, record: &[u8]) -> Option<Silence> {
        R::silence(&R::Message::decode(record).ok()?)
    }

    fn counts(&self) -> bool {
        R::COUNTS
    }

    fn tally(&self, record: &[u8], created: LedgerTime) -> Option<Tally> {
        R::tally(&R::Message::decode(record).ok()?, created)
    }

    fn sums(&self) -> &'static [&'static str] {
        R::SUMS
    }

    fn label(&self, part: Part, number: u8) -> &'static str {
        R::label(part, number.into())
    }

    fn clocks(&self) -> &'static [Kind] {
        R::CLOCKS
    }

    fn running(&self, record: &[u8], taken: LedgerTime) -> Vec<Running> {
        R::Message::decode(record).map_or(Vec::new(), |message| R::running(&message, taken))
    }

    fn spread(&self, kind: u8) -> (SignedDuration, SignedDuration) {
        self.0.spread(kind)
    }

    fn due(&self, kind: u8, record: &[u8], base: Timestamp) -> Option<Due> {
        self.0.due(kind, &R::Message::decode(record).ok()?, base)
    }

    fn filter(&self, text: &str) -> Result<Filter, Refusal> {
        let fields = R::fields()
            .iter()
            .map(|field| (field.name, field.kind, field.index));
        Filter::parse(text, &fields.collect::<Vec<_>>())
    }

    fn matches(&self, filter: &Filter, entry: &StoredEntry, now: Timestamp) -> bool {
        if filter.is_empty() {
            return true;
        }
        let Ok(message) = R::Message::decode(entry.message.record.as_ref()) else {
            return false;
        };
        let seen = self.seen(&message, entry.time, now);
        filter.evaluate(&|condition: &Condition| {
            let field = condition.own_field().and_then(|at| R::fields().get(at));
            match field {
                Some(field) => condition.holds(&(field.get)(&seen)),
                None => condition.holds_common(entry),
            }
        })
    }

    fn index_of(&self, field: &str) -> Option<u8> {
        R::fields()
            .iter()
            .find(|known| known.name == field)
            .and_then(|known| known.index)
    }

    fn indexed(&self) -> Vec<&'static str> {
        let indexed = R::fields().iter().filter(|field| field.index.is_some());
        indexed.map(|field| field.name).collect()
    }
}
