//! What is due, what is overdue, and whose it is.

mod watch;

use std::{ops::ControlFlow, pin::Pin, sync::Arc};

use futures::Stream;
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use tonic::{Request, Response, Status};

use self::watch::Watch;
use super::{
    asker::Asker,
    register::Shared,
    status::{status, storage},
};
use crate::{
    ledger::entry::timestamp,
    proto::due::v1::{self as pb, due_service_server::DueService},
    registers::{Each, FoundClock, Search, walk},
    types::{
        AgencyId, DivisionCode, FieldReason, LedgerTime, Reason, Refusal, RegisterId, Violations,
    },
};

/// Items of a page, by default and at most.
const PAGE: (usize, usize) = (50, 1_000);
/// Clocks that a page looks at.
const MAX_EXAMINED: usize = 20_000;
/// How far one may look ahead, and how far one does by default.
const AHEAD: (SignedDuration, SignedDuration) = (
    SignedDuration::from_hours(366 * 24),
    SignedDuration::from_hours(1),
);

/// The service.
#[derive(Clone)]
pub struct Clocks(pub Arc<Shared>);

/// Which clocks, parsed.
#[derive(Clone)]
struct Query {
    register: Option<RegisterId>,
    division: Option<DivisionCode>,
    agency: Option<AgencyId>,
    within: SignedDuration,
    skip_overdue: bool,
}

impl Query {
    fn parse(shared: &Shared, request: &pb::WatchDueRequest) -> Result<Self, Refusal> {
        let mut v = Violations::new();
        let register: Option<RegisterId> = v.parse_optional("register", &request.register);
        let runs = |id: &RegisterId| {
            let register = shared.registers.get(id);
            register.is_some_and(|register| !register.clocks().is_empty())
        };
        if register.as_ref().is_some_and(|id| !runs(id)) {
            let (en, zh) = ("has no clocks", "该登记册没有时限");
            v.field("register", FieldReason::UnknownReference, en, zh);
        }
        let division: Option<DivisionCode> = v.parse_optional("division", &request.division);
        let agency: Option<AgencyId> = v.parse_optional("agency", &request.agency);
        let asked = request.within.as_ref();
        let within = asked.map_or(Some(AHEAD.1), |within| {
            let length = std::time::Duration::try_from(*within).ok()?;
            let length = SignedDuration::try_from(length).ok()?;
            Some(length).filter(|length| *length <= AHEAD.0)
        });
        if within.is_none() {
            let (en, zh) = ("must be 0 to 366 days", "应为 0 至 366 天");
            v.field("within", FieldReason::OutOfRange, en, zh);
        }
        let query = within.map(|within| Self {
            register,
            division,
            agency,
            within,
            skip_overdue: request.skip_overdue,
        });
        v.into_complete(query).map_err(Refusal::from)
    }

    /// Walks what is due after the one time and soon after the other, for a caller.
    fn walk(
        &self,
        shared: &Shared,
        asker: &Asker,
        (after, now): (Option<Timestamp>, Timestamp),
        behind: Option<&[u8]>,
        each: Each<'_>,
    ) -> Result<(), Refusal> {
        let visible = |register: &str, agency: &AgencyId| {
            let wanted = self.agency.as_ref().is_none_or(|wanted| wanted == agency);
            let register = register.parse::<RegisterId>();
            wanted && register.is_ok_and(|register| asker.sees(&register, agency))
        };
        let search = Search {
            register: self.register.as_ref().map(RegisterId::as_str),
            after,
            until: now.saturating_add(self.within).unwrap_or(Timestamp::MAX),
            behind,
            visible: &visible,
        };
        let mut inside = |key: &[u8], found: Option<FoundClock>| {
            let asked = self.division.as_ref();
            let inside = |found: &FoundClock| {
                asked.is_none_or(|asked| found.due.division.starts_with(asked.prefix()))
            };
            each(key, found.filter(inside))
        };
        walk(&shared.ledger, &shared.registers, &search, &mut inside).map_err(storage)
    }
}

fn item(found: &FoundClock, now: Timestamp) -> pb::DueItem {
    let stamp = |at: Timestamp| Some(timestamp(LedgerTime::from(at)));
    pb::DueItem {
        name: found.name.to_string(),
        register: found.name.register().to_string(),
        clock: found.clock.to_owned(),
        title: found.due.title.clone(),
        agency: found.name.agency().to_string(),
        division: found.due.division.clone(),
        unit: found.due.unit.clone(),
        start_time: stamp(found.base),
        due_time: stamp(found.due.at),
        overdue: now > found.due.at,
    }
}

