//! What a device makes of the server's frames, and the rules that a single session can see broken.

use crate::client::{Asked, Client, Phase};
use crate::env::Env;
use crate::oracle::{name_of, user_of};
use wire::body::{self, Deliver, Page, Receipt};
use wire::fixed::{Gap, Sent, SentStatus};
use wire::table::{Authenticated, Group, MemberChange, MembersChanged};
use wire::{CloseReason, ConversationId, ErrorCode, Frame, Kind};

impl Client {
    pub(crate) fn hear(&mut self, env: &mut Env, frame: Frame<'_>) {
        env.trace.note(&[4, self.index as u64, frame.kind as u64, frame.reference]);
        if self.is_hostile {
            return self.hear_as_hostile(env, frame);
        }
        match frame.kind {
            Kind::Welcome if self.phase == Phase::Hello => {
                self.authenticate(env);
                self.flush(env);
            }
            Kind::Authenticated => self.on_authenticated(env, frame),
            Kind::MessageSent => self.on_sent(env, frame),
            Kind::Deliver => match Deliver::decode(frame.body) {
                Ok(message) => self.on_message(env, &message, false),
                Err(error) => env.oracle.fail(format!("a deliver frame is malformed: {error:?}")),
            },
            Kind::SyncBatch => self.on_batch(env, frame),
            Kind::Gap => self.on_gap(env, frame),
            Kind::HistoryPage => self.on_page(env, frame),
            Kind::SyncDone => {
                if frame.reference != 0 {
                    self.asked.remove(&frame.reference);
                    self.streams.values_mut().for_each(|stream| stream.rewinds_to = None);
                }
            }
            Kind::DeliveryReceipt => self.on_receipt(env, frame, false),
            Kind::ReadReceipt => self.on_receipt(env, frame, true),
            Kind::Group => self.on_group(env, frame),
            Kind::MembersChanged => self.on_members_changed(env, frame),
            Kind::Error => self.on_error(env, frame),
            Kind::GoAway => self.on_go_away(env, frame),
            Kind::Conversations => {
                env.counters.hit("lists read");
                self.asked.remove(&frame.reference);
            }
            _ => {
                self.asked.remove(&frame.reference);
            }
        }
    }

    fn on_authenticated(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(said) = Authenticated::decode(frame.body) else {
            return env.oracle.fail("an authenticated frame is malformed".to_owned());
        };
        if said.user != self.name() || said.device != self.device {
            let who = (self.name(), &self.device);
            let (user, device) = (said.user, said.device);
            return env.oracle.fail(format!("{who:?} is authenticated as {user}/{device}"));
        }
        env.counters.add("sessions resumed", u64::from(said.resumed));
        env.counters.hit("sessions opened");
        self.token = Some(said.resume_token.to_vec());
        env.some_token.clone_from(&self.token);
        self.phase = Phase::Live;
        self.streams.clear();
        self.retry_at = 0;
    }

    fn on_sent(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(sent) = Sent::decode(frame.body) else {
            return env.oracle.fail("an acknowledgement is malformed".to_owned());
        };
        let Some(Asked::Send(message)) = self.asked.remove(&frame.reference) else {
            return env.oracle.fail(format!("an acknowledgement of nothing: {sent:?}"));
        };
        env.oracle.note_acked(message, &sent);
        self.unacked.retain(|unacked| *unacked != message);
        if sent.status == SentStatus::Duplicate {
            return env.counters.hit("duplicates answered");
        }
        env.counters.hit("messages acknowledged");
        let sequence = sent.sequence.0;
        let before = self.last_acks.insert(sent.conversation, (frame.reference, sequence));
        if let Some((reference_before, sequence_before)) = before
            && (reference_before > frame.reference) != (sequence_before > sequence)
        {
            env.oracle.fail(format!(
                "{} said {reference_before} before {}, which have sequences {sequence_before} \
                 and {sequence}",
                self.name(),
                frame.reference
            ));
        }
        self.streams.entry(sent.conversation).or_default().own.insert(sequence);
    }

    /// A message of a stream: delivered as it was said, or brought by a sync.
    fn on_message(&mut self, env: &mut Env, message: &Deliver<'_>, is_brought: bool) {
        env.oracle.observe(self.user, message);
        self.step_stream(
            env,
            message.conversation,
            (message.sequence.0, message.sequence.0),
            is_brought,
        );
    }

