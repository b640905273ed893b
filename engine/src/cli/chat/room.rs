//! What a person in a chat sees and does: lines and events in, text and requests out.
//!
//! It owns no terminal and no socket, so a test types lines, plays events and reads the text.

use super::input::{self, Input};
use super::show::{clean, time};
use client::{Conversation, Event, Group, Message, Receipt, Reference, Session, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;
use wire::table::{MemberChange, Role};
use wire::{ConversationId, Sequence};

/// Missed messages held back until it is known where they belong.
const HELD_MAX: usize = 10_000;

/// What is known of a conversation.
#[derive(Debug, Default)]
struct Known {
    /// A user's name, or a group's.
    name: Option<String>,
    /// The newest message shown.
    shown: Sequence,
    /// Our newest message.
    own: Sequence,
    /// Up to where delivered and read were shown, by user: a receipt that brings nothing new about
    /// our messages is not worth a line.
    delivered: BTreeMap<String, Sequence>,
    read: BTreeMap<String, Sequence>,
}

/// Why a list was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    Names,
    Show,
}

/// One person's chat.
#[derive(Debug)]
pub(super) struct Room {
    me: String,
    target: Option<Target>,
    conversations: BTreeMap<ConversationId, Known>,
    /// Groups whose name was asked for, and the requests that did.
    asked_groups: BTreeSet<ConversationId>,
    learning: BTreeSet<Reference>,
    listing: Option<(Reference, Listing)>,
    /// The command whose answer is awaited; lines wait for it.
    command: Option<Reference>,
    caught_up: bool,
    held: Vec<Message>,
    shown: String,
    now_millis: u64,
    refusals_count: u32,
    is_over: bool,
}

impl Room {
    pub(super) fn new(target: Option<Target>) -> Self {
        Self {
            me: String::new(),
            target,
            conversations: BTreeMap::new(),
            asked_groups: BTreeSet::new(),
            learning: BTreeSet::new(),
            listing: None,
            command: None,
            caught_up: false,
            held: Vec::new(),
            shown: String::new(),
            now_millis: 0,
            refusals_count: 0,
            is_over: false,
        }
    }

    /// Whether a line may be handled: what was missed is shown, and no command waits.
    pub(super) fn takes_lines(&self) -> bool {
        self.caught_up && self.listing.is_none() && self.command.is_none() && !self.is_over
    }

    /// Whether the person has left.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many messages and commands were refused.
    pub(super) fn refusals_count(&self) -> u32 {
        self.refusals_count
    }

    /// What is to be printed.
    pub(super) fn take_shown(&mut self) -> String {
        std::mem::take(&mut self.shown)
    }

    /// Shows a line.
    pub(super) fn say(&mut self, line: &str) {
        self.shown.push_str(line);
        self.shown.push('\n');
    }

    pub(super) fn handle_disconnected(&mut self) {
        self.caught_up = false;
        self.listing = None;
        self.command = None;
    }

    /// Handles a typed line.
    pub(super) fn handle_line(&mut self, session: &mut Session, now: Duration, line: &str) {
        match input::parse(line) {
            Input::Nothing => {}
            Input::Say(text) => self.send(session, text),
            Input::ToUser(user) => self.turn_to(session, now, Target::User(user.to_owned())),
            Input::ToGroup(wanted) => match self.group_called(wanted) {
                Some(id) => self.turn_to(session, now, Target::Conversation(id)),
                None => self.say(&format!("! there is no group '{wanted}' in /list")),
            },
            Input::List => self.list(session, Listing::Show),
            Input::Help => self.say(input::HELP),
            Input::Quit => self.is_over = true,
            Input::Wrong(why) => self.say(&format!("! {why}")),
            Input::NewGroup { name, members } => {
                let asked = session.create_group(name, &members);
                self.await_command(asked);
            }
            Input::History(limit) => match self.here() {
                Some(id) => {
                    let asked = session.read_history(id, Sequence(0), limit);
                    self.await_command(asked);
                }
                None => self.say("! nothing was said here yet"),
            },
            Input::Who => match (&self.target, self.group_here()) {
                (_, Some(group)) => self.await_command(session.read_group(group, 0)),
                (Some(Target::User(user)), None) => self.say(&format!("-- you and {user}")),
                (_, None) => self.say("! talk to somebody first: /to USER or /to #GROUP"),
            },
            Input::Change(change, users) => match self.group_here() {
                Some(group) => {
                    let asked = session.change_members(group, change, &users);
                    self.await_command(asked);
                }
                None => self.say("! this is not a group: /to #GROUP"),
            },
            Input::Rename(name) => match self.group_here() {
                Some(group) => self.await_command(session.rename_group(group, name)),
                None => self.say("! this is not a group: /to #GROUP"),
            },
        }
    }

