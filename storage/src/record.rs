//! A record's bytes, and when they are believed.
//!
//! ```text
//! 0         4         8      10         12        16
//! | crc32c  | length  | kind | partition | epoch   |
//! 16                                              32
//! | entity                                         |
//! 32                  40                          48
//! | sequence          | hlc                        |
//! 48                  56                          64
//! | previous          | durable                    | body ... | zeros to 8 |
//! ```

use crate::{BLOCK_BYTES, align_up};
use wire::{Hlc, PARTITIONS_COUNT, Partition, Position};

/// No record or pad is longer, whatever its header says.
pub(crate) const LENGTH_MAX: u64 = 64 << 20;
/// Bytes before a record's body.
pub const RECORD_HEADER_BYTES: usize = 64;
/// The first kind that is not the log's own.
pub const KIND_FIRST: u16 = 0x0100;
/// Fills a batch to the end of its last block, or a segment to its end.
pub(crate) const KIND_PAD: u16 = 1;
/// A block of its own that only says how far the log is durable.
pub(crate) const KIND_MARK: u16 = 2;

const RECORD_ALIGN: usize = 8;

/// Whether `kind` ends a batch. Such records have no body but zeros, which the checksum leaves
/// out: a pad may be long, and it is quicker to see that bytes are zero.
pub(crate) fn ends_batch(kind: u16) -> bool {
    kind == KIND_PAD || kind == KIND_MARK
}

/// A record as it is on the disk, borrowed from a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it is.
    pub position: Position,
    /// What it is to those who wrote it.
    pub kind: u16,
    /// Who owns it.
    pub partition: Partition,
    /// Under which epoch it was written.
    pub epoch: u32,
    /// What it is about.
    pub entity: u128,
    /// Its number in the entity's chain, from 1; 0 if it is in none.
    pub sequence: u64,
    /// When it was written.
    pub hlc: Hlc,
    /// The entity's record before it in the chain; 0 if there is none.
    pub previous: Position,
    /// How far the log was durable when it was placed: an offset in its log.
    pub durable: u64,
    /// What was written.
    pub body: &'a [u8],
}

/// Everything of a header that its writer chooses; the checksum is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) kind: u16,
    pub(crate) partition: Partition,
    pub(crate) epoch: u32,
    pub(crate) entity: u128,
    pub(crate) sequence: u64,
    pub(crate) hlc: Hlc,
    pub(crate) previous: Position,
    pub(crate) durable: u64,
}

/// What a record that ends a batch tells the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vouch {
    /// How far the log survives a crash.
    pub(crate) synced: u64,
    /// The stamp of the last record before it.
    pub(crate) hlc: Hlc,
}

/// A secret of the data folder that is mixed into every checksum, so that nobody can write a
/// message whose body passes for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(u64);

impl Salt {
    pub(crate) fn new(id_key: [u8; 16]) -> Self {
        let [low, high] = [0, 8].map(|at| u64_at(&id_key, at));
        Self(scramble(low ^ high.rotate_left(29)))
    }

