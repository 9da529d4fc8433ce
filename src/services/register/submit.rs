//! Submitting: one record, a list, a withdrawal.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tonic::{Status, Streaming};

use super::{Answers, Call, charge::Proposed};
use crate::{
    ledger::{
        Accepted, Outcome, SubmitError, Submitted, keys,
        rules::{Intent, Proposal},
    },
    proto::r#type::v1::{CompleteList, ListSummary, RowResult},
    registers::Context,
    services::{convert, status::status, wire},
    storage::KeyRange,
    types::{
        Collection, FieldReason, ItemNumber, Reason, RecordName, Refusal, RequestId, Violations,
        required_text,
    },
};

/// Rows that one stream message may carry.
const MAX_ROWS: usize = 1_000;
/// Rows that one list may have.
const MAX_LIST_ROWS: usize = 1_000_000;
/// Messages of a list that may be under way at once: while one is made durable, the next are checked.
const AHEAD: usize = 4;
/// Withdrawals that are proposed together at the end of a complete list.
const WITHDRAW_ROWS: usize = 500;
/// Longest reason of a withdrawal, in characters.
const MAX_REASON: usize = 200;

impl Call {
    pub(super) async fn submit(
        self,
        request: wire::SubmitRequest,
    ) -> Result<wire::SubmitResponse, Refusal> {
        self.caller.writer(&self.id)?;
        let record = request.record.unwrap_or_default();
        let name = self.validated(&record)?;
        let content: [&[u8]; 2] = [&record, request.etag.as_bytes()];
        let proposal = Proposal {
            name,
            request: self.request(&request.request_id, "submit", &content)?,
            intent: Intent::Submit(record),
            submitter: self.caller.spiffe(),
            etag: Some(request.etag).filter(|etag| !etag.is_empty()),
            validate_only: request.validate_only,
        };
        let (outcome, submitted) = self.propose_one(proposal).await?;
        Ok(wire::SubmitResponse {
            outcome: convert::outcome(outcome.outcome).into(),
            receipt: convert::receipt(&outcome, &self.own_origin(), &submitted.checkpoint),
            info: Some(convert::info_of(&outcome, &self.own_origin())),
            position: self.shared.positions.seal(submitted.end),
        })
    }

    pub(super) async fn withdraw(
        self,
        request: wire::WithdrawRequest,
    ) -> Result<wire::WithdrawResponse, Refusal> {
        self.caller.writer(&self.id)?;
        let mut violations = Violations::new();
        required_text(&mut violations, "reason", &request.reason, MAX_REASON);
        violations.into_result(()).map_err(Refusal::from)?;
        let name = self.name(&request.name)?;
        self.caller.owns(name.agency())?;
        let flags = [u8::from(request.cascade)];
        let content: [&[u8]; 4] = [
            request.name.as_bytes(),
            request.reason.as_bytes(),
            request.etag.as_bytes(),
            &flags,
        ];
        let proposal = Proposal {
            name,
            request: self.request(&request.request_id, "withdraw", &content)?,
            intent: Intent::Withdraw {
                reason: request.reason,
                cascade: request.cascade,
            },
            submitter: self.caller.spiffe(),
            etag: Some(request.etag).filter(|etag| !etag.is_empty()),
            validate_only: request.validate_only,
        };
        let (outcome, submitted) = self.propose_one(proposal).await?;
        Ok(wire::WithdrawResponse {
            outcome: convert::outcome(outcome.outcome).into(),
            receipt: convert::receipt(&outcome, &self.own_origin(), &submitted.checkpoint),
            info: Some(convert::info_of(&outcome, &self.own_origin())),
            position: self.shared.positions.seal(submitted.end),
            cascaded: outcome.cascaded.iter().map(ToString::to_string).collect(),
        })
    }

    async fn propose_one(&self, proposal: Proposal) -> Result<(Accepted, Submitted), Refusal> {
        self.row()?;
        let mut submitted = self.propose(vec![proposal]).await?;
        let result = submitted.results.pop();
        let accepted = result.unwrap_or_else(|| Err(Reason::Internal.into()))?;
        self.tells(&accepted);
        Ok((accepted, submitted))
    }

    /// Tells the audit trail what became of a row; a dry run, which has no leaf, made nothing.
    fn tells(&self, accepted: &Accepted) {
        self.account.counts(|rows| match accepted.outcome {
            Outcome::Unchanged => rows.unchanged += 1,
            _ if accepted.leaf_hash.is_none() => {}
            Outcome::Created => rows.created += 1,
            Outcome::Revised => rows.revised += 1,
            Outcome::Withdrawn => rows.withdrawn += 1,
        });
        let cascaded = i64::try_from(accepted.cascaded.len()).unwrap_or(0);
        if accepted.leaf_hash.is_some() && accepted.outcome != Outcome::Unchanged {
            self.account.counts(|rows| rows.withdrawn += cascaded);
            self.account.made(accepted.head.entry.index.0);
        }
    }

