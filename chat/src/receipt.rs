//! Receipts: cursors that only rise, gathered for a moment and then written and told.
//!
//! A member's move waits in a queue with one place a member, however often he moves; the flush
//! makes a record of it, and with the record it takes effect. In a small group each move is told
//! to all; in a large one its counts go to the sender of the newest message, once a round.

use crate::command::{Decision, Refusal};
use crate::conversation::{Audience, Conversation, Counts, Member, Status, Ticket};
use crate::owner::Owner;
use crate::record::{Cursors, Record};
use crate::round::Round;
use crate::settings::Millis;
use std::collections::VecDeque;
use wire::{ConversationId, ErrorCode, Sequence, UserKey};

/// How far a command says that its speaker has come.
#[derive(Clone, Copy)]
pub(crate) enum Reach {
    Delivered(Sequence),
    Read(Sequence),
}

/// Moved cursors that are not yet in the log.
#[derive(Debug)]
struct Waiting {
    slot: u32,
    user: UserKey,
    delivered: Sequence,
    read: Sequence,
}

/// The queue. Invariant: a member waits in it at most once.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    queue: VecDeque<Waiting>,
    /// The ordinal of the front, modulo 2^32.
    front: u32,
    round: Round,
}

/// A member's moved cursors, to be appended and then, once durable, told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReceiptFlush<'a> {
    /// What to append.
    pub record: Record<'a>,
    /// Where.
    pub conversation: ConversationId,
    /// Who moved.
    pub user: UserKey,
    /// His name.
    pub name: &'a str,
    /// Where his cursor of delivery is, if it moved.
    pub delivered: Option<Sequence>,
    /// Where his cursor of reading is, if it moved.
    pub read: Option<Sequence>,
    /// Whom to tell, once it is durable.
    pub tell: Tell<'a>,
}

/// Who hears of a receipt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tell<'a> {
    /// Nobody: others of this round will be told for it, or there is nothing to tell.
    Nobody,
    /// All members, one's own other devices among them.
    Members(Audience<'a>),
    /// The sender of the newest message, in counts.
    Sender {
        /// Who sent it.
        user: UserKey,
        /// How far it has come.
        status: Status,
    },
}

impl Receipts {
    /// How far `member` has come, what waits included: delivered, then read.
    pub(crate) fn reached(&self, member: &Member) -> (Sequence, Sequence) {
        match member.waiting {
            Some(ticket) => {
                let waiting = &self.queue[self.index(ticket)];
                (waiting.delivered, waiting.read)
            }
            None => (member.delivered, member.read),
        }
    }

    fn index(&self, ticket: Ticket) -> usize {
        ticket.behind(self.front)
    }

    fn front_ticket(&self) -> Ticket {
        Ticket::new(self.front)
    }

    fn push(&mut self, waiting: Waiting) -> Ticket {
        let count = u32::try_from(self.queue.len()).expect("bounded by the settings");
        self.queue.push_back(waiting);
        Ticket::new(self.front.wrapping_add(count))
    }

    fn pop(&mut self) {
        self.queue.pop_front().expect("the front was just looked at");
        self.front = self.front.wrapping_add(1);
        self.round.on_done();
    }
}