    /// `from` to `to` have come, or were told to be gone.
    fn step_stream(
        &mut self,
        env: &mut Env,
        conversation: ConversationId,
        (from, to): (u64, u64),
        is_brought: bool,
    ) {
        let is_stable = env.oracle.is_stable(self.user, conversation);
        let start = self.known_start(env, conversation);
        let stream = self.streams.entry(conversation).or_default();
        if is_brought
            && from <= stream.last
            && let Some(cursor) = stream.rewinds_to.take()
        {
            stream.last = cursor;
        }
        let last = stream.last;
        let who = (self.user, &self.device);
        env.trace.say(
            env.time,
            format_args!("{who:?} {:x}: {from}..{to} after {last}, {is_brought}", conversation.0),
        );
        if from <= last {
            return env.oracle.fail(format!(
                "{}/{} has {last} of {conversation:?} and receives {from} again",
                name_of(self.user),
                self.device
            ));
        }
        let known_through = if last == 0 { start } else { Some(last) };
        let hole = known_through
            .filter(|_| is_stable)
            .and_then(|known| (known + 1..from).find(|sequence| !stream.own.contains(sequence)));
        stream.last = to;
        if let Some(missed) = hole {
            env.oracle.fail(format!(
                "{}/{} of {conversation:?}: after {known_through:?} comes {from}, without {missed}",
                name_of(self.user),
                self.device
            ));
        }
    }

    /// Up to where this device, or a fresh one of its user, may have been spared what it missed.
    fn known_start(&self, env: &Env, conversation: ConversationId) -> Option<u64> {
        if self.is_auto_user {
            return None;
        }
        let of_user = env.oracle.marks.get(&(self.user, conversation)).map_or(0, |marks| marks.0);
        Some(self.marks.get(&conversation).copied().unwrap_or(of_user).max(of_user))
    }

    fn on_batch(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(page) = Page::decode(frame.body) else {
            return env.oracle.fail("a sync batch is malformed".to_owned());
        };
        for entry in page {
            match entry {
                Ok(message) => self.on_message(env, &message, true),
                Err(error) => {
                    return env.oracle.fail(format!("an entry of a batch is malformed: {error:?}"));
                }
            }
        }
    }

    fn on_gap(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(gap) = Gap::decode(frame.body) else {
            return env.oracle.fail("a gap is malformed".to_owned());
        };
        env.counters.hit("gaps told");
        let may_be = env.options.disk_faults.reads || env.oracle.retires();
        if !may_be {
            env.oracle.fail(format!("a gap where nothing is retired or unreadable: {gap:?}"));
        }
        if frame.reference == 0 {
            let range = (gap.from.0, gap.to.0);
            return self.step_stream(env, gap.conversation, range, true);
        }
        if let Some(reading) = self.readings.get_mut(&gap.conversation) {
            reading.gap_through = reading.gap_through.max(gap.to.0);
        }
    }

    fn on_page(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Some(Asked::History { conversation, before, newest_known, gone_since }) =
            self.asked.remove(&frame.reference)
        else {
            return env.oracle.fail("a page that nobody asked for".to_owned());
        };
        let Ok(page) = Page::decode(frame.body) else {
            return env.oracle.fail("a page is malformed".to_owned());
        };
        let is_gone = gone_since == env.oracle.gone_since(self.user, conversation);
        if gone_since.is_some() && is_gone && Page::count(&page) > 0 {
            return env.oracle.fail(format!("{} reads {conversation:?}, removed", self.name()));
        }
        env.counters.hit("histories read");
        let has_more = page.has_more;
        let mut sequences = Vec::with_capacity(usize::from(Page::count(&page)));
        for entry in page {
            let Ok(message) = entry else {
                return env.oracle.fail("an entry of a page is malformed".to_owned());
            };
            if message.conversation != conversation {
                return env.oracle.fail("an entry of another conversation".to_owned());
            }
            env.oracle.observe(self.user, &message);
            sequences.push(message.sequence.0);
        }
        if sequences.windows(2).any(|pair| pair[0] != pair[1] + 1) {
            return env.oracle.fail(format!("a page with a hole: {sequences:?}"));
        }
        let is_stable = env.oracle.is_stable(self.user, conversation);
        let newest = sequences.first().copied().unwrap_or(0);
        let expected = if before == 0 { newest_known } else { newest_known.min(before - 1) };
        if is_stable && newest < expected && !env.oracle.retires() {
            return env.oracle.fail(format!(
                "{}: a page before {before} of {conversation:?} begins at {newest}, and \
                 {newest_known} was acknowledged",
                self.name()
            ));
        }
        if let Some(reading) = self.readings.get_mut(&conversation).filter(|it| it.is_asked) {
            reading.is_asked = false;
            reading.before = sequences.last().copied().unwrap_or(0);
            reading.is_done = !has_more || sequences.is_empty();
            reading.sequences.extend(sequences);
        }
    }

