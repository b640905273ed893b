//! Answers about conversations as a whole: a user's list of them, gathered line by line from their
//! owners, and a group's members.

use crate::metrics::Refusal;
use crate::net::Net;
use crate::parcel::{Described, Line, Origin, Request};
use crate::shard::Shard;
use std::collections::BTreeMap;
use wire::fixed::ListConversations;
use wire::limits::MEMBERS_PER_FRAME_MAX;
use wire::table::{ConversationEntry, GroupHead, Member};
use wire::{ConversationId, ErrorCode, Kind, Sequence, UserKey};

/// A list being gathered; a session has at most one.
struct Gathering {
    origin: Origin,
    lines: Vec<(ConversationId, Option<Line>)>,
    missing_count: usize,
    has_more: bool,
}

/// Lists being gathered, by connection.
#[derive(Default)]
pub(crate) struct Roster(BTreeMap<u32, Gathering>);

impl Shard {
    pub(crate) fn begin_list(&mut self, connection: u32, reference: u64, ask: ListConversations) {
        let origin = self.origin(connection, reference);
        let busy = self.roster.0.get(&connection).is_some_and(|it| is_waiting(&self.net, it));
        if busy {
            let text = "a list is being gathered: wait for it";
            return self.answer_error(origin, (ErrorCode::Conflict, 0), text);
        }
        let user = self.net.connections[connection as usize].live().expect("a session").user;
        let count = usize::from(ask.count_max());
        let mut ids: Vec<_> = self.home.conversations(user, ask.after, count + 1).collect();
        let has_more = ids.len() > count;
        ids.truncate(count);
        let lines: Vec<_> = ids.iter().map(|id| (*id, None)).collect();
        let gathering = Gathering { origin, missing_count: lines.len(), lines, has_more };
        self.roster.0.insert(connection, gathering);
        if ids.is_empty() {
            return self.finish_list(connection);
        }
        for conversation in ids {
            let owner = conversation.partition().shard(self.me.shards_count);
            if owner == self.me.shard {
                let described = self.describe(origin, user, conversation);
                self.on_described(described);
            } else if self
                .port
                .send_request(owner, Request::Describe { origin, user, conversation })
                .is_err()
            {
                self.roster.0.remove(&connection);
                return self.answer_busy(origin, Refusal::RingFull);
            }
        }
    }

    /// On the owner: one line, as `user` sees it. None where he is no member any more.
    pub(crate) fn describe(
        &self,
        origin: Origin,
        user: UserKey,
        conversation: ConversationId,
    ) -> Described {
        let line = self.owner.describe(conversation, user).ok().map(|summary| Line {
            name: summary.name.map(Into::into),
            peer: summary.peer.map(Into::into),
            last_sequence: summary.last_sequence,
            unread: summary.unread,
            delivered: summary.delivered,
            read: summary.read,
        });
        Described { origin, conversation, line }
    }

    pub(crate) fn on_described(&mut self, described: Described) {
        let Described { origin, conversation, line } = described;
        let Some(gathering) = self.roster.0.get_mut(&origin.connection) else { return };
        if gathering.origin != origin {
            return;
        }
        let found = gathering.lines.binary_search_by_key(&conversation, |(id, _)| *id);
        let Ok(index) = found else { return };
        gathering.lines[index].1 = line;
        gathering.missing_count -= 1;
        if gathering.missing_count == 0 {
            self.finish_list(origin.connection);
        }
    }

    fn finish_list(&mut self, connection: u32) {
        let gathering = self.roster.0.remove(&connection).expect("it was being gathered");
        let Gathering { origin, lines, has_more, .. } = gathering;
        let lines = || lines.iter().filter_map(|(id, line)| Some((*id, line.as_ref()?)));
        let total_unread = lines().map(|(_, line)| line.unread).sum();
        let entries = lines().map(|(conversation, line)| ConversationEntry {
            conversation,
            name: line.name.as_deref(),
            peer: line.peer.as_deref(),
            last_sequence: line.last_sequence,
            unread: line.unread,
            delivered: line.delivered,
            read: line.read,
        });
        let body = self.tables.conversations(entries, has_more, total_unread);
        if let Some(connection) = self.net.find(&origin) {
            self.net.send(connection, Kind::Conversations, origin.reference, [body, b"", b""]);
        }
    }

    /// A group's name and a slice of its members, for a member, once what it tells is durable.
    pub(crate) fn answer_group(
        &mut self,
        origin: Origin,
        user: UserKey,
        group: ConversationId,
        from: u32,
    ) {
        if let Err(refusal) = self.owner.visible(group, user) {
            return self.answer_error(origin, (refusal.code, 0), refusal.text);
        }
        let found = self.owner.conversation(group).expect("it is visible");
        let Some(name) = found.name() else {
            let text = "a direct conversation has no members to list";
            return self.answer_error(origin, (ErrorCode::Unsupported, 0), text);
        };
        let head = GroupHead {
            group,
            name,
            members_count: u32::try_from(found.members_count()).expect("bounded by the settings"),
            from,
            last_sequence: self.owner.durable_sequence(group).unwrap_or(Sequence(0)),
        };
        let members = self.owner.members(group, from as usize, MEMBERS_PER_FRAME_MAX);
        let members = members.map(|it| Member { user: it.speaker.name, role: it.role });
        let body = self.tables.group(&head, members);
        match self.net.encode(Kind::Group, origin.reference, [body, b"", b""]) {
            Ok(span) => self.answer_when_durable(origin, span),
            Err(_) => self.answer_busy(origin, Refusal::CommitWindow),
        }
    }
}

fn is_waiting(net: &Net, gathering: &Gathering) -> bool {
    net.find(&gathering.origin).is_some()
}
