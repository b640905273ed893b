//! What the generator puts into a message: enough to tell loss, repetition and damage from each
//! other, and how long it took.
//!
//! ```text
//! 0       4        8         16             24         32
//! | magic | sender | counter | intended ns  | checksum | filler ...
//! ```
//!
//! The filler is a stretch of a fixed pattern whose start depends on sender and counter, so that
//! checking it is one comparison of memory.

use crate::clock::Nanos;
use std::sync::LazyLock;

/// Bytes in front of the filler.
pub(crate) const STAMP_BYTES: usize = 32;
/// Shortest content: the stamp and a little filler.
pub(crate) const CONTENT_BYTES_MIN: usize = 40;
const MAGIC: u32 = 0x4c43_524f;
const STARTS_COUNT: usize = 256;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = wire::limits::CONTENT_BYTES_MAX + STARTS_COUNT;
    let at = |index: usize| mix(index as u64).to_le_bytes()[0];
    (0..bytes).map(at).collect()
});

/// A well-spread function of `value`; also the digest of a counter.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Index of the sending user.
    pub(crate) sender: u32,
    /// The sender's number for it in this conversation, from 1, without holes.
    pub(crate) counter: u32,
    /// When it should have been sent.
    pub(crate) intended: Nanos,
}

impl Stamp {
    fn checksum(&self) -> u64 {
        let names = (u64::from(self.sender) << 32) | u64::from(self.counter);
        mix(names.wrapping_add(mix(self.intended ^ u64::from(MAGIC))))
    }

    fn filler(&self, bytes: usize) -> &'static [u8] {
        let spread = self.counter.wrapping_mul(31).wrapping_add(self.sender.wrapping_mul(7));
        let start = (spread as usize) % STARTS_COUNT;
        &PATTERN[start..start + bytes]
    }

    /// Appends a content of `bytes` bytes.
    pub(crate) fn put(&self, out: &mut Vec<u8>, bytes: usize) {
        assert!(bytes >= CONTENT_BYTES_MIN, "checked where the run was described");
        let mut stamp = [0; STAMP_BYTES];
        stamp[..4].copy_from_slice(&MAGIC.to_le_bytes());
        stamp[4..8].copy_from_slice(&self.sender.to_le_bytes());
        stamp[8..16].copy_from_slice(&u64::from(self.counter).to_le_bytes());
        stamp[16..24].copy_from_slice(&self.intended.to_le_bytes());
        stamp[24..].copy_from_slice(&self.checksum().to_le_bytes());
        out.extend_from_slice(&stamp);
        out.extend_from_slice(self.filler(bytes - STAMP_BYTES));
    }

    /// Reads a content, and checks every byte of it. `None` means that it was damaged.
    pub(crate) fn read(content: &[u8]) -> Option<Self> {
        let (stamp, filler) = content.split_first_chunk::<STAMP_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes(*stamp[at..].first_chunk().expect("in 32"));
        let long = |at: usize| u64::from_le_bytes(*stamp[at..].first_chunk().expect("in 32"));
        let counter = u32::try_from(long(8)).ok()?;
        let read = Self { sender: word(4), counter, intended: long(16) };
        let is_whole = word(0) == MAGIC
            && long(24) == read.checksum()
            && filler.len() <= wire::limits::CONTENT_BYTES_MAX
            && filler == read.filler(filler.len());
        is_whole.then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read_back() {
        let stamp = Stamp { sender: 7, counter: 300, intended: 123_456_789 };
        let mut content = Vec::new();
        stamp.put(&mut content, 128);
        assert_eq!(content.len(), 128);
        assert_eq!(Stamp::read(&content), Some(stamp));
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let mut content = Vec::new();
        Stamp { sender: 1, counter: 2, intended: 3 }.put(&mut content, 64);
        for at in 0..content.len() {
            content[at] ^= 0x10;
            assert_eq!(Stamp::read(&content), None, "byte {at}");
            content[at] ^= 0x10;
        }
        assert_eq!(Stamp::read(&content[..31]), None);
    }
}
