//! Pages of a conversation, read from the log by its owner: history for those who ask, and what a
//! device missed. Membership is looked at when a page is begun and again when it is answered.

use crate::metrics::Refusal as Refused;
use crate::parcel::{Origin, Parcel, Replay, Replayed};
use crate::shard::Shard;
use chat::{Record, Visible};
use fanout::Span;
use std::collections::{BTreeMap, VecDeque};
use storage::{DiskEvent, DiskOp, Log, Page, PageQuery, ReadError, ReaderId, Readers, Walk};
use wire::fixed::{Gap, ReadHistory};
use wire::limits::PAGE_MESSAGES_MAX;
use wire::{ConversationId, ErrorCode, Kind, Sequence, UserKey, body, frame};

/// Bytes of record bodies in a page: with what an entry adds to each, below a frame's bound.
const PAGE_BYTES_MAX: u32 = 100 * 1024;
/// Pages answered in one turn.
const PAGES_PER_TURN_MAX: usize = 64;

/// Who a page is for.
#[derive(Clone, Copy)]
struct Asked {
    origin: Origin,
    user: UserKey,
    conversation: ConversationId,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// Newest first, from here down.
    History { from: Sequence, count: u32 },
    /// Oldest first, from behind `after` to `through`.
    Replay { after: Sequence, through: Sequence },
}

/// Pages being read, and those that wait for a reader.
pub(crate) struct Pages {
    readers: Readers,
    asked: BTreeMap<ReaderId, Asked>,
    backlog: VecDeque<Asked>,
}

impl Pages {
    pub(crate) fn new(readers_max: u32) -> Self {
        Self {
            readers: Readers::new(readers_max),
            asked: BTreeMap::new(),
            backlog: VecDeque::new(),
        }
    }

    pub(crate) fn poll_op(&mut self) -> Option<DiskOp> {
        self.readers.poll_op()
    }

    pub(crate) fn handle(&mut self, log: &Log, event: DiskEvent) {
        self.readers.handle(log, event);
    }

    /// Begins those that wait, as far as there are readers.
    fn begin_waiting(&mut self, log: &Log) {
        while let Some(asked) = self.backlog.front().copied() {
            if self.begin(log, asked).is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    fn begin(&mut self, log: &Log, asked: Asked) -> Result<(), ReadError> {
        let (walk, count) = match asked.what {
            What::History { from, count } => (Walk::Backwards { from: from.0 }, count),
            What::Replay { after, through } => {
                let walk = Walk::Forwards { after: after.0, through: through.0 };
                (walk, u32::from(PAGE_MESSAGES_MAX))
            }
        };
        let query = PageQuery {
            entity: asked.conversation.0,
            walk,
            records_max: count,
            bytes_max: PAGE_BYTES_MAX,
        };
        let reader = self.readers.begin(log, query)?;
        self.asked.insert(reader, asked);
        Ok(())
    }
}

impl Shard {
    pub(crate) fn begin_history(&mut self, origin: Origin, user: UserKey, ask: ReadHistory) {
        let visible = match self.owner.visible(ask.conversation, user) {
            Ok(visible) => visible,
            Err(refusal) => return self.answer_error(origin, (refusal.code, 0), refusal.text),
        };
        let newest = match ask.before {
            Sequence(0) => visible.through,
            before => Sequence(before.0 - 1).min(visible.through),
        };
        let count = u64::from(ask.count_max()).min(newest.0.saturating_sub(visible.after.0));
        let count = u32::try_from(count).expect("a page is hundreds");
        if count == 0 {
            let head = body::Page::head(ask.conversation, 0, false);
            return self.answer(origin, Kind::HistoryPage, [&head.0, b"", b""]);
        }
        let what = What::History { from: newest, count };
        self.begin_page(Asked { origin, user, conversation: ask.conversation, what });
    }

    pub(crate) fn begin_replay(&mut self, replay: Replay) {
        let Replay { origin, user, conversation, after } = replay;
        let Ok(visible) = self.owner.visible(conversation, user) else {
            // Removed meanwhile: there is nothing more to bring.
            return self.answer_replay(origin, conversation, after.unwrap_or_default(), None);
        };
        let Visible { after: joined, through, delivered } = visible;
        let after = after.unwrap_or(delivered).max(joined);
        if after >= through {
            return self.answer_replay(origin, conversation, after, None);
        }
        let what = What::Replay { after, through };
        self.begin_page(Asked { origin, user, conversation, what });
    }

    /// First come, first read: behind those that wait, if any do.
    fn begin_page(&mut self, asked: Asked) {
        if self.pages.backlog.len() < self.plan.page_backlog_max {
            self.pages.backlog.push_back(asked);
            return self.pages.begin_waiting(&self.log);
        }
        match asked.what {
            What::History { .. } => self.answer_busy(asked.origin, Refused::Readers),
            // Comes again in a while: nothing was brought, and there is more.
            What::Replay { after, .. } => {
                self.net.metrics.refused.of(Refused::Readers).add(1);
                self.post_replayed(asked.origin, asked.conversation, (after, true), None);
            }
        }
    }

    /// Answers pages that are read, and begins those that waited. True if there is more to do.
    pub(crate) fn take_pages(&mut self) -> bool {
        for _ in 0..PAGES_PER_TURN_MAX {
            if !self.port.has_parcels_room() {
                return true;
            }
            let Some((reader, page)) = self.pages.readers.poll_page() else { return false };
            let asked = self.pages.asked.remove(&reader).expect("begun by us");
            self.pages.begin_waiting(&self.log);
            match asked.what {
                What::History { count, .. } => self.answer_history(asked, count, page),
                What::Replay { after, through } => {
                    self.answer_replayed_page(asked, (after, through), page);
                }
            }
        }
        true
    }

    fn answer_history(&mut self, asked: Asked, count: u32, page: Result<Page, ReadError>) {
        let Asked { origin, user, conversation, .. } = asked;
        let visible = match self.owner.visible(conversation, user) {
            Ok(visible) => visible,
            Err(refusal) => return self.answer_error(origin, (refusal.code, 0), refusal.text),
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "a page of history could not be read");
                let text = "the messages could not be read";
                return self.answer_error(origin, (ErrorCode::Internal, 0), text);
            }
        };
        if page.retired_through > visible.after.0 {
            let (from, to) = (visible.after.next(), Sequence(page.retired_through));
            let head = Gap { conversation, from, to }.head();
            self.answer(origin, Kind::Gap, [&head.0, b"", b""]);
        }
        let oldest = page.records.last().map_or(0, |record| record.sequence);
        let has_more = page.retired_through == 0 && oldest > visible.after.0 + 1;
        debug_assert!(page.records.len() <= count as usize);
        let Some((head, entries)) = self.entries(conversation, &page, has_more) else {
            let text = "the messages could not be read";
            return self.answer_error(origin, (ErrorCode::Internal, 0), text);
        };
        self.answer(origin, Kind::HistoryPage, [&head.0, &entries, b""]);
    }

