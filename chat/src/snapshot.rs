//! Snapshots: the whole state in small entries, taken in bites while the shard goes on working.
//!
//! An entry is as new as the bite that took it, so it can be newer than the record from which the
//! log will be replayed over it. That does no harm: messages are known by their sequence, changes
//! of a group by their number, cursors by being smaller, retries by their key.
//!
//! ```text
//! conversation  version id[16] last[8] durable stamp[8] number[8]
//!               (newest sender[16] name[2+n] if a group)  members
//! members       version id[16]  members        more of the conversation before
//! retry         version key[16] stamp[8] sequence[8]
//! device        version user[16+1+n] device[8]  count[4] of conversation[16] up_to[8]
//! ```
//! Members are a count (4 bytes) and as many user[16+1+n] delivered[8] read[8] spoke[8] after[8]
//! joined[8] role[1].

use crate::bytes::{Reader, put_speaker, put_text, put_u32, put_u64, put_u128};
use crate::command::Speaker;
use crate::conversation::{Conversation, Group, Member};
use crate::dedup::Entry;
use crate::home::Home;
use crate::owner::Owner;
use crate::record::BadRecord;
use wire::table::Role;
use wire::{ConversationId, DeviceKey, Hlc, Partition, Sequence, UserKey};

const VERSION: u8 = 1;
const CONVERSATION: u16 = 0x0200;
const MEMBERS: u16 = 0x0201;
const RETRY: u16 = 0x0202;
const DEVICE: u16 = 0x0280;

const MEMBERS_PER_ENTRY_MAX: usize = 256;
const CURSORS_PER_ENTRY_MAX: usize = 1024;

/// Whether a [`Home`] wrote the snapshot entry of this kind, rather than an [`Owner`].
pub fn is_home_entry(kind: u16) -> bool {
    kind == DEVICE
}

/// Where a walk over all state has come, between two bites of it.
#[derive(Debug, Default)]
pub struct Walk {
    slot: u32,
    /// Members of the conversation in `slot` up to this one are done.
    after: Option<UserKey>,
    ordinal: u64,
    entry: Vec<u8>,
}

impl Walk {
    /// At the beginning.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Owner {
    /// Brings out entries of a snapshot until about `budget` bytes are out. Returns whether more
    /// are to come.
    pub fn snapshot_bite(
        &self,
        walk: &mut Walk,
        budget: usize,
        mut out: impl FnMut(u16, Partition, &[u8]),
    ) -> bool {
        let mut bytes = 0;
        while walk.slot < self.conversations.slots_end() {
            if bytes >= budget {
                return true;
            }
            let conversation = self.conversations.at(walk.slot).expect("a conversation stays");
            let kind = if walk.after.is_none() { CONVERSATION } else { MEMBERS };
            walk.entry.clear();
            conversation.put_head(kind, &mut walk.entry);
            let members = conversation.page_after(walk.after);
            put_members(&mut walk.entry, members);
            out(kind, conversation.id.partition(), &walk.entry);
            bytes += walk.entry.len();
            walk.step(members);
        }
        while walk.ordinal < self.dedup.end() {
            if bytes >= budget {
                return true;
            }
            let (entries, next) = self.dedup.slice(walk.ordinal, 64);
            for entry in entries {
                walk.entry.clear();
                entry.put(&mut walk.entry);
                out(RETRY, entry.partition(), &walk.entry);
                bytes += walk.entry.len();
            }
            walk.ordinal = next;
        }
        false
    }

    /// Says who is in which conversation, for the homes to know it after recovery: about `budget`
    /// members a bite. Returns whether more are to come.
    pub fn announce_bite(
        &self,
        walk: &mut Walk,
        budget: usize,
        mut out: impl FnMut(ConversationId, Speaker<'_>),
    ) -> bool {
        let mut announced_count = 0;
        while walk.slot < self.conversations.slots_end() {
            if announced_count >= budget {
                return true;
            }
            let conversation = self.conversations.at(walk.slot).expect("a conversation stays");
            let members = conversation.page_after(walk.after);
            members.iter().for_each(|member| out(conversation.id, member.speaker()));
            announced_count += members.len().max(1);
            walk.step(members);
        }
        false
    }

    /// Takes an entry of a snapshot into the state, before the log's tail is applied over it.
    pub fn restore(&mut self, kind: u16, bytes: &[u8]) -> Result<(), BadRecord> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION)?;
        match kind {
            CONVERSATION => self.restore_conversation(&mut reader)?,
            MEMBERS => {
                let id = reader.conversation()?;
                let found = self.conversations.find_mut(id.0).ok_or(BadRecord::Value)?;
                found.restore_members(&mut reader, self.settings.shards_count)?;
            }
            RETRY => {
                let key = reader.u128()?;
                let (hlc, sequence) = (Hlc(reader.u64()?), reader.u64()?);
                if sequence >= 1 << 48 {
                    return Err(BadRecord::Value);
                }
                self.clock = self.clock.max(hlc);
                // The partition is for the next snapshot: who filtered this entry knows it.
                let partition = Partition(reader.u16()?);
                self.dedup.insert(Entry::new(key, hlc, partition, Sequence(sequence)));
            }
            _ => return Err(BadRecord::Kind),
        }
        reader.end()
    }

    fn restore_conversation(&mut self, reader: &mut Reader<'_>) -> Result<(), BadRecord> {
        let id = reader.conversation()?;
        let (last, newest) = (Sequence(reader.u64()?), Hlc(reader.u64()?));
        let version = reader.u64()?;
        let group = if id.is_group() {
            let newest_sender = reader.user()?;
            Some(Box::new(Group { newest_sender, ..*Group::named(reader.text()?) }))
        } else {
            None
        };
        self.clock = self.clock.max(newest);
        let mut restored = Conversation { last, newest, version, ..Conversation::empty(id, group) };
        restored.restore_members(reader, self.settings.shards_count)?;
        if !id.is_group() && !(1..=2).contains(&restored.members.len()) {
            return Err(BadRecord::Value);
        }
        // What a log of an earlier epoch left behind is older than this.
        match self.conversations.find_mut(id.0) {
            Some(conversation) => *conversation = restored,
            None => _ = self.conversations.insert(restored),
        }
        Ok(())
    }
}