    /// The checksum of `bytes` if they stand at `place`. Bytes that were valid elsewhere (a stale
    /// or misplaced write) do not pass here.
    pub(crate) fn checksum(self, place: u64, bytes: &[u8]) -> u32 {
        crc_fast::crc32_iscsi(bytes) ^ fold(scramble(place ^ self.0))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half of a scrambled word is wanted")]
fn fold(word: u64) -> u32 {
    word as u32
}

/// Spreads each bit of `word` over all (the finaliser of SplitMix64).
fn scramble(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Bytes a record of `length` takes on the disk.
pub(crate) fn padded(length: u64) -> u64 {
    align_up(length, RECORD_ALIGN as u64)
}

impl Header {
    /// The header of a record that ends a batch.
    pub(crate) fn filler(kind: u16, length: u64, epoch: u32, vouch: Vouch) -> Self {
        assert!(ends_batch(kind));
        Self {
            length: u32::try_from(length).expect("a pad stays within a segment"),
            kind,
            partition: Partition(0),
            epoch,
            entity: 0,
            sequence: 0,
            hlc: vouch.hlc,
            previous: Position(0),
            durable: vouch.synced,
        }
    }

    /// The header's bytes, without a checksum.
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.kind.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.partition.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.entity.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.hlc.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.previous.0.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.durable.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            length: u32_at(bytes, 4),
            kind: u16_at(bytes, 8),
            partition: Partition(u16_at(bytes, 10)),
            epoch: u32_at(bytes, 12),
            entity: u128::from(u64_at(bytes, 16)) | (u128::from(u64_at(bytes, 24)) << 64),
            sequence: u64_at(bytes, 32),
            hlc: Hlc(u64_at(bytes, 40)),
            previous: Position(u64_at(bytes, 48)),
            durable: u64_at(bytes, 56),
        }
    }

    /// Cheap to ask before the checksum: what no header at `position` can be.
    fn is_plausible(&self, position: Position) -> bool {
        self.length as usize >= RECORD_HEADER_BYTES
            && u64::from(self.length) <= LENGTH_MAX
            && (self.kind >= KIND_FIRST || ends_batch(self.kind))
            && self.partition.0 < PARTITIONS_COUNT
            && self.durable <= position.offset()
            && self.durable.is_multiple_of(BLOCK_BYTES)
    }
}

/// Writes the checksum of `record` (header and body) into its first bytes.
pub(crate) fn seal(record: &mut [u8], position: Position, salt: Salt) {
    let covered = covered_bytes(u16_at(record, 8), record.len());
    let checksum = salt.checksum(position.0, &record[4..covered]);
    record[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn covered_bytes(kind: u16, length: usize) -> usize {
    if ends_batch(kind) { RECORD_HEADER_BYTES } else { length }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRecord {
    /// They may be one, but this many are needed to tell.
    Short(usize),
    /// They are none.
    Bad,
}

/// The record that `bytes` starts with, if it was written at `position`.
pub(crate) fn parse(bytes: &[u8], position: Position, salt: Salt) -> Result<Record<'_>, NotRecord> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(NotRecord::Short(RECORD_HEADER_BYTES));
    }
    let header = Header::decode(bytes);
    if !header.is_plausible(position) {
        return Err(NotRecord::Bad);
    }
    let length = header.length as usize;
    let padded = length.next_multiple_of(RECORD_ALIGN);
    if bytes.len() < padded {
        // The header vouches for nothing yet, so a caller bounds what it asks for.
        return Err(NotRecord::Short(padded));
    }
    let covered = covered_bytes(header.kind, length);
    if salt.checksum(position.0, &bytes[4..covered]) != u32_at(bytes, 0)
        || !is_zero(&bytes[covered..padded])
    {
        return Err(NotRecord::Bad);
    }
    Ok(view(&bytes[..length], position))
}

/// The record that is all of `bytes`, which `parse` has believed before.
pub(crate) fn view(bytes: &[u8], position: Position) -> Record<'_> {
    let header = Header::decode(bytes);
    Record {
        position,
        kind: header.kind,
        partition: header.partition,
        epoch: header.epoch,
        entity: header.entity,
        sequence: header.sequence,
        hlc: header.hlc,
        previous: header.previous,
        durable: header.durable,
        body: &bytes[RECORD_HEADER_BYTES..],
    }
}

/// Whether all of `bytes` are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Comparing with these is as fast as memory.
static ZEROS: [u8; 4096] = [0; 4096];

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(position: Position, body: &[u8]) -> Vec<u8> {
        let header = Header {
            length: u32::try_from(RECORD_HEADER_BYTES + body.len()).unwrap(),
            kind: KIND_FIRST,
            partition: Partition(9),
            epoch: 3,
            entity: 1 << 100 | 5,
            sequence: 7,
            hlc: Hlc(11),
            previous: Position::new(2, 4096),
            durable: 4096,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(body);
        seal(&mut bytes, position, Salt::new([1; 16]));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let position = Position::new(4, 8192);
        let bytes = sealed(position, b"hello");
        let record = parse(&bytes, position, Salt::new([1; 16])).unwrap();
        assert_eq!((record.body, record.entity), (&b"hello"[..], 1 << 100 | 5));
        assert_eq!((record.sequence, record.previous), (7, Position::new(2, 4096)));
    }

    #[test]
    fn a_record_is_believed_only_where_and_for_whom_it_was_written() {
        let position = Position::new(4, 8192);
        let bytes = sealed(position, b"hello");
        let salt = Salt::new([1; 16]);
        for other in [Position::new(4, 12288), Position::new(5, 8192)] {
            assert_eq!(parse(&bytes, other, salt), Err(NotRecord::Bad));
        }
        assert_eq!(parse(&bytes, position, Salt::new([2; 16])), Err(NotRecord::Bad));
    }

    #[test]
    fn no_flipped_bit_of_a_record_passes() {
        let position = Position::new(4, 8192);
        let bytes = sealed(position, b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, position, Salt::new([1; 16])).is_err(), "bit {bit}");
        }
    }
}
