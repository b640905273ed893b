//! The manifest: which logs a data folder has, and the key of its ids. A few lines of text with a
//! checksum, so that a person can read it and a copy can be compared by eye.
//!
//! ```text
//! ringmain 1
//! id_key 00112233445566778899aabbccddeeff
//! partitions 4096
//! epoch 1 shards 4 first_log 0
//! epoch 2 shards 2 first_log 4
//! crc32c 1f2e3d4c
//! ```

use crate::record::Salt;
use crate::segment::Identity;
use std::fmt::Write;
use wire::{PARTITIONS_COUNT, ShardId};

/// A time in which the shard count stayed the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// From 1, dense.
    pub number: u32,
    /// How many shards, and so logs, it had.
    pub shards_count: u16,
    /// The log of its shard 0; those of the others follow.
    pub first_log: u16,
}

/// What a data folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What names are hashed with.
    pub id_key: [u8; 16],
    /// Oldest first, at least one.
    pub epochs: Vec<Epoch>,
}

impl Epoch {
    /// The log of `shard` in this epoch.
    pub fn log(&self, shard: ShardId) -> u16 {
        assert!(shard.0 < self.shards_count);
        self.first_log + shard.0
    }
}

impl Manifest {
    /// The epoch that is written in.
    pub fn newest(&self) -> &Epoch {
        self.epochs.last().expect("a manifest has an epoch")
    }

    /// Adds an epoch of `shards_count`; none if the log ids are spent.
    pub(crate) fn push_epoch(&mut self, shards_count: u16) -> Option<Epoch> {
        assert!(shards_count > 0);
        let (number, first_log) = match self.epochs.last() {
            Some(last) => (last.number + 1, last.first_log.checked_add(last.shards_count)?),
            None => (1, 0),
        };
        first_log.checked_add(shards_count)?;
        let epoch = Epoch { number, shards_count, first_log };
        self.epochs.push(epoch);
        Some(epoch)
    }

    pub(crate) fn identity(&self, epoch: &Epoch, shard: ShardId) -> Identity {
        Identity { log: epoch.log(shard), epoch: epoch.number, salt: Salt::new(self.id_key) }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::from("ringmain 1\nid_key ");
        for byte in self.id_key {
            write!(text, "{byte:02x}").expect("strings take all");
        }
        write!(text, "\npartitions {PARTITIONS_COUNT}\n").expect("strings take all");
        for Epoch { number, shards_count, first_log } in &self.epochs {
            writeln!(text, "epoch {number} shards {shards_count} first_log {first_log}")
                .expect("strings take all");
        }
        let checksum = crc_fast::crc32_iscsi(text.as_bytes());
        writeln!(text, "crc32c {checksum:08x}").expect("strings take all");
        text
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let body = text.get(..text.len().saturating_sub(16)).ok_or("its checksum is wrong")?;
        let checksum = format!("crc32c {:08x}\n", crc_fast::crc32_iscsi(body.as_bytes()));
        if text.get(body.len()..) != Some(&checksum) {
            return Err("its checksum is wrong");
        }
        // The checksum holds, so whatever does not parse was written by another version.
        Self::parse(body).ok_or("it is of a version that this program does not know")
    }

    fn parse(body: &str) -> Option<Self> {
        let rest = body.strip_prefix("ringmain 1\nid_key ")?;
        let (key, rest) = rest.split_once('\n')?;
        let id_key = u128::from_str_radix(key, 16).ok()?;
        let rest = rest.strip_prefix("partitions 4096\n")?;
        let mut manifest = Self { id_key: [0; 16], epochs: Vec::new() };
        for (byte, shift) in manifest.id_key.iter_mut().zip((0..16).rev()) {
            *byte = u8::try_from((id_key >> (8 * shift)) & 0xff).ok()?;
        }
        for line in rest.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let ["epoch", number, "shards", shards_count, "first_log", first_log] = words[..]
            else {
                return None;
            };
            let epoch = Epoch {
                number: number.parse().ok()?,
                shards_count: shards_count.parse().ok().filter(|count| *count > 0)?,
                first_log: first_log.parse().ok()?,
            };
            (manifest.push_epoch(epoch.shards_count)? == epoch).then_some(())?;
        }
        (!manifest.epochs.is_empty()).then_some(manifest)
    }
}

const _: () = assert!(PARTITIONS_COUNT == 4096, "the manifest names the number");

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let mut manifest = Manifest { id_key: *b"\x00sixteen bytes!\xff", epochs: Vec::new() };
        manifest.push_epoch(4).unwrap();
        manifest.push_epoch(2).unwrap();
        manifest
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        assert_eq!(Manifest::decode(sample().encode().as_bytes()), Ok(sample()));
        assert_eq!(sample().newest().log(ShardId(1)), 5);
    }

    #[test]
    fn no_flipped_bit_of_a_manifest_passes() {
        let bytes = sample().encode().into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}