impl Walk {
    /// Goes on behind `members` of the conversation in `slot`, or to the next one.
    fn step(&mut self, members: &[Member]) {
        self.after = match members.last() {
            Some(last) if members.len() == MEMBERS_PER_ENTRY_MAX => Some(last.user),
            _ => None,
        };
        if self.after.is_none() {
            self.slot += 1;
        }
    }
}

impl Conversation {
    fn put_head(&self, kind: u16, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u128(out, self.id.0);
        if kind == MEMBERS {
            return;
        }
        put_u64(out, self.last.0);
        put_u64(out, self.newest.0);
        put_u64(out, self.version);
        if let Some(group) = &self.group {
            put_u128(out, group.newest_sender.0);
            put_text(out, &group.name);
        }
    }

    fn page_after(&self, after: Option<UserKey>) -> &[Member] {
        let is_done = |member: &Member| after.is_some_and(|after| member.user <= after);
        let rest = &self.members[self.members.partition_point(is_done)..];
        &rest[..rest.len().min(MEMBERS_PER_ENTRY_MAX)]
    }

    fn restore_members(
        &mut self,
        reader: &mut Reader<'_>,
        shards_count: u16,
    ) -> Result<(), BadRecord> {
        for _ in 0..reader.u32()? {
            let speaker = reader.speaker()?;
            let (delivered, read) = (Sequence(reader.u64()?), Sequence(reader.u64()?));
            let (spoke, after) = (Sequence(reader.u64()?), Sequence(reader.u64()?));
            let joined = reader.u64()?;
            let role = Role::from_number(reader.u8()?).ok_or(BadRecord::Value)?;
            // Entries come in the order of members, so each goes to the end.
            if self.members.last().is_some_and(|last| last.user >= speaker.user) {
                return Err(BadRecord::Value);
            }
            let fresh = Member::new(speaker, after, joined);
            let member = Member { delivered, read, spoke, role, ..fresh };
            if let Some(group) = &mut self.group {
                group.on_joined(&member, shards_count);
            }
            self.members.push(member);
        }
        Ok(())
    }
}

fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    put_u32(out, u32::try_from(members.len()).expect("a page is short"));
    for member in members {
        put_speaker(out, member.speaker());
        for sequence in [member.delivered, member.read, member.spoke, member.after] {
            put_u64(out, sequence.0);
        }
        put_u64(out, member.joined);
        out.push(member.role as u8);
    }
}

impl Entry {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_u128(out, self.key);
        put_u64(out, self.hlc.0);
        put_u64(out, self.sequence().0);
        crate::bytes::put_u16(out, self.partition().0);
    }
}

impl Home {
    /// Brings out entries of a snapshot until about `budget` bytes are out. Only what is not
    /// derived: the cursors of devices. Returns whether more are to come.
    pub fn snapshot_bite(
        &self,
        walk: &mut Walk,
        budget: usize,
        mut out: impl FnMut(u16, Partition, &[u8]),
    ) -> bool {
        let mut bytes = 0;
        while walk.slot < self.users.slots_end() {
            if bytes >= budget {
                return true;
            }
            bytes += 16;
            if let Some(user) = self.users.at(walk.slot) {
                for device in user.devices() {
                    for cursors in device.cursors.chunks(CURSORS_PER_ENTRY_MAX) {
                        walk.entry.clear();
                        walk.entry.push(VERSION);
                        put_speaker(&mut walk.entry, user.speaker());
                        put_u64(&mut walk.entry, device.key.0);
                        put_u32(&mut walk.entry, u32::try_from(cursors.len()).expect("a chunk"));
                        for cursor in cursors {
                            put_u128(&mut walk.entry, cursor.conversation().0);
                            put_u64(&mut walk.entry, cursor.up_to().0);
                        }
                        out(DEVICE, user.speaker().user.partition(), &walk.entry);
                        bytes += walk.entry.len();
                    }
                }
            }
            walk.slot += 1;
        }
        false
    }

    /// Takes an entry of a snapshot into the state, before the log's tail is applied over it.
    pub fn restore(&mut self, kind: u16, bytes: &[u8]) -> Result<(), BadRecord> {
        if kind != DEVICE {
            return Err(BadRecord::Kind);
        }
        let mut reader = Reader::new(bytes);
        reader.version(VERSION)?;
        let user = reader.speaker()?;
        let device = DeviceKey(reader.u64()?);
        for _ in 0..reader.u32()? {
            let conversation = reader.conversation()?;
            self.restore_cursor(user, device, conversation, Sequence(reader.u64()?));
        }
        reader.end()
    }
}
