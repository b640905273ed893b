//! The users who live on this shard: who is online where, in which conversations, and how far
//! each of their devices has come.
//!
//! What a user is in, owners announce: as it happens, and all of it again after recovery. What a
//! device has acknowledged is this shard's own to keep. A user costs little until he has either:
//! the cold part is boxed, and one session stands in the user itself.

use crate::command::{Refusal, Speaker};
use crate::record::{DeviceCursor, Record};
use crate::round::Round;
use crate::settings::{Millis, Settings};
use crate::slab::{Keyed, Slab};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use std::collections::VecDeque;
use wire::{ConversationId, DeviceKey, ErrorCode, Sequence, UserKey};

/// Where a session is in its shard's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionSlot(pub u32);

/// A session that wants a group's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where to send.
    pub session: SessionSlot,
    /// Whose it is: for [`Home::user_at`].
    pub user_index: u32,
}

/// What opening a session found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session that the same device had, which this one takes the place of.
    pub replaced: Option<SessionSlot>,
    /// Whether this device has never acknowledged anything.
    pub new_device: bool,
}

/// How far a device has come in a conversation. 24 bytes: a device has many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    conversation: [u64; 2],
    /// The sequence, and in the top bit whether it waits to be written.
    up_to: u64,
}

const WAITING_BIT: u64 = 1 << 63;

/// A device and its cursors, sorted by conversation.
pub(crate) struct Device {
    pub(crate) key: DeviceKey,
    pub(crate) cursors: Vec<Cursor>,
}

/// What an idle user does not have.
#[derive(Default)]
struct Cold {
    /// All sessions, if there are several; the device of each beside it.
    sessions: Vec<SessionSlot>,
    session_devices: Vec<DeviceKey>,
    /// Sorted.
    conversations: Vec<ConversationId>,
    /// Those with cursors, the one that connected longest ago first.
    devices: Vec<Device>,
}

pub(crate) struct User {
    key: UserKey,
    name: Box<str>,
    cold: Option<Box<Cold>>,
    /// The device of the one session.
    device: DeviceKey,
    /// The one session, while `sessions_count` is one.
    session: [SessionSlot; 1],
    sessions_count: u32,
}

const _: () = assert!(size_of::<Option<User>>() <= 64, "a million users online are 64 MB");
const _: () = assert!(size_of::<Cursor>() == 24);
const _: () = assert!(size_of::<Listener>() == 8, "the fan-out loop walks these");

/// A cursor that moved and is not in the log. Stale once the cursor is gone or was written.
struct Waiting {
    user: UserKey,
    device: DeviceKey,
    conversation: ConversationId,
}

/// See the module. One writer: the shard.
pub struct Home {
    settings: Settings,
    pub(crate) users: Slab<User>,
    /// Only groups, and only those in which somebody is online here.
    listeners: HashMap<ConversationId, Vec<Listener>, FixedState>,
    queue: VecDeque<Waiting>,
    round: Round,
}

impl Home {
    /// Nobody, and room for those whom `settings` allow.
    pub fn new(settings: Settings) -> Self {
        settings.check();
        Self {
            settings,
            users: Slab::new(),
            listeners: HashMap::with_hasher(FixedState::default()),
            queue: VecDeque::new(),
            round: Round::default(),
        }
    }

    /// A device of `user` is online on `session`. The same device has one session: an earlier one
    /// hears nothing more from here on, and is the caller's to close.
    pub fn open_session(
        &mut self,
        user: Speaker<'_>,
        device: DeviceKey,
        session: SessionSlot,
    ) -> Result<Opened, Refusal> {
        let slot = self.enter(user)?;
        let devices_max = self.settings.devices_user_max;
        let found = self.user_mut(slot);
        let replaced = found.session_of(device);
        if replaced.is_none() && found.sessions_count >= devices_max {
            return Err(Refusal::new(ErrorCode::TooLarge, "too many devices are online"));
        }
        let new_device = !found.on_connected(device);
        if let Some(old) = replaced {
            self.unlisten(slot, old);
            self.user_mut(slot).remove_session(old);
        }
        self.user_mut(slot).push_session(device, session);
        let listener = Listener { session, user_index: slot };
        for group in self.users.at(slot).expect("entered above").groups() {
            self.listeners.entry(*group).or_default().push(listener);
        }
        Ok(Opened { replaced, new_device })
    }