    async fn propose(&self, proposals: Vec<Proposal>) -> Result<Submitted, Refusal> {
        let submitting = self.enqueue(proposals).await?;
        submitting
            .await
            .map_err(|_| Refusal::new(Reason::StorageFailed))
    }

    /// Checks a record as far as that goes without the state.
    fn validated(&self, record: &Bytes) -> Result<RecordName, Refusal> {
        let name = self.register()?.name(record);
        if let Some(name) = &name {
            self.account.names(name);
        }
        self.valid(name.as_ref(), record)
    }

    /// As [`Call::validated`], of a record whose name was read before.
    fn valid(&self, name: Option<&RecordName>, record: &Bytes) -> Result<RecordName, Refusal> {
        let agency = self.caller.writer(&self.id)?;
        let context = Context {
            now: self.shared.clock.now(),
            agency: &agency,
        };
        let register = self.register()?;
        // Whose record it is comes first: what is wrong inside another's is not the caller's business.
        if let Some(name) = name {
            self.caller.owns(name.agency())?;
        }
        register.validate(record, &context)
    }

    /// The key under which a retry finds the first answer.
    fn request(
        &self,
        id: &str,
        verb: &str,
        content: &[&[u8]],
    ) -> Result<Option<(RequestId, [u8; 32])>, Refusal> {
        if id.is_empty() {
            return Ok(None);
        }
        let mut violations = Violations::new();
        let id: Option<RequestId> = violations.parse("request_id", id);
        let id = violations.into_complete(id).map_err(Refusal::from)?;
        let mut hash = Sha256::new();
        for part in [self.id.as_str().as_bytes(), verb.as_bytes()]
            .iter()
            .chain(content)
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Ok(Some((id, hash.finalize().into())))
    }

    fn own_origin(&self) -> String {
        self.shared
            .ledger
            .log("")
            .map(|view| view.origin().to_owned())
            .unwrap_or_default()
    }
}

/// A list in the making.
struct List {
    call: Call,
    collection: Option<Collection>,
    validate_only: bool,
    /// Item numbers that the list has named; those of refused rows too.
    named: HashSet<ItemNumber>,
    /// Rows whose name could not be read: such a list can never be declared complete.
    nameless: i64,
    summary: ListSummary,
    /// Messages that are proposed and not answered, oldest first.
    waiting: VecDeque<Waiting>,
    /// No further message is read.
    ended: bool,
    /// Why, where that is an error; told behind the answers.
    failed: Option<Status>,
    done: bool,
}

/// A message whose rows are proposed.
struct Waiting {
    rows: Vec<RowResult>,
    submitting: Proposed,
    complete: Option<CompleteList>,
}

/// Answers a list, one response for each request message.
pub(super) fn list(
    call: Call,
    rows: Streaming<wire::SubmitListRequest>,
) -> Answers<wire::SubmitListResponse> {
    let list = List {
        call,
        collection: None,
        validate_only: false,
        named: HashSet::new(),
        nameless: 0,
        summary: ListSummary::default(),
        waiting: VecDeque::new(),
        ended: false,
        failed: None,
        done: false,
    };
    Box::pin(answers(list, rows))
}

fn answers(
    list: List,
    rows: Streaming<wire::SubmitListRequest>,
) -> impl Stream<Item = Result<wire::SubmitListResponse, Status>> {
    futures::stream::unfold((list, rows), |(mut list, mut rows)| async move {
        let answer = list.step(&mut rows).await?;
        list.done |= answer.is_err();
        Some((answer, (list, rows)))
    })
}

impl List {
    /// The next answer; reads ahead meanwhile.
    async fn step(
        &mut self,
        rows: &mut Streaming<wire::SubmitListRequest>,
    ) -> Option<Result<wire::SubmitListResponse, Status>> {
        while !self.done {
            let full = self.ended || self.waiting.len() >= AHEAD;
            let Some(oldest) = self.waiting.front_mut() else {
                if self.ended {
                    let failed = self.failed.take();
                    return Some(failed.map_or_else(|| Ok(self.end()), Err));
                }
                let request = rows.next().await;
                self.read(request).await;
                continue;
            };
            let submitted = tokio::select! {
                biased;
                submitted = &mut oldest.submitting => submitted,
                request = rows.next(), if !full => {
                    self.read(request).await;
                    continue;
                }
            };
            return Some(self.answer(submitted).await.map_err(status));
        }
        None
    }

