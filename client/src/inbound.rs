//! Frames of the server, each turned into what the session becomes and tells.

use crate::event::{
    Conversation, Event, Group, GroupMember, MembersChange, Message, Receipt, Refusal, Renamed,
};
use crate::session::{Asked, ProtocolError, Reference, Session, State};
use std::time::Duration;
use wire::body::{self, BodyError, Deliver, Page};
use wire::fixed::{Gap, GroupStatus, Sent, SentStatus, SyncDone, Unread};
use wire::handshake::Welcome;
use wire::table::{self, Authenticated, Conversations, GroupUpdated, MembersChanged};
use wire::{CloseReason, Decoded, ErrorCode, Frame, Kind, Sender, frame};

/// The least wait before a message that the server was too busy for is sent again.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(50);

impl Session {
    /// Bytes came from the server. The events they lead to, at most one for each frame in them,
    /// are the caller's to take before it hands in more.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.heard_at = now;
        let mut window = std::mem::take(&mut self.window);
        window.extend_from_slice(bytes);
        let mut taken_bytes = 0;
        let result = loop {
            match frame::decode(&window[taken_bytes..]) {
                Ok(Decoded::Incomplete { .. }) => break Ok(()),
                // Of a later version, and of no use to this one.
                Ok(Decoded::Unknown { bytes, .. }) => taken_bytes += bytes,
                Ok(Decoded::Frame(frame, bytes)) => {
                    if let Err(error) = self.handle_frame(now, &frame) {
                        break Err(error);
                    }
                    taken_bytes += bytes;
                }
                Err(error) => break Err(ProtocolError::Frame(error)),
            }
        };
        window.drain(..taken_bytes);
        self.window = window;
        result
    }

    fn handle_frame(&mut self, now: Duration, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let unexpected = Err(ProtocolError::Unexpected(frame.kind));
        if frame.kind.sender() != Sender::Server {
            return unexpected;
        }
        let outcome = match (self.state, frame.kind) {
            (State::Refused, _) => Ok(()),
            (State::Offline, _) => return unexpected,
            (_, Kind::Error) => self.handle_error(now, frame),
            (_, Kind::GoAway) => self.handle_go_away(frame.body),
            (State::ExpectWelcome, Kind::Welcome) => self.handle_welcome(frame),
            (State::ExpectAuthenticated, Kind::Authenticated) => self.handle_authenticated(frame),
            (State::Live, Kind::Welcome | Kind::Authenticated) => return unexpected,
            (State::Live, _) => self.handle_live(now, frame),
            (State::ExpectWelcome | State::ExpectAuthenticated, _) => return unexpected,
        };
        outcome.map_err(|error| ProtocolError::Body(frame.kind, error))
    }

    fn handle_welcome(&mut self, frame: &Frame<'_>) -> Result<(), BodyError> {
        Welcome::decode(frame.body)?;
        self.asked.remove(&frame.reference);
        self.state = State::ExpectAuthenticated;
        self.events.push_back(Event::Connected);
        Ok(())
    }

    fn handle_authenticated(&mut self, frame: &Frame<'_>) -> Result<(), BodyError> {
        let body = Authenticated::decode(frame.body)?;
        self.asked.clear();
        self.state = State::Live;
        self.attempts_count = 0;
        self.resume_token = body.resume_token.to_vec();
        self.heartbeat_interval = Duration::from_secs(body.heartbeat_interval_s.max(1).into());
        self.events.push_back(Event::Authenticated {
            user: body.user.to_owned(),
            device: body.device.to_owned(),
            resumed: body.resumed,
            server_time_millis: body.server_time_ms,
        });
        Ok(())
    }

    fn handle_go_away(&mut self, body: &[u8]) -> Result<(), BodyError> {
        let (head, token) = body::go_away(body)?;
        let reason = CloseReason::from_number(head.reason());
        let reconnect_after_ms = head.reconnect_after_ms();
        if !token.is_empty() {
            self.resume_token = token.to_vec();
        }
        if reconnect_after_ms > 0 {
            self.reconnect_after = Some(Duration::from_millis(reconnect_after_ms.into()));
        }
        // Coming back would throw out the connection that took our place, and so on for ever.
        if reason == Some(CloseReason::Replaced) {
            self.state = State::Refused;
        }
        self.events.push_back(Event::GoAway { reason, reconnect_after_ms });
        Ok(())
    }

    fn handle_error(&mut self, now: Duration, frame: &Frame<'_>) -> Result<(), BodyError> {
        let (head, text) = body::error(frame.body)?;
        let code = ErrorCode::from_number(head.code());
        let retry_after_ms = head.retry_after_ms();
        let retry_after = Duration::from_millis(retry_after_ms.into());
        let refusal = Refusal { code, text: text.to_owned(), retry_after_ms };
        let is_passing =
            matches!(code, Some(ErrorCode::Busy | ErrorCode::RateLimited | ErrorCode::Internal));
        match self.asked.remove(&frame.reference) {
            Some(Asked::Handshake) if is_passing => {
                self.reconnect_after = Some(retry_after).filter(|wait| !wait.is_zero());
            }
            Some(Asked::Handshake) => {
                self.state = State::Refused;
                self.events.push_back(Event::AuthenticationRefused(refusal));
            }
            Some(Asked::Send(client_message)) if is_passing => {
                let wait = self.ids.jitter(retry_after.max(RETRY_AFTER_MIN) * 2);
                self.outbox.retry(client_message, now + wait);
            }
            Some(Asked::Send(client_message)) => {
                if self.outbox.remove(client_message).is_some() {
                    self.events.push_back(Event::SendRefused { client_message, refusal });
                }
            }
            Some(Asked::Request) | None => {
                let reference = Reference(frame.reference);
                self.events.push_back(Event::Refused { reference, refusal });
            }
        }
        Ok(())
    }

    fn handle_live(&mut self, now: Duration, frame: &Frame<'_>) -> Result<(), BodyError> {
        match frame.kind {
            Kind::HeartbeatAck => {}
            Kind::MessageSent => self.handle_sent(now, frame)?,
            Kind::Deliver => self.receive(now, &Deliver::decode(frame.body)?, false),
            Kind::SyncBatch => {
                self.answered(frame.reference);
                for entry in Page::decode(frame.body)? {
                    self.receive(now, &entry?, true);
                }
            }
            Kind::DeliveryReceipt => {
                let receipt = receipt(frame.body)?;
                self.events.push_back(Event::Delivered(receipt));
            }
            Kind::ReadReceipt => {
                let receipt = receipt(frame.body)?;
                self.events.push_back(Event::Read(receipt));
            }
            Kind::GroupStatus => {
                self.events.push_back(Event::GroupStatus(GroupStatus::decode(frame.body)?));
            }
            Kind::UnreadUpdate => {
                self.events.push_back(Event::Unread(Unread::decode(frame.body)?));
            }
            Kind::Gap => {
                // What can no longer be brought must not be waited for either.
                let gap = Gap::decode(frame.body)?;
                self.cursors.receive(now, gap.conversation, gap.to);
                self.events.push_back(Event::Gap(gap));
            }
            Kind::SyncDone => {
                let conversations_count = SyncDone::decode(frame.body)?.conversations_count;
                self.events.push_back(Event::CaughtUp { conversations_count });
            }
            _ => {
                let reference = self.answered(frame.reference);
                let event = answer(frame.kind, reference, frame.body)?;
                self.events.extend(event);
            }
        }
        Ok(())
    }

    fn answered(&mut self, reference: u64) -> Reference {
        self.asked.remove(&reference);
        Reference(reference)
    }

    fn handle_sent(&mut self, now: Duration, frame: &Frame<'_>) -> Result<(), BodyError> {
        let sent = Sent::decode(frame.body)?;
        self.asked.remove(&frame.reference);
        self.cursors.sent(now, sent.conversation, sent.sequence);
        // A second acknowledgement of one message, after a retry that was not needed, is no news.
        let Some(entry) = self.outbox.remove(sent.client_message) else { return Ok(()) };
        self.events.push_back(Event::Sent {
            client_message: sent.client_message,
            target: entry.target,
            id: sent.message,
            conversation: sent.conversation,
            sequence: sent.sequence,
            is_duplicate: sent.status == SentStatus::Duplicate,
            durability: sent.durability,
        });
        Ok(())
    }

    fn receive(&mut self, now: Duration, deliver: &Deliver<'_>, is_replay: bool) {
        if self.cursors.receive(now, deliver.conversation, deliver.sequence) {
            self.events.push_back(Event::Message { message: message(deliver), is_replay });
        }
    }
}

