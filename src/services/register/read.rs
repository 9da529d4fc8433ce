//! Reading: one record, lists, history.

use super::Call;
use crate::{
    ledger::entry::StoredEntry,
    registers::{HistoryQuery, ListQuery, history, list},
    services::{status::storage, wire},
    types::{Collection, Reason, Refusal, Violations},
};

impl Call {
    pub(super) async fn get(
        self,
        request: wire::GetRequest,
    ) -> Result<wire::RevisionResponse, Refusal> {
        let position = self.shared.ledger.published().end;
        let name = self.name(&request.name)?;
        self.caller.reads(&name)?;
        self.looked_at(1).await?;
        let ledger = &self.shared.ledger;
        let head = ledger.head(&name).map_err(storage)?;
        let head = head.ok_or_else(|| Refusal::new(Reason::RecordNotFound))?;
        let entry = ledger.entry(head.entry).map_err(storage)?;
        self.shows(name.agency(), false)?;
        Ok(wire::RevisionResponse {
            revision: Some(self.revision(&entry)?),
            position: self.shared.positions.seal(position),
        })
    }

    pub(super) async fn list(
        self,
        request: wire::ListRequest,
    ) -> Result<wire::ListResponse, Refusal> {
        let position = self.shared.ledger.published().end;
        let mut violations = Violations::new();
        let parent: Option<Collection> = violations.parse("parent", &request.parent);
        let collection = violations.into_complete(parent).map_err(Refusal::from)?;
        if *collection.register() != self.id {
            return Err(Refusal::new(Reason::RecordNotFound));
        }
        self.account.names(&collection);
        let spiffe = self.caller.spiffe();
        let shown = [u8::from(request.show_withdrawn)];
        let binding: [&[u8]; 6] = [
            b"list",
            spiffe.as_bytes(),
            request.parent.as_bytes(),
            request.filter.as_bytes(),
            request.order_by.as_bytes(),
            &shown,
        ];
        let cursor = self.cursor(&binding, &request.page_token)?;
        self.filter(&request.filter)?;
        let query = ListQuery {
            collection,
            filter: request.filter.clone(),
            order_by: request.order_by.clone(),
            page_size: self.page_size(request.page_size),
            show_withdrawn: request.show_withdrawn,
            cursor,
            now: self.shared.clock.now(),
        };
        // One list of a caller after the other, each paid for before the next.
        let scan = self.meter.scan().await;
        let call = std::sync::Arc::new(self);
        let lister = call.clone();
        // A page may examine thousands of records: not on a thread that others wait for.
        let page = tokio::task::spawn_blocking(move || {
            let visible = |agency: &_| lister.caller.sees(&lister.id, agency);
            list(&lister.shared.ledger, lister.register()?, &query, &visible)
        });
        let page = page.await.map_err(|_| Refusal::new(Reason::Internal))??;
        call.looked_at(page.examined).await?;
        drop(scan);
        for entry in &page.rows {
            call.shows(entry.name.agency(), false)?;
        }
        let rows = page.rows.iter().map(|entry| call.revision(entry));
        let next = page
            .next
            .map(|cursor| call.shared.tokens.seal(&binding, &cursor));
        Ok(wire::ListResponse {
            revisions: rows.collect::<Result<_, _>>()?,
            next_page_token: next.unwrap_or_default(),
            position: call.shared.positions.seal(position),
        })
    }

    pub(super) async fn history(
        self,
        request: wire::HistoryRequest,
    ) -> Result<wire::ListResponse, Refusal> {
        let position = self.shared.ledger.published().end;
        let name = self.name(&request.name)?;
        self.caller.reads(&name)?;
        let spiffe = self.caller.spiffe();
        let binding: [&[u8]; 3] = [b"history", spiffe.as_bytes(), request.name.as_bytes()];
        let cursor = self.cursor(&binding, &request.page_token)?;
        let query = HistoryQuery {
            name,
            page_size: self.page_size(request.page_size),
            cursor,
        };
        let page = history(&self.shared.ledger, &query)?;
        self.looked_at(page.rows.len()).await?;
        if let Some(entry) = page.rows.first() {
            self.shows(entry.name.agency(), false)?;
        }
        let rows = page
            .rows
            .iter()
            .map(|entry: &StoredEntry| self.revision(entry));
        let next = page
            .next
            .map(|cursor| self.shared.tokens.seal(&binding, &cursor));
        Ok(wire::ListResponse {
            revisions: rows.collect::<Result<_, _>>()?,
            next_page_token: next.unwrap_or_default(),
            position: self.shared.positions.seal(position),
        })
    }

    fn cursor(&self, binding: &[&[u8]], token: &str) -> Result<Option<Vec<u8>>, Refusal> {
        if token.is_empty() {
            return Ok(None);
        }
        let cursor = self.shared.tokens.open(binding, token);
        cursor
            .map(Some)
            .ok_or_else(|| Reason::PageTokenInvalid.into())
    }
}