    /// The body of a page: its head and its entries.
    fn entries(
        &self,
        conversation: ConversationId,
        page: &Page,
        has_more: bool,
    ) -> Option<(wire::generated::PageHead, Vec<u8>)> {
        let mut entries = Vec::new();
        for found in &page.records {
            let record = Record::decode(found.kind, found.entity, found.sequence, &found.body);
            let Ok(Record::Message(message)) = record else {
                tracing::error!(position = ?found.position, "a record in a chain is no message");
                return None;
            };
            body::Page::put_entry(&mut entries, &message.deliver(found.hlc));
        }
        let count = u16::try_from(page.records.len()).expect("a page is hundreds");
        Some((body::Page::head(conversation, count, has_more), entries))
    }

    fn answer_replayed_page(
        &mut self,
        asked: Asked,
        (after, through): (Sequence, Sequence),
        page: Result<Page, ReadError>,
    ) {
        let Asked { origin, user, conversation, .. } = asked;
        if self.owner.visible(conversation, user).is_err() {
            return self.answer_replay(origin, conversation, through, None);
        }
        // What cannot be read is a gap and says so: a device must not believe that it has it.
        let page = page.unwrap_or_else(|error| {
            tracing::error!(%error, "missed messages could not be read");
            Page { records: Vec::new(), retired_through: through.0 }
        });
        let newest = page.records.last().map_or(page.retired_through, |record| record.sequence);
        let newest = Sequence(newest).max(after);
        let has_more = newest < through;
        let Some((head, entries)) = self.entries(conversation, &page, has_more) else {
            let lost = Page { records: Vec::new(), retired_through: through.0 };
            return self.answer_replayed_page(asked, (after, through), Ok(lost));
        };
        let mut frames = Vec::with_capacity(entries.len() + 128);
        if page.retired_through > after.0 {
            let gap = Gap { conversation, from: after.next(), to: Sequence(page.retired_through) };
            frame::encode(&mut frames, Kind::Gap, 0, &[&gap.head().0]);
        }
        if !page.records.is_empty() {
            frame::encode(&mut frames, Kind::SyncBatch, 0, &[&head.0, &entries]);
        }
        match self.net.blocks.append_parts(&[&frames]) {
            Ok(span) => self.post_replayed(origin, conversation, (newest, has_more), Some(span)),
            // No room for it at the moment: it is asked for again.
            Err(_) => self.post_replayed(origin, conversation, (after, true), None),
        }
    }

    fn answer_replay(
        &mut self,
        origin: Origin,
        conversation: ConversationId,
        through: Sequence,
        frames: Option<Span>,
    ) {
        self.post_replayed(origin, conversation, (through, false), frames);
    }

    fn post_replayed(
        &mut self,
        origin: Origin,
        conversation: ConversationId,
        (through, has_more): (Sequence, bool),
        frames: Option<Span>,
    ) {
        let replayed = Replayed { origin, conversation, through, has_more, frames };
        self.post(origin.shard, Parcel::Replayed(replayed));
    }
}