    fn on_receipt(&mut self, env: &mut Env, frame: Frame<'_>, is_read: bool) {
        let Ok(receipt) = Receipt::decode(frame.body) else {
            return env.oracle.fail("a receipt is malformed".to_owned());
        };
        env.counters.hit("receipts told");
        let Some(user) = user_of(receipt.user) else { return };
        let conversation = receipt.conversation;
        if !env.oracle.is_stable(user, conversation) {
            return;
        }
        let up_to = receipt.up_to.0;
        let before = self.receipts.insert((conversation, user, is_read), up_to).unwrap_or(0);
        if up_to < before {
            env.oracle.fail(format!(
                "a receipt of {user} in {conversation:?} went from {before} back to {up_to}"
            ));
        }
        let marks = env.oracle.marks.get(&(user, conversation)).copied().unwrap_or_default();
        let claimed = if is_read { marks.1 } else { marks.0 };
        let is_auto = !is_read && env.options.is_auto(user);
        if up_to > claimed && !is_auto {
            env.oracle.fail(format!(
                "{user} is said to have come to {up_to} of {conversation:?}, and claimed {claimed}"
            ));
        }
    }

    fn on_group(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(group) = Group::decode(frame.body) else {
            return env.oracle.fail("a group frame is malformed".to_owned());
        };
        if let Some(Asked::Create { users }) = self.asked.remove(&frame.reference) {
            env.counters.hit("groups made");
            env.oracle.note_group(group.group, self.user, &users);
        }
    }

    fn on_members_changed(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok(changed) = MembersChanged::decode(frame.body) else {
            return env.oracle.fail("a members frame is malformed".to_owned());
        };
        let is_less = matches!(changed.change, MemberChange::Remove | MemberChange::Leave);
        let name = self.name();
        if is_less && changed.users.iter().any(|user| user == name) {
            self.streams.remove(&changed.group);
        }
        let asked = self.asked.remove(&frame.reference);
        if let Some(Asked::Change { group, change, users, asked_at }) = asked {
            match change {
                MemberChange::Remove | MemberChange::Leave => {
                    env.counters.hit("members removed");
                    for user in users {
                        env.oracle.note_removed(group, user, asked_at);
                    }
                }
                MemberChange::Add => {
                    for user in users {
                        env.oracle.note_add_answered(group, user);
                    }
                }
                MemberChange::Promote | MemberChange::Demote => {}
            }
        }
    }

    fn on_error(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok((head, text)) = body::error(frame.body) else {
            return env.oracle.fail("an error frame is malformed".to_owned());
        };
        let code = ErrorCode::from_number(head.code());
        let asked = self.asked.remove(&frame.reference);
        env.trace.say(env.time, format_args!("{}: {text} ({asked:?})", self.name()));
        if code == Some(ErrorCode::Busy) {
            env.counters.hit("busy answered");
            self.retry_at = env.time + u64::from(head.retry_after_ms()) * 1000;
        }
        match (asked.clone(), code) {
            (_, None | Some(ErrorCode::BadRequest | ErrorCode::UnknownType)) => {
                env.oracle.fail(format!("an honest client is told: {text} ({asked:?})"));
            }
            (Some(Asked::Send(_)), Some(ErrorCode::Busy | ErrorCode::Internal)) => {}
            (Some(Asked::Send(message)), Some(_)) => {
                env.counters.hit("messages refused");
                env.oracle.note_refused(message);
                self.unacked.retain(|unacked| *unacked != message);
            }
            (Some(Asked::Change { group, change: MemberChange::Add, users, .. }), _) => {
                for user in users {
                    env.oracle.note_add_answered(group, user);
                }
            }
            (Some(Asked::History { conversation, .. }), Some(code)) => {
                let is_stable = env.oracle.is_stable(self.user, conversation);
                if is_stable && matches!(code, ErrorCode::NotAMember | ErrorCode::NotFound) {
                    env.oracle
                        .fail(format!("{} may not read {conversation:?}: {text}", self.name()));
                }
                if let Some(reading) = self.readings.get_mut(&conversation) {
                    reading.is_asked = false;
                }
            }
            (Some(Asked::Sync), _) => {
                self.streams.values_mut().for_each(|stream| stream.rewinds_to = None);
            }
            _ => {}
        }
    }

    fn on_go_away(&mut self, env: &mut Env, frame: Frame<'_>) {
        let Ok((head, _)) = body::go_away(frame.body) else {
            return env.oracle.fail("a go-away frame is malformed".to_owned());
        };
        let after_micros = u64::from(head.reconnect_after_ms()) * 1000;
        self.connect_at = env.time + after_micros;
        match CloseReason::from_number(head.reason()) {
            Some(
                CloseReason::Replaced
                | CloseReason::Draining
                | CloseReason::Idle
                | CloseReason::AuthTimeout
                | CloseReason::SlowConsumer,
            ) => {}
            other => env.oracle.fail(format!("{} is sent away: {other:?}", self.name())),
        }
        self.phase = Phase::Leaving;
        if let Some(connection) = self.connection {
            env.end_up(connection);
        }
    }
}