    async fn read(&mut self, request: Option<Result<wire::SubmitListRequest, Status>>) {
        let taken = match request {
            Some(Ok(request)) => self.take(request).await.map_err(status),
            Some(Err(error)) => Err(error),
            None => return self.ended = true,
        };
        match taken {
            Ok(waiting) => {
                self.ended = waiting.complete.is_some();
                self.waiting.push_back(waiting);
            }
            Err(error) => (self.ended, self.failed) = (true, Some(error)),
        }
    }

    async fn answer(
        &mut self,
        submitted: Result<Submitted, SubmitError>,
    ) -> Result<wire::SubmitListResponse, Refusal> {
        let submitted = submitted.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        let Some(waiting) = self.waiting.pop_front() else {
            return Err(Reason::Internal.into());
        };
        let mut response = self.settled(waiting.rows, submitted)?;
        if let Some(complete) = waiting.complete {
            self.complete(complete.row_count, &complete.reason, &mut response)
                .await?;
            response.summary = Some(self.finish());
        }
        Ok(response)
    }

    async fn take(&mut self, request: wire::SubmitListRequest) -> Result<Waiting, Refusal> {
        let first = self.collection.is_none();
        if first {
            self.begin(&request)?;
        } else if !request.parent.is_empty() || request.validate_only {
            return Err(violation("parent", FieldReason::NotAllowed, FIRST_ONLY));
        }
        let so_far = usize::try_from(self.summary.rows).unwrap_or(usize::MAX);
        if request.records.len() > MAX_ROWS || so_far + request.records.len() > MAX_LIST_ROWS {
            let limits = format!("at most {MAX_ROWS} rows a message, {MAX_LIST_ROWS} a list");
            let zh = format!("每条消息至多 {MAX_ROWS} 行，每份清单至多 {MAX_LIST_ROWS} 行");
            return Err(Refusal::new(Reason::MessageTooLarge).because(limits, zh));
        }
        self.call.rows(request.records.len()).await?;
        let (rows, proposals) = self.rows(request.records)?;
        Ok(Waiting {
            rows,
            submitting: self.call.enqueue(proposals).await?,
            complete: request.complete,
        })
    }

    fn begin(&mut self, request: &wire::SubmitListRequest) -> Result<(), Refusal> {
        let mut violations = Violations::new();
        let parent: Option<Collection> = violations.parse("parent", &request.parent);
        let parent = violations.into_complete(parent).map_err(Refusal::from)?;
        let Some(agency) = parent
            .agency()
            .filter(|_| *parent.register() == self.call.id)
        else {
            return Err(violation("parent", FieldReason::BadFormat, OWN_COLLECTION));
        };
        self.call.caller.writer(&self.call.id)?;
        self.call.caller.owns(agency)?;
        self.call.account.names(&parent);
        self.validate_only = request.validate_only;
        self.collection = Some(parent);
        Ok(())
    }

    /// Checks rows: a result for each, and the proposals of those that are valid.
    fn rows(&mut self, records: Vec<Bytes>) -> Result<(Vec<RowResult>, Vec<Proposal>), Refusal> {
        let first = self.summary.rows + 1;
        let mut results = Vec::with_capacity(records.len());
        let mut proposals = Vec::with_capacity(records.len());
        for (row, record) in (first..).zip(records) {
            self.summary.rows = row;
            let name = self.call.register()?.name(&record);
            match &name {
                Some(name) => drop(self.named.insert(name.item().clone())),
                None => self.nameless += 1,
            }
            match self.call.valid(name.as_ref(), &record) {
                Ok(name) => {
                    results.push(RowResult {
                        row,
                        name: name.to_string(),
                        ..RowResult::default()
                    });
                    proposals.push(self.proposal(name, Intent::Submit(record)));
                }
                Err(refusal) => {
                    let name = name.map(|name| name.to_string()).unwrap_or_default();
                    results.push(convert::refused(row, name, &refusal));
                }
            }
        }
        Ok((results, proposals))
    }