impl Owner {
    /// Moves a member's cursor in memory. It never moves back, nor beyond what he can have seen.
    pub(crate) fn mark<'a>(
        &mut self,
        user: UserKey,
        id: ConversationId,
        reach: Reach,
    ) -> Result<Decision<'a>, Refusal> {
        let slot = self.conversations.slot_of(id.0).ok_or(Refusal::NOT_FOUND)?;
        let conversation = self.conversations.at_mut(slot).expect("it was just found");
        conversation.expect_member(user)?;
        let durable = conversation.durable;
        let member = conversation.member_mut(user).expect("it was just found");
        let before = self.receipts.reached(member);
        let (delivered, read) = match reach {
            Reach::Delivered(up_to) => (before.0.max(up_to.min(durable)), before.1),
            Reach::Read(up_to) => {
                let up_to = up_to.min(durable);
                (before.0.max(up_to), before.1.max(up_to))
            }
        };
        if (delivered, read) == before {
            return Ok(Decision::Nothing);
        }
        if let Some(ticket) = member.waiting {
            let index = self.receipts.index(ticket);
            let waiting = &mut self.receipts.queue[index];
            (waiting.delivered, waiting.read) = (delivered, read);
            return Ok(Decision::Moved);
        }
        if self.receipts.queue.len() >= self.settings.receipts_pending_max as usize {
            return Err(Refusal::new(ErrorCode::Busy, "too many receipts wait to be written"));
        }
        member.waiting = Some(self.receipts.push(Waiting { slot, user, delivered, read }));
        if let Some(group) = &mut conversation.group {
            group.waiting_counts[1 - self.receipts.round.parity()] += 1;
        }
        Ok(Decision::Moved)
    }

    /// How many members' receipts wait to be written.
    pub fn receipts_waiting_count(&self) -> usize {
        self.receipts.queue.len()
    }

    /// Brings out receipts that moved, at most `budget` of them, a round of them every
    /// `receipt_flush_ms`. `out` appends the record and says whether the log took it: what was
    /// taken takes effect, and what was not comes again. Returns how many came out.
    pub fn flush_receipts(
        &mut self,
        now: Millis,
        budget: usize,
        mut out: impl FnMut(ReceiptFlush<'_>) -> bool,
    ) -> usize {
        let waiting_count = self.receipts.queue.len();
        let interval_ms = self.settings.receipt_flush_ms;
        let due_count = self.receipts.round.begin(now, interval_ms, waiting_count);
        let mut flushed_count = 0;
        for _ in 0..due_count.min(budget) {
            let waiting = self.receipts.queue.front().expect("a round counts what waits");
            let parity = self.receipts.round.parity();
            let conversation = self.conversations.at_mut(waiting.slot);
            let conversation = conversation.expect("a conversation stays");
            let ticket = Some(self.receipts.front_ticket());
            let user = waiting.user;
            // Whoever left in the meantime, or left and came back, has nothing to tell any more.
            if conversation.member(user).is_some_and(|member| member.waiting == ticket) {
                let large_from = self.settings.receipts_group_max as usize + 1;
                let flush = conversation.receipt_flush(waiting, parity, large_from);
                let (record, is_told) = (flush.record, flush.tell != Tell::Nobody);
                if !out(flush) {
                    return flushed_count;
                }
                let Record::Cursors(cursors) = record else { unreachable!("made just above") };
                conversation.reach(&cursors);
                conversation.on_flushed(user, is_told);
                flushed_count += 1;
            }
            if let Some(group) = &mut conversation.group {
                group.waiting_counts[parity] -= 1;
            }
            self.receipts.pop();
        }
        flushed_count
    }

    pub(crate) fn apply_cursors(&mut self, cursors: &Cursors) {
        match self.conversations.find_mut(cursors.conversation.0) {
            Some(conversation) => conversation.reach(cursors),
            None => self.orphans_count += 1,
        }
    }
}

impl Conversation {
    fn receipt_flush(
        &self,
        waiting: &Waiting,
        parity: usize,
        large_from: usize,
    ) -> ReceiptFlush<'_> {
        let member = self.member(waiting.user).expect("the caller looked");
        let cursors = Cursors {
            conversation: self.id,
            user: waiting.user,
            delivered: waiting.delivered,
            read: waiting.read,
        };
        let tell = match &self.group {
            Some(group) if self.members.len() >= large_from => {
                let counts = self.counts_with(&cursors, member);
                let is_last = group.waiting_counts[parity] == 1;
                let has_news = group.has_news || counts != group.counts;
                let is_there = self.member(group.newest_sender).is_some();
                if is_last && has_news && is_there && self.last == self.durable {
                    let status = self.status(self.last, counts);
                    Tell::Sender { user: group.newest_sender, status }
                } else {
                    Tell::Nobody
                }
            }
            _ => Tell::Members(self.audience()),
        };
        ReceiptFlush {
            record: Record::Cursors(cursors),
            conversation: self.id,
            user: member.user,
            name: &member.name,
            delivered: (waiting.delivered > member.delivered).then_some(waiting.delivered),
            read: (waiting.read > member.read).then_some(waiting.read),
            tell,
        }
    }

    /// The counts of the newest message once `member` has come as far as `cursors`.
    fn counts_with(&self, cursors: &Cursors, member: &Member) -> Counts {
        let Some(group) = &self.group else { return Counts::default() };
        let mut counts = group.counts;
        let newest = self.last;
        if newest > Sequence(0) && member.expects(newest, group.newest_sender) {
            let passes = |from: Sequence, to: Sequence| u32::from(from < newest && newest <= to);
            counts.delivered += passes(member.delivered, cursors.delivered);
            counts.read += passes(member.read, cursors.read);
        }
        counts
    }

    /// Moves a member as far as `cursors` say, if he is not there already.
    fn reach(&mut self, cursors: &Cursors) {
        let Some(member) = self.member(cursors.user) else { return };
        let counts = self.counts_with(cursors, member);
        if let Some(group) = &mut self.group {
            group.has_news |= counts != group.counts;
            group.counts = counts;
        }
        let member = self.member_mut(cursors.user).expect("it was just found");
        member.delivered = member.delivered.max(cursors.delivered);
        member.read = member.read.max(cursors.read);
    }

    fn on_flushed(&mut self, user: UserKey, is_told: bool) {
        self.member_mut(user).expect("it was just flushed").waiting = None;
        if let Some(group) = &mut self.group {
            group.has_news &= !is_told;
        }
    }
}
