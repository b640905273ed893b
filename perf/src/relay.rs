//! The raw relay: what a chat server would cost if it had no protocol, no log and no state.
//!
//! It makes the same system calls as the server for the same traffic: a receive, a send to each
//! receiver, and a reply of the acknowledgement's size to the sender. A frame's 16-byte header is
//! read for its length and its reference, which says where the frame goes.

use bench::frames::{RELAY_ACK_BODY_BYTES, RELAY_GROUP};
use bench::outbox::{Outbox, WAITING_BYTES_MAX};
use std::ops::Range;
use wire::limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES};
use wire::{Kind, frame};

/// No slot.
const NOWHERE: u32 = u32::MAX;
/// Most indices a relay keeps.
const INDICES_MAX: u32 = 1 << 20;

/// Which connection is which index, and how indices form groups.
pub(crate) struct Relay {
    slots: Vec<u32>,
    group_members: u32,
    acks: bool,
    pub(crate) forwarded: u64,
    pub(crate) dropped: u64,
}

/// The bytes were no frame that the relay can pass on.
#[derive(Debug)]
pub(crate) struct Misframed;

impl Relay {
    pub(crate) fn new(group_members: u32, acks: bool) -> Self {
        Self { slots: Vec::new(), group_members, acks, forwarded: 0, dropped: 0 }
    }

    /// Passes on the whole frames at the front of `bytes`, and says how many bytes they took.
    pub(crate) fn received(
        &mut self,
        outbox: &mut Outbox,
        slot: u32,
        bytes: &[u8],
    ) -> Result<usize, Misframed> {
        let mut taken = 0;
        while let Some(frame_bytes) = frame_bytes(&bytes[taken..])? {
            let Some(whole) = bytes.get(taken..taken + frame_bytes) else { break };
            self.pass_on(outbox, slot, whole)?;
            taken += frame_bytes;
        }
        Ok(taken)
    }

    fn pass_on(&mut self, outbox: &mut Outbox, slot: u32, whole: &[u8]) -> Result<(), Misframed> {
        let kind = u16::from_le_bytes([whole[4], whole[5]]);
        let reference = u64::from_le_bytes(*whole[8..].first_chunk().ok_or(Misframed)?);
        if kind == Kind::Hello as u16 {
            self.register(slot, reference)?;
        } else if reference & RELAY_GROUP != 0 {
            for target in self.members(reference & !RELAY_GROUP) {
                self.forward(outbox, self.slots[target], slot, whole);
            }
        } else {
            let target = usize::try_from(reference).map_err(|_| Misframed)?;
            let target = self.slots.get(target).copied().unwrap_or(NOWHERE);
            self.forward(outbox, target, NOWHERE, whole);
        }
        if self.acks || kind == Kind::Hello as u16 {
            let mut body = [0; RELAY_ACK_BODY_BYTES];
            let answered = &whole[FRAME_HEADER_BYTES..];
            let bytes = answered.len().min(RELAY_ACK_BODY_BYTES);
            body[..bytes].copy_from_slice(&answered[..bytes]);
            frame::encode(outbox.buffer(slot), Kind::MessageSent, reference, &[&body]);
        }
        Ok(())
    }

    fn register(&mut self, slot: u32, index: u64) -> Result<(), Misframed> {
        let index = u32::try_from(index).ok().filter(|index| *index < INDICES_MAX);
        let index = index.ok_or(Misframed)? as usize;
        if index >= self.slots.len() {
            self.slots.resize(index + 1, NOWHERE);
        }
        self.slots[index] = slot;
        Ok(())
    }

    /// The connection is gone.
    pub(crate) fn forget(&mut self, slot: u32) {
        for known in self.slots.iter_mut().filter(|known| **known == slot) {
            *known = NOWHERE;
        }
    }

    fn members(&self, group: u64) -> Range<usize> {
        let members = self.group_members as usize;
        let first = usize::try_from(group).unwrap_or(usize::MAX).saturating_mul(members);
        let count = self.slots.len();
        first.min(count)..first.saturating_add(members).min(count)
    }

    fn forward(&mut self, outbox: &mut Outbox, target: u32, except: u32, whole: &[u8]) {
        if target == except {
            return;
        }
        if target == NOWHERE || outbox.waiting_bytes(target) > WAITING_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        outbox.buffer(target).extend_from_slice(whole);
        self.forwarded += 1;
    }
}

/// Bytes of the frame at the front; `None` while its header is not complete.
fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, Misframed> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let body_bytes = u32::from_le_bytes(*header.first_chunk().expect("four of sixteen"));
    let frame_bytes = FRAME_HEADER_BYTES + body_bytes as usize;
    if frame_bytes > FRAME_BYTES_MAX { Err(Misframed) } else { Ok(Some(frame_bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(reference: u64, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(&mut out, kind, reference, &[body]);
        out
    }

    fn registered(count: u32) -> (Relay, Outbox) {
        let (mut relay, mut outbox) = (Relay::new(4, false), Outbox::new(8));
        for slot in 0..count {
            let hello = said(u64::from(slot), Kind::Hello, &[]);
            relay.received(&mut outbox, slot, &hello).unwrap();
            outbox.forget(slot);
        }
        (relay, outbox)
    }

    #[test]
    fn a_frame_reaches_the_index_it_names() {
        let (mut relay, mut outbox) = registered(4);
        let whole = said(2, Kind::SendMessage, &[7; 40]);
        let taken = relay.received(&mut outbox, 0, &whole).unwrap();
        assert_eq!((taken, outbox.buffer(2).as_slice()), (whole.len(), whole.as_slice()));
        assert_eq!(outbox.waiting_bytes(0), 0, "no reply was asked for");
    }

    #[test]
    fn a_group_hears_its_members_but_not_their_echo() {
        let (mut relay, mut outbox) = registered(8);
        let whole = said(RELAY_GROUP | 1, Kind::SendMessage, &[7; 40]);
        relay.received(&mut outbox, 5, &whole).unwrap();
        let waiting: Vec<_> = (0..8).map(|slot| outbox.waiting_bytes(slot) / 56).collect();
        assert_eq!(waiting, [0, 0, 0, 0, 1, 0, 1, 1]);
    }

    #[test]
    fn part_of_a_frame_is_left_for_later() {
        let (mut relay, mut outbox) = registered(2);
        let whole = said(1, Kind::SendMessage, &[7; 40]);
        assert_eq!(relay.received(&mut outbox, 0, &whole[..30]).unwrap(), 0);
        assert!(relay.received(&mut outbox, 0, &[0xff; 16]).is_err());
    }
}