/// A record of another agency is shown: that is recorded.
fn shows(asker: &Asker, found: &FoundClock, lasts: bool) -> Result<(), Refusal> {
    if asker.crosses(found.name.agency()) {
        let recorded = asker.account.crosses(lasts);
        return recorded.map_err(|_| Reason::StorageFailed.into());
    }
    Ok(())
}

impl Clocks {
    fn list(
        &self,
        asker: &Asker,
        request: &pb::ListDueRequest,
    ) -> Result<pb::ListDueResponse, Refusal> {
        let asked = pb::WatchDueRequest {
            register: request.register.clone(),
            division: request.division.clone(),
            agency: request.agency.clone(),
            within: request.within,
            skip_overdue: request.skip_overdue,
        };
        let query = Query::parse(&self.0, &asked)?;
        let size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE.0,
            Ok(size) => size.min(PAGE.1),
            Err(_) => {
                let mut v = Violations::new();
                let (en, zh) = ("it must be 0 or more", "不得为负数");
                v.field("page_size", FieldReason::OutOfRange, en, zh);
                return Err(v.into());
            }
        };
        let (spiffe, content) = (asker.spiffe(), asked.encode_to_vec());
        let binding: [&[u8]; 3] = [b"due", spiffe.as_bytes(), &content];
        let (now, behind) = self.cursor(&binding, &request.page_token)?;
        let (mut items, mut next, mut examined) = (Vec::new(), None, 0);
        let mut shown = Ok(());
        let times = (query.skip_overdue.then_some(now), now);
        query.walk(
            &self.0,
            asker,
            times,
            behind.as_deref(),
            &mut |key, found| {
                examined += 1;
                if let Some(found) = found {
                    shown = shows(asker, &found, false);
                    items.push(item(&found, now));
                }
                if shown.is_err() || items.len() >= size || examined >= MAX_EXAMINED {
                    next = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        shown?;
        let seal = |key: Vec<u8>| {
            let cursor = [&now.as_microsecond().to_be_bytes()[..], &key].concat();
            self.0.tokens.seal(&binding, &cursor)
        };
        Ok(pb::ListDueResponse {
            items,
            next_page_token: next.map(seal).unwrap_or_default(),
            now: Some(timestamp(LedgerTime::from(now))),
        })
    }

    /// The time of the first page, and the key behind which to go on.
    fn cursor(
        &self,
        binding: &[&[u8]],
        token: &str,
    ) -> Result<(Timestamp, Option<Vec<u8>>), Refusal> {
        if token.is_empty() {
            return Ok((self.0.clock.now(), None));
        }
        let opened = self.0.tokens.open(binding, token);
        let parts = opened.and_then(|bytes| {
            let (now, key) = bytes.split_first_chunk::<8>()?;
            let now = Timestamp::from_microsecond(i64::from_be_bytes(*now)).ok()?;
            Some((now, Some(key.to_vec())))
        });
        parts.ok_or_else(|| Reason::PageTokenInvalid.into())
    }
}

#[tonic::async_trait]
impl DueService for Clocks {
    type WatchDueStream =
        Pin<Box<dyn Stream<Item = Result<pb::WatchDueResponse, Status>> + Send + 'static>>;

    async fn list_due(
        &self,
        request: Request<pb::ListDueRequest>,
    ) -> Result<Response<pb::ListDueResponse>, Status> {
        let asker = Asker::of(&self.0.access, &request).map_err(status)?;
        let (own, request) = (self.clone(), request.into_inner());
        // A page may look at thousands of clocks: not on a thread that others wait for.
        let answer = tokio::task::spawn_blocking(move || own.list(&asker, &request));
        let answer = answer.await.map_err(|_| status(Reason::Internal.into()))?;
        answer.map(Response::new).map_err(status)
    }

    async fn watch_due(
        &self,
        request: Request<pb::WatchDueRequest>,
    ) -> Result<Response<Self::WatchDueStream>, Status> {
        let asker = Asker::of(&self.0.access, &request).map_err(status)?;
        let query = Query::parse(&self.0, request.get_ref()).map_err(status)?;
        Ok(Response::new(Watch::stream(self.0.clone(), asker, query)))
    }
}