    fn send(&mut self, session: &mut Session, text: &str) {
        let Some(target) = self.target.clone() else {
            self.refusals_count += 1;
            return self.say("! talk to somebody first: /to USER or /to #GROUP");
        };
        if let Err(error) = session.send(target, 0, text.as_bytes()) {
            self.refusals_count += 1;
            self.say(&format!("! not sent: {error}"));
        }
    }

    fn await_command(&mut self, asked: Result<Reference, client::RequestError>) {
        match asked {
            Ok(reference) => self.command = Some(reference),
            Err(error) => {
                self.refusals_count += 1;
                self.say(&format!("! {error}"));
            }
        }
    }

    fn list(&mut self, session: &mut Session, listing: Listing) {
        match session.list_conversations(ConversationId(0)) {
            Ok(reference) => self.listing = Some((reference, listing)),
            Err(error) => self.say(&format!("! {error}")),
        }
    }

    fn turn_to(&mut self, session: &mut Session, now: Duration, target: Target) {
        self.target = Some(target);
        let line = format!("-- talking to {}", self.target_name());
        self.say(&line);
        self.mark_read(session, now);
    }

    /// What was shown of the conversation in front of the person counts as read.
    fn mark_read(&mut self, session: &mut Session, now: Duration) {
        let Some(id) = self.here() else { return };
        let shown = self.conversations.get(&id).map_or(Sequence(0), |known| known.shown);
        if shown > Sequence(0) {
            session.mark_read(now, id, shown);
        }
    }

    /// The conversation in front of the person, if it has an id yet.
    fn here(&self) -> Option<ConversationId> {
        match self.target.as_ref()? {
            Target::Conversation(id) => Some(*id),
            Target::User(user) => {
                let is_it = |(id, known): &(&ConversationId, &Known)| {
                    !id.is_group() && known.name.as_ref() == Some(user)
                };
                self.conversations.iter().find(is_it).map(|(id, _)| *id)
            }
        }
    }

    fn group_here(&self) -> Option<ConversationId> {
        self.here().filter(|id| id.is_group())
    }

    fn group_called(&self, wanted: &str) -> Option<ConversationId> {
        let id = u128::from_str_radix(wanted, 16).ok().map(ConversationId);
        let is_it = |(found, known): &(&ConversationId, &Known)| {
            found.is_group() && (Some(**found) == id || known.name.as_deref() == Some(wanted))
        };
        self.conversations.iter().find(is_it).map(|(id, _)| *id)
    }

    fn target_name(&self) -> String {
        match &self.target {
            Some(Target::User(user)) => user.clone(),
            Some(Target::Conversation(id)) => self.name_of(*id),
            None => "nobody".to_owned(),
        }
    }

    fn name_of(&self, id: ConversationId) -> String {
        let name = self.conversations.get(&id).and_then(|known| known.name.as_deref());
        let name = name.map(|name| clean(name.as_bytes()));
        match (id.is_group(), name) {
            (true, Some(name)) => format!("#{name}"),
            (true, None) => format!("#{:032x}", id.0),
            (false, Some(name)) => name,
            (false, None) => "somebody".to_owned(),
        }
    }