    /// Fills in what became of the rows.
    fn settled(
        &mut self,
        mut rows: Vec<RowResult>,
        submitted: Submitted,
    ) -> Result<wire::SubmitListResponse, Refusal> {
        let origin = self.call.own_origin();
        let mut outcomes = submitted.results.into_iter();
        for row in &mut rows {
            if row.reason != 0 {
                self.refuses();
                continue;
            }
            let (number, name) = (row.row, std::mem::take(&mut row.name));
            *row = match outcomes.next() {
                Some(Ok(accepted)) => {
                    self.count(accepted.outcome);
                    self.call.tells(&accepted);
                    convert::taken(number, name, &accepted, &origin)
                }
                Some(Err(refusal)) => {
                    self.refuses();
                    convert::refused(number, name, &refusal)
                }
                None => return Err(Reason::Internal.into()),
            };
        }
        let checkpoint = if self.validate_only {
            String::new()
        } else {
            submitted.checkpoint
        };
        let position = self.call.shared.positions.seal(submitted.end);
        Ok(wire::SubmitListResponse {
            rows,
            checkpoint,
            summary: None,
            position,
        })
    }

    /// Withdraws what the complete list does not name.
    async fn complete(
        &mut self,
        row_count: i64,
        reason: &str,
        response: &mut wire::SubmitListResponse,
    ) -> Result<(), Refusal> {
        if row_count < 1 || row_count != self.summary.rows || self.nameless > 0 {
            let (rows, nameless) = (self.summary.rows, self.nameless);
            let en = format!("{rows} rows came, {nameless} without a readable name");
            let zh = format!("收到 {rows} 行，其中 {nameless} 行名称无法读取");
            return Err(Refusal::new(Reason::ListIncomplete).because(en, zh));
        }
        let mut violations = Violations::new();
        crate::types::optional_text(&mut violations, "complete.reason", reason, MAX_REASON);
        violations.into_result(()).map_err(Refusal::from)?;
        let reason = if reason.is_empty() {
            "no longer listed"
        } else {
            reason
        };
        let missing = self.unnamed()?;
        for names in missing.chunks(WITHDRAW_ROWS) {
            let intent = || Intent::Withdraw {
                reason: reason.to_owned(),
                cascade: false,
            };
            let proposals = names
                .iter()
                .map(|name| self.proposal(name.clone(), intent()));
            let rows = names.iter().map(|name| RowResult {
                name: name.to_string(),
                ..RowResult::default()
            });
            self.call.rows(names.len()).await?;
            let submitted = self.call.propose(proposals.collect()).await?;
            let more = self.settled(rows.collect(), submitted)?;
            response.rows.extend(more.rows);
            response.checkpoint = more.checkpoint;
            response.position = more.position;
        }
        Ok(())
    }

    /// Live records of the collection that the list did not name.
    fn unnamed(&self) -> Result<Vec<RecordName>, Refusal> {
        let Some(collection) = &self.collection else {
            return Ok(Vec::new());
        };
        let prefix = keys::heads(collection.register(), collection.agency());
        let mut missing = Vec::new();
        for pair in self
            .call
            .shared
            .ledger
            .state()
            .scan(KeyRange::prefix(&prefix), false)
        {
            let (key, value) = pair.map_err(super::super::status::storage)?;
            let live = crate::ledger::head::Head::from_bytes(&value).is_some_and(|h| !h.withdrawn);
            let name = keys::name_of_head(&key);
            missing.extend(name.filter(|name| live && !self.named.contains(name.item())));
        }
        Ok(missing)
    }

    fn proposal(&self, name: RecordName, intent: Intent) -> Proposal {
        Proposal {
            name,
            intent,
            submitter: self.call.caller.spiffe(),
            request: None,
            etag: None,
            validate_only: self.validate_only,
        }
    }

    fn refuses(&mut self) {
        self.summary.refused += 1;
        self.call.account.counts(|rows| rows.refused += 1);
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Created => self.summary.created += 1,
            Outcome::Revised => self.summary.revised += 1,
            Outcome::Unchanged => self.summary.unchanged += 1,
            Outcome::Withdrawn => self.summary.withdrawn += 1,
        }
    }

    fn end(&mut self) -> wire::SubmitListResponse {
        wire::SubmitListResponse {
            summary: Some(self.finish()),
            ..Default::default()
        }
    }

    fn finish(&mut self) -> ListSummary {
        self.done = true;
        ListSummary {
            validate_only: self.validate_only,
            ..self.summary
        }
    }
}

const FIRST_ONLY: (&str, &str) = (
    "only the first message of a list has parent and validate_only",
    "只有清单的第一条消息带有 parent 和 validate_only",
);
const OWN_COLLECTION: (&str, &str) = (
    "it must be agencies/{agency}/{register}, with your own agency and this service's register",
    "应为 agencies/{单位}/{登记册}，单位为本单位，登记册为本服务的登记册",
);

fn violation(field: &str, reason: FieldReason, (en, zh): (&str, &str)) -> Refusal {
    let mut violations = Violations::new();
    violations.field(field, reason, en, zh);
    Refusal::from(violations)
}
