//! What happened, in one number: two runs of a seed are the same run if it is the same.

use std::fmt::Arguments;

const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;

/// FNV-1a over everything that was noted.
pub(crate) struct Trace {
    hash: u128,
    is_shown: bool,
}

impl Trace {
    pub(crate) fn new(is_shown: bool) -> Self {
        Self { hash: BASIS, is_shown }
    }

    pub(crate) fn hash(&self) -> u128 {
        self.hash
    }

    pub(crate) fn note(&mut self, words: &[u64]) {
        for word in words {
            self.bytes(&word.to_le_bytes());
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }

    /// For people who follow one seed; hashed nowhere, so that looking changes nothing.
    pub(crate) fn say(&self, time: u64, line: Arguments<'_>) {
        if self.is_shown {
            println!("{:>12.3} ms  {line}", time as f64 / 1000.0);
        }
    }
}