    /// Handles what the session tells.
    pub(super) fn handle_event(&mut self, session: &mut Session, now: Duration, event: Event) {
        match event {
            Event::Connected | Event::Unread(_) => {}
            Event::Authenticated { user, device, server_time_millis, .. } => {
                self.say(&format!("-- connected as {user} ({device})"));
                self.me = user;
                self.now_millis = server_time_millis;
                self.list(session, Listing::Names);
            }
            Event::AuthenticationRefused(refusal) => {
                let code = refusal.code.map_or("refused", wire::ErrorCode::name);
                self.say(&format!("! {code}: {}", clean(refusal.text.as_bytes())));
            }
            Event::Message { message, .. } => {
                let known = self.conversations.get(&message.conversation);
                let needs_list = message.conversation.is_group() || message.sender == self.me;
                let is_unknown = needs_list && known.is_none_or(|known| known.name.is_none());
                if is_unknown && self.listing.is_some() && self.held.len() < HELD_MAX {
                    return self.held.push(message);
                }
                self.receive(session, now, &message);
            }
            Event::Sent { target, conversation, sequence, is_duplicate, .. } => {
                self.learn_target(session, &target, conversation);
                self.sent(conversation, sequence, is_duplicate);
            }
            Event::SendRefused { refusal, .. } => self.refused("not sent", &refusal),
            Event::Delivered(receipt) => self.receipt(&receipt, false),
            Event::Read(receipt) => self.receipt(&receipt, true),
            Event::GroupStatus(status) => self.say(&format!(
                "  ✓✓ {} #{}: {} of {} have it, {} read it",
                self.name_of(status.conversation),
                status.sequence.0,
                status.delivered,
                status.total,
                status.read
            )),
            Event::Gap(gap) => {
                let name = self.name_of(gap.conversation);
                let (from, to) = (gap.from.0, gap.to.0);
                self.say(&format!("-- {name}: messages {from} to {to} are no longer kept"));
            }
            Event::CaughtUp { .. } => self.caught_up = true,
            Event::GoAway { reason, .. } => {
                let reason = reason.map_or("going away", wire::CloseReason::name);
                self.say(&format!("-- the server says: {reason}"));
            }
            answer => self.handle_answer(session, now, answer),
        }
    }

    fn handle_answer(&mut self, session: &mut Session, now: Duration, event: Event) {
        match event {
            Event::Conversations { reference, entries, has_more, total_unread } => {
                self.listed(session, reference, entries, (has_more, total_unread));
                if self.listing.is_none() {
                    for message in std::mem::take(&mut self.held) {
                        self.receive(session, now, &message);
                    }
                    self.mark_read(session, now);
                }
            }
            Event::History { reference, mut messages, has_more, .. } => {
                self.answered(reference);
                messages.reverse();
                if has_more {
                    self.say("-- older messages exist");
                }
                for message in &messages {
                    self.show(message);
                }
            }
            Event::Group { reference, group } => self.group(session, reference, &group),
            Event::MembersChanged(reference, change) => {
                self.answered(reference);
                self.learn_group(session, change.group);
                let (what, users) = (words(change.change), change.users.join(", "));
                let group = self.name_of(change.group);
                let users = if change.change == MemberChange::Leave { "" } else { &users };
                let line = format!("-- {group}: {} {what} {users}", change.by);
                self.say(line.trim_end());
            }
            Event::Renamed(reference, renamed) => {
                self.answered(reference);
                let before = self.name_of(renamed.group);
                self.known(renamed.group).name = Some(renamed.name);
                let after = self.name_of(renamed.group);
                self.say(&format!("-- {before} is called {after}, says {}", renamed.by));
            }
            Event::Refused { reference, refusal } => {
                if self.listing.is_some_and(|(asked, _)| asked == reference) {
                    self.listing = None;
                }
                if !self.learning.remove(&reference) {
                    self.answered(reference);
                    self.refused("refused", &refusal);
                }
            }
            _ => {}
        }
    }

    fn refused(&mut self, what: &str, refusal: &client::Refusal) {
        self.refusals_count += 1;
        let code = refusal.code.map_or("no answer", wire::ErrorCode::name);
        self.say(&format!("! {what}: {code}: {}", clean(refusal.text.as_bytes())));
    }

    fn answered(&mut self, reference: Reference) {
        if self.command == Some(reference) {
            self.command = None;
        }
    }

    fn known(&mut self, id: ConversationId) -> &mut Known {
        self.conversations.entry(id).or_default()
    }

    /// Asks for the name of a group that is not known.
    fn learn_group(&mut self, session: &mut Session, id: ConversationId) {
        let is_known = self.conversations.get(&id).is_some_and(|known| known.name.is_some());
        if !is_known && self.asked_groups.insert(id) {
            // Without an answer, the id has to do for a name.
            self.learning.extend(session.read_group(id, 0).ok());
        }
    }

    fn receive(&mut self, session: &mut Session, now: Duration, message: &Message) {
        let id = message.conversation;
        self.now_millis = self.now_millis.max(message.id.hlc().wall_millis());
        if id.is_group() {
            self.learn_group(session, id);
        } else if message.sender != self.me && self.known(id).name.is_none() {
            self.known(id).name = Some(message.sender.clone());
        }
        self.show(message);
        let known = self.known(id);
        known.shown = known.shown.max(message.sequence);
        if self.here() == Some(id) {
            self.mark_read(session, now);
        }
    }