/// The event of an answer or a notice about a group; nothing for a kind that says nothing here.
fn answer(kind: Kind, reference: Reference, body: &[u8]) -> Result<Option<Event>, BodyError> {
    Ok(Some(match kind {
        Kind::HistoryPage => {
            let page = Page::decode(body)?;
            let (conversation, has_more) = (page.conversation, page.has_more);
            let messages: Result<_, _> = page.map(|entry| Ok(message(&entry?))).collect();
            Event::History { reference, conversation, messages: messages?, has_more }
        }
        Kind::Conversations => {
            let list = Conversations::decode(body)?;
            let entries = list.entries().map(|entry| Conversation {
                id: entry.conversation,
                name: entry.name.map(str::to_owned),
                peer: entry.peer.map(str::to_owned),
                last: entry.last_sequence,
                unread: entry.unread,
                delivered: entry.delivered,
                read: entry.read,
            });
            Event::Conversations {
                reference,
                entries: entries.collect(),
                has_more: list.has_more,
                total_unread: list.total_unread,
            }
        }
        Kind::Group => Event::Group { reference, group: group(body)? },
        Kind::MembersChanged => {
            let changed = MembersChanged::decode(body)?;
            let users = changed.users.iter().map(str::to_owned).collect();
            let (group, change, by) = (changed.group, changed.change, changed.by.to_owned());
            Event::MembersChanged(reference, MembersChange { group, change, by, users })
        }
        Kind::GroupUpdated => {
            let updated = GroupUpdated::decode(body)?;
            let (name, by) = (updated.name.to_owned(), updated.by.to_owned());
            Event::Renamed(reference, Renamed { group: updated.group, name, by })
        }
        _ => return Ok(None),
    }))
}

fn group(body: &[u8]) -> Result<Group, BodyError> {
    let group = table::Group::decode(body)?;
    let member =
        |member: table::Member<'_>| GroupMember { user: member.user.to_owned(), role: member.role };
    Ok(Group {
        id: group.group,
        name: group.name.to_owned(),
        members_count: group.members_count,
        from: group.from,
        members: group.members.iter().map(member).collect(),
        last: group.last_sequence,
    })
}

fn receipt(body: &[u8]) -> Result<Receipt, BodyError> {
    let receipt = body::Receipt::decode(body)?;
    Ok(Receipt {
        conversation: receipt.conversation,
        up_to: receipt.up_to,
        at_millis: receipt.at_millis,
        user: receipt.user.to_owned(),
    })
}

fn message(deliver: &Deliver<'_>) -> Message {
    Message {
        id: deliver.message,
        conversation: deliver.conversation,
        sequence: deliver.sequence,
        message_kind: deliver.message_kind,
        sender: deliver.sender.to_owned(),
        content: deliver.content.to_vec(),
    }
}