    /// The session ended. One that was replaced is gone already, which is well.
    pub fn close_session(&mut self, user: UserKey, session: SessionSlot) {
        let Some(slot) = self.users.slot_of(user.0) else { return };
        if self.user_mut(slot).sessions().contains(&session) {
            self.unlisten(slot, session);
            self.user_mut(slot).remove_session(session);
            self.forget_if_idle(slot);
        }
    }

    /// The sessions of `user`, on all his devices.
    pub fn sessions(&self, user: UserKey) -> &[SessionSlot] {
        self.users.find(user.0).map_or(&[], User::sessions)
    }

    /// Sessions here that want the messages of `group`, in no order that means anything.
    pub fn listeners(&self, group: ConversationId) -> &[Listener] {
        self.listeners.get(&group).map_or(&[], |listeners| listeners)
    }

    /// The user whom a listener's `user_index` means.
    pub fn user_at(&self, user_index: u32) -> Option<Speaker<'_>> {
        Some(self.users.at(user_index)?.speaker())
    }

    /// The name behind a key, of a user who is known here.
    pub fn name(&self, user: UserKey) -> Option<&str> {
        Some(&self.users.find(user.0)?.name)
    }

    /// Users who are online, in a conversation, or have a device with cursors.
    pub fn users_count(&self) -> usize {
        self.users.count()
    }

    /// An owner says that `user` is in `conversation`. Returns whether that is news.
    pub fn joined(
        &mut self,
        user: Speaker<'_>,
        conversation: ConversationId,
    ) -> Result<bool, Refusal> {
        let slot = self.enter(user)?;
        let conversations_max = self.settings.conversations_user_max as usize;
        let conversations = &mut self.user_mut(slot).cold_mut().conversations;
        let Err(index) = conversations.binary_search(&conversation) else { return Ok(false) };
        if conversations.len() >= conversations_max {
            return Err(Refusal::new(ErrorCode::TooLarge, "the user is in too many conversations"));
        }
        conversations.insert(index, conversation);
        if conversation.is_group() {
            let sessions = self.users.at(slot).expect("entered above").sessions();
            if !sessions.is_empty() {
                let listener =
                    |session: &SessionSlot| Listener { session: *session, user_index: slot };
                let listeners = self.listeners.entry(conversation).or_default();
                listeners.extend(sessions.iter().map(listener));
            }
        }
        Ok(true)
    }

    /// An owner says that `user` is in `conversation` no more. Its cursors go with it.
    pub fn left(&mut self, user: UserKey, conversation: ConversationId) {
        let Some(slot) = self.users.slot_of(user.0) else { return };
        let cold = self.user_mut(slot).cold_mut();
        if let Ok(index) = cold.conversations.binary_search(&conversation) {
            cold.conversations.remove(index);
        }
        for device in &mut cold.devices {
            if let Ok(index) = device.index_of(conversation) {
                device.cursors.remove(index);
            }
        }
        cold.devices.retain(|device| !device.cursors.is_empty());
        if let Some(listeners) = self.listeners.get_mut(&conversation) {
            listeners.retain(|listener| listener.user_index != slot);
            if listeners.is_empty() {
                self.listeners.remove(&conversation);
            }
        }
        self.forget_if_idle(slot);
    }

    /// Conversations of `user` with ids above `after`, in order of id, at most `limit`.
    pub fn conversations(
        &self,
        user: UserKey,
        after: ConversationId,
        limit: usize,
    ) -> impl ExactSizeIterator<Item = ConversationId> + '_ {
        let all = self.users.find(user.0).map_or(&[][..], User::conversations);
        let rest = &all[all.partition_point(|id| *id <= after)..];
        rest[..rest.len().min(limit)].iter().copied()
    }

    /// Whether `user` is in `conversation`, as far as owners have announced.
    pub fn is_in(&self, user: UserKey, conversation: ConversationId) -> bool {
        let found = self.users.find(user.0);
        found.is_some_and(|user| user.conversations().binary_search(&conversation).is_ok())
    }

    /// What this device has acknowledged of `conversation`; none if it never has.
    pub fn cursor(
        &self,
        user: UserKey,
        device: DeviceKey,
        conversation: ConversationId,
    ) -> Option<Sequence> {
        let device = self.users.find(user.0)?.devices().iter().find(|it| it.key == device)?;
        Some(device.cursors[device.index_of(conversation).ok()?].up_to())
    }

    /// A device has come as far as `up_to`, which the caller has held against what it was sent.
    /// Returns whether that is news. While too many cursors wait to be written it is not taken:
    /// the device will receive those messages again, which it can tell by their sequence.
    pub fn move_cursor(
        &mut self,
        user: UserKey,
        device: DeviceKey,
        conversation: ConversationId,
        up_to: Sequence,
    ) -> bool {
        let Some(slot) = self.users.slot_of(user.0) else { return false };
        if self.queue.len() >= self.settings.cursors_pending_max as usize {
            return false;
        }
        let Some(cursor) = self.raise_cursor(slot, device, conversation, up_to) else {
            return false;
        };
        if cursor.up_to & WAITING_BIT == 0 {
            cursor.up_to |= WAITING_BIT;
            self.queue.push_back(Waiting { user, device, conversation });
        }
        true
    }

    /// How many moved cursors wait to be written.
    pub fn cursors_waiting_count(&self) -> usize {
        self.queue.len()
    }

    /// Brings out cursors that moved, at most `budget` of them, a round of them every
    /// `cursor_flush_ms`. `out` appends the record and says whether the log took it; what was not
    /// taken comes again. Returns how many came out.
    pub fn flush_cursors(
        &mut self,
        now: Millis,
        budget: usize,
        mut out: impl FnMut(Record<'_>) -> bool,
    ) -> usize {
        let interval_ms = self.settings.cursor_flush_ms;
        let due_count = self.round.begin(now, interval_ms, self.queue.len());
        let mut flushed_count = 0;
        for _ in 0..due_count.min(budget) {
            let waiting = self.queue.front().expect("a round counts what waits");
            if let Some(user) = self.users.find_mut(waiting.user.0)
                && let Some(cursor) = user.cursor(waiting.device, waiting.conversation)
                && cursor.up_to & WAITING_BIT != 0
            {
                let record = Record::DeviceCursor(DeviceCursor {
                    user: user.speaker(),
                    device: waiting.device,
                    conversation: waiting.conversation,
                    up_to: cursor.up_to(),
                });
                if !out(record) {
                    return flushed_count;
                }
                let cursor = user.cursor_mut(waiting.device, waiting.conversation);
                cursor.expect("it was just found").up_to &= !WAITING_BIT;
                flushed_count += 1;
            }
            self.queue.pop_front();
            self.round.on_done();
        }
        flushed_count
    }

    /// Takes a record of the log into the state, in recovery. The largest cursor holds.
    pub fn apply(&mut self, record: &Record<'_>) {
        let Record::DeviceCursor(cursor) = record else {
            unreachable!("an owner's record goes to the owner")
        };
        self.restore_cursor(cursor.user, cursor.device, cursor.conversation, cursor.up_to);
    }

    /// Recovery is over and all owners have announced: cursors of conversations that a user has
    /// left since are dropped, and users of whom nothing is left are forgotten.
    pub fn settle(&mut self) {
        for slot in 0..self.users.slots_end() {
            let Some(user) = self.users.at_mut(slot) else { continue };
            if let Some(cold) = &mut user.cold {
                let Cold { conversations, devices, .. } = &mut **cold;
                for device in devices.iter_mut() {
                    let is_in =
                        |it: &Cursor| conversations.binary_search(&it.conversation()).is_ok();
                    device.cursors.retain(is_in);
                }
                devices.retain(|device| !device.cursors.is_empty());
            }
            self.forget_if_idle(slot);
        }
    }

    /// As far as an entry or a record says. Recovery takes every user that the log has.
    pub(crate) fn restore_cursor(
        &mut self,
        user: Speaker<'_>,
        device: DeviceKey,
        conversation: ConversationId,
        up_to: Sequence,
    ) {
        let slot = match self.users.slot_of(user.user.0) {
            Some(slot) => slot,
            None => self.users.insert(User::named(user)),
        };
        self.raise_cursor(slot, device, conversation, Sequence(up_to.0 & !WAITING_BIT));
    }

    /// The cursor after it was raised; none if it stood there already.
    fn raise_cursor(
        &mut self,
        slot: u32,
        device: DeviceKey,
        conversation: ConversationId,
        up_to: Sequence,
    ) -> Option<&mut Cursor> {
        if up_to == Sequence(0) || up_to.0 & WAITING_BIT != 0 {
            return None;
        }
        let devices_max = self.settings.devices_user_max as usize;
        let cursors_max = self.settings.conversations_user_max as usize;
        let device = self.user_mut(slot).device_mut(device, devices_max);
        let index = match device.index_of(conversation) {
            Ok(index) if device.cursors[index].up_to() >= up_to => return None,
            Ok(index) => {
                let cursor = &mut device.cursors[index];
                cursor.up_to = up_to.0 | (cursor.up_to & WAITING_BIT);
                index
            }
            Err(_) if device.cursors.len() >= cursors_max => return None,
            Err(index) => {
                device.cursors.insert(index, Cursor::new(conversation, up_to));
                index
            }
        };
        Some(&mut device.cursors[index])
    }

    /// The slot of `user`, who is made if he is not known.
    fn enter(&mut self, user: Speaker<'_>) -> Result<u32, Refusal> {
        if let Some(slot) = self.users.slot_of(user.user.0) {
            return Ok(slot);
        }
        if self.users.count() >= self.settings.users_max as usize {
            return Err(Refusal::new(ErrorCode::Busy, "this server has no room for another user"));
        }
        Ok(self.users.insert(User::named(user)))
    }

    fn user_mut(&mut self, slot: u32) -> &mut User {
        self.users.at_mut(slot).expect("a slot that was just looked up is taken")
    }

    /// Takes a session of the user in `slot` out of all groups' listeners.
    fn unlisten(&mut self, slot: u32, session: SessionSlot) {
        let user = self.users.at(slot).expect("the caller looked him up");
        for group in user.groups() {
            let listeners = self.listeners.get_mut(group).expect("a session listens to its groups");
            let index = listeners.iter().position(|listener| listener.session == session);
            listeners.swap_remove(index.expect("a session listens to its groups"));
            if listeners.is_empty() {
                self.listeners.remove(group);
            }
        }
    }

    fn forget_if_idle(&mut self, slot: u32) {
        let user = self.user_mut(slot);
        let is_bare = user.cold.as_ref().is_none_or(|cold| cold.is_empty());
        if is_bare {
            user.cold = None;
            if user.sessions_count == 0 {
                self.users.remove(slot);
            }
        }
    }
}