    fn show(&mut self, message: &Message) {
        let at = time(message.id.hlc().wall_millis(), self.now_millis);
        let is_own = message.sender == self.me;
        let from = if is_own { "me" } else { message.sender.as_str() };
        let name = self.name_of(message.conversation);
        let whence = match (message.conversation.is_group(), is_own) {
            (true, _) => format!("{name} {from}"),
            (false, true) => format!("me to {name}"),
            (false, false) => from.to_owned(),
        };
        let text = clean(&message.content);
        writeln!(self.shown, "[{at}] {whence}: {text}").expect("a string takes any text");
    }

    fn learn_target(&mut self, session: &mut Session, target: &Target, id: ConversationId) {
        match target {
            Target::User(user) => self.known(id).name = Some(user.clone()),
            Target::Conversation(_) if id.is_group() => self.learn_group(session, id),
            Target::Conversation(_) => {}
        }
    }

    fn sent(&mut self, id: ConversationId, sequence: Sequence, is_duplicate: bool) {
        let known = self.known(id);
        known.own = known.own.max(sequence);
        let again = if is_duplicate { ", at an earlier try" } else { "" };
        let name = self.name_of(id);
        self.say(&format!("  ✓ sent to {name}: #{}{again}", sequence.0));
    }

    fn receipt(&mut self, receipt: &Receipt, is_read: bool) {
        if receipt.user == self.me {
            return;
        }
        let known = self.known(receipt.conversation);
        let up_to = receipt.up_to.min(known.own);
        let user = receipt.user.clone();
        if is_read {
            // Reading implies delivered.
            let delivered = known.delivered.entry(user.clone()).or_default();
            *delivered = up_to.max(*delivered);
        }
        let marks = if is_read { &mut known.read } else { &mut known.delivered };
        let mark = marks.entry(user).or_default();
        if up_to <= *mark {
            return;
        }
        *mark = up_to;
        let name = self.name_of(receipt.conversation);
        let who = match receipt.conversation.is_group() {
            true => format!("{} in {name}", receipt.user),
            false => receipt.user.clone(),
        };
        let what = if is_read { "read by" } else { "delivered to" };
        self.say(&format!("  ✓✓ {what} {who}: up to #{}", up_to.0));
    }

    fn listed(
        &mut self,
        session: &mut Session,
        reference: Reference,
        entries: Vec<Conversation>,
        (has_more, total_unread): (bool, u64),
    ) {
        let Some((asked, listing)) = self.listing else { return };
        if asked != reference {
            return;
        }
        let last = entries.last().map(|entry| entry.id);
        for entry in entries {
            self.known(entry.id).name = entry.name.or(entry.peer);
            if listing == Listing::Show {
                let name = self.name_of(entry.id);
                let (last, unread) = (entry.last.0, entry.unread);
                let id = entry.id.0;
                self.say(&format!("  {name:<24} {last:>6} messages {unread:>6} unread  {id:032x}"));
            }
        }
        self.listing = match (has_more, last) {
            (true, Some(last)) => {
                session.list_conversations(last).ok().map(|reference| (reference, listing))
            }
            _ => None,
        };
        if self.listing.is_none() && listing == Listing::Show {
            self.say(&format!("-- {total_unread} unread in all"));
        }
    }

    fn group(&mut self, session: &mut Session, reference: Reference, group: &Group) {
        self.known(group.id).name = Some(group.name.clone());
        self.learning.remove(&reference);
        if self.command != Some(reference) {
            return;
        }
        self.command = None;
        let is_new = self.here() != Some(group.id);
        if is_new {
            self.target = Some(Target::Conversation(group.id));
            let (name, id) = (self.name_of(group.id), group.id.0);
            self.say(&format!("-- talking in {name}, whose id is {id:032x}"));
        }
        for member in &group.members {
            let role = if member.role == Role::Admin { " (admin)" } else { "" };
            self.say(&format!("  {}{role}", member.user));
        }
        let seen = group.from.saturating_add(u32::try_from(group.members.len()).unwrap_or(0));
        if !is_new && seen < group.members_count && !group.members.is_empty() {
            self.await_command(session.read_group(group.id, seen));
        }
    }
}

fn words(change: MemberChange) -> &'static str {
    match change {
        MemberChange::Add => "adds",
        MemberChange::Remove => "removes",
        MemberChange::Leave => "leaves",
        MemberChange::Promote => "makes admin",
        MemberChange::Demote => "makes plain member",
    }
}

#[cfg(test)]
mod tests;