impl Keyed for User {
    fn key(&self) -> u128 {
        self.key.0
    }
}

impl User {
    fn named(user: Speaker<'_>) -> Self {
        Self {
            key: user.user,
            name: user.name.into(),
            cold: None,
            device: DeviceKey::default(),
            session: [SessionSlot::default()],
            sessions_count: 0,
        }
    }

    pub(crate) fn speaker(&self) -> Speaker<'_> {
        Speaker { user: self.key, name: &self.name }
    }

    fn cold_mut(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    fn sessions(&self) -> &[SessionSlot] {
        match &self.cold {
            Some(cold) if self.sessions_count > 1 => &cold.sessions,
            _ => &self.session[..self.sessions_count as usize],
        }
    }

    fn session_of(&self, device: DeviceKey) -> Option<SessionSlot> {
        let devices = match &self.cold {
            Some(cold) if self.sessions_count > 1 => &*cold.session_devices,
            _ => std::slice::from_ref(&self.device),
        };
        let mut online = self.sessions().iter().zip(devices);
        Some(*online.find(|(_, other)| **other == device)?.0)
    }

    fn push_session(&mut self, device: DeviceKey, session: SessionSlot) {
        let only = (self.session[0], self.device);
        match self.sessions_count {
            0 => (self.session, self.device) = ([session], device),
            count => {
                let cold = self.cold_mut();
                if count == 1 {
                    cold.sessions.push(only.0);
                    cold.session_devices.push(only.1);
                }
                cold.sessions.push(session);
                cold.session_devices.push(device);
            }
        }
        self.sessions_count += 1;
    }

    /// Of two sessions, the one that stays moves back into the user.
    fn remove_session(&mut self, session: SessionSlot) {
        if self.sessions_count > 1 {
            let cold = self.cold.as_mut().expect("several sessions stand there");
            let index = cold.sessions.iter().position(|it| *it == session);
            let index = index.expect("the caller saw it");
            cold.sessions.remove(index);
            cold.session_devices.remove(index);
            if let ([session], [device]) = (&*cold.sessions, &*cold.session_devices) {
                (self.session, self.device) = ([*session], *device);
                (cold.sessions, cold.session_devices) = Default::default();
            }
        }
        self.sessions_count -= 1;
    }

    fn conversations(&self) -> &[ConversationId] {
        self.cold.as_ref().map_or(&[], |cold| &cold.conversations)
    }

    /// Ids of groups are above all others.
    fn groups(&self) -> &[ConversationId] {
        let all = self.conversations();
        &all[all.partition_point(|id| !id.is_group())..]
    }

    pub(crate) fn devices(&self) -> &[Device] {
        self.cold.as_ref().map_or(&[], |cold| &cold.devices)
    }

    /// Moves a known device behind all others; returns whether it is known.
    fn on_connected(&mut self, device: DeviceKey) -> bool {
        let Some(cold) = &mut self.cold else { return false };
        let Some(index) = cold.devices.iter().position(|it| it.key == device) else {
            return false;
        };
        cold.devices[index..].rotate_left(1);
        true
    }

    /// The device, which is made if need be; then one that is not online, and of those the one
    /// that connected longest ago, gives way when there are too many.
    fn device_mut(&mut self, key: DeviceKey, devices_max: usize) -> &mut Device {
        if let Some(index) = self.devices().iter().position(|it| it.key == key) {
            return &mut self.cold_mut().devices[index];
        }
        if self.devices().len() >= devices_max {
            let idle = |device: &Device| self.session_of(device.key).is_none();
            let index = self.devices().iter().position(idle).unwrap_or(0);
            self.cold_mut().devices.remove(index);
        }
        let devices = &mut self.cold_mut().devices;
        devices.push(Device { key, cursors: Vec::new() });
        devices.last_mut().expect("it was just pushed")
    }

    fn cursor(&self, device: DeviceKey, conversation: ConversationId) -> Option<Cursor> {
        let device = self.devices().iter().find(|it| it.key == device)?;
        Some(device.cursors[device.index_of(conversation).ok()?])
    }

    fn cursor_mut(
        &mut self,
        device: DeviceKey,
        conversation: ConversationId,
    ) -> Option<&mut Cursor> {
        let devices = &mut self.cold.as_mut()?.devices;
        let device = devices.iter_mut().find(|it| it.key == device)?;
        let index = device.index_of(conversation).ok()?;
        Some(&mut device.cursors[index])
    }
}

impl Cold {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.conversations.is_empty() && self.devices.is_empty()
    }
}

impl Device {
    fn index_of(&self, conversation: ConversationId) -> Result<usize, usize> {
        self.cursors.binary_search_by_key(&conversation, Cursor::conversation)
    }
}

impl Cursor {
    fn new(conversation: ConversationId, up_to: Sequence) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
        let halves = [(conversation.0 >> 64) as u64, conversation.0 as u64];
        Self { conversation: halves, up_to: up_to.0 }
    }

    pub(crate) fn conversation(&self) -> ConversationId {
        let [high, low] = self.conversation;
        ConversationId((u128::from(high) << 64) | u128::from(low))
    }

    pub(crate) fn up_to(&self) -> Sequence {
        Sequence(self.up_to & !WAITING_BIT)
    }
}
