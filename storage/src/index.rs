//! Where an entity's records are: the end of its chain, and every sixteenth record of it.
//!
//! Rebuilt at start, never trusted from the disk without its records' own checksums.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use wire::{Partition, Position};

/// One in so many positions of a chain is kept in memory: half a byte a record, and no record is
/// more than fifteen hops from a place that is known.
pub const MARK_EVERY: u64 = 16;

/// What is known of one entity's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Whose they are.
    pub entity: u128,
    /// Who owns it.
    pub partition: Partition,
    /// How many there are, and so the sequence of the last.
    pub count: u64,
    /// Where the last is.
    pub last: Position,
    /// Where the records numbered 16, 32, 48 and so on are.
    pub(crate) marks: Vec<Position>,
}

/// All chains of a shard.
#[derive(Clone, Debug)]
pub struct Index {
    /// Places in `chains`, by the hash of their entity.
    table: HashTable<u32>,
    /// Never removed from, so that a snapshot can walk it in bites while it grows.
    chains: Vec<Chain>,
    hasher: FixedState,
}

/// A record that cannot follow what the index has seen of its entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap;

impl Index {
    pub(crate) fn new() -> Self {
        Self { table: HashTable::new(), chains: Vec::new(), hasher: FixedState::with_seed(0) }
    }

    /// What is known of `entity`; none if it has no records.
    pub fn chain(&self, entity: u128) -> Option<&Chain> {
        let chains = &self.chains;
        let is_it = |&slot: &u32| chains[slot as usize].entity == entity;
        self.table.find(self.hasher.hash_one(entity), is_it).map(|&slot| &chains[slot as usize])
    }

    /// All chains, in the order in which their entities were first seen.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Notes record `sequence` of `entity` at `position` and returns where the one before it is.
    pub(crate) fn append(
        &mut self,
        (entity, partition): (u128, Partition),
        sequence: u64,
        position: Position,
    ) -> Position {
        let chain = self.chain_mut(entity, partition);
        assert_eq!(sequence, chain.count + 1, "a chain is dense");
        chain.push(position)
    }

    /// As `append`, of a record read at start: one that a snapshot has included is skipped.
    pub(crate) fn replay(
        &mut self,
        (entity, partition): (u128, Partition),
        sequence: u64,
        position: Position,
    ) -> Result<(), Gap> {
        let chain = self.chain_mut(entity, partition);
        if sequence > chain.count {
            if sequence != chain.count + 1 {
                return Err(Gap);
            }
            chain.push(position);
        }
        Ok(())
    }

    /// Takes a part of a chain from a snapshot: its end, and the marks from `marks_start` on.
    pub(crate) fn restore(&mut self, part: &Chain, marks_start: usize) -> Result<(), Gap> {
        let chain = self.chain_mut(part.entity, part.partition);
        if chain.marks.len() != marks_start || part.count < chain.count {
            return Err(Gap);
        }
        (chain.count, chain.last) = (part.count, part.last);
        chain.marks.extend_from_slice(&part.marks);
        Ok(())
    }

    /// Whether every chain has the marks that its count calls for.
    pub(crate) fn is_whole(&self) -> bool {
        self.chains.iter().all(|chain| chain.marks.len() as u64 == chain.count / MARK_EVERY)
    }

    fn chain_mut(&mut self, entity: u128, partition: Partition) -> &mut Chain {
        let Self { table, chains, hasher } = self;
        let hash = hasher.hash_one(entity);
        let slot = match table.find(hash, |&slot| chains[slot as usize].entity == entity) {
            Some(&slot) => slot,
            None => {
                let slot = u32::try_from(chains.len()).expect("memory ends before slots do");
                let (last, marks) = (Position(0), Vec::new());
                chains.push(Chain { entity, partition, count: 0, last, marks });
                let rehash = |&slot: &u32| hasher.hash_one(chains[slot as usize].entity);
                table.insert_unique(hash, slot, rehash);
                slot
            }
        };
        &mut chains[slot as usize]
    }
}

impl Chain {
    fn push(&mut self, position: Position) -> Position {
        self.count += 1;
        if self.count.is_multiple_of(MARK_EVERY) {
            self.marks.push(position);
        }
        std::mem::replace(&mut self.last, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sixteenth_record_is_marked_and_each_knows_the_one_before() {
        let mut index = Index::new();
        let mut previous = Position(0);
        for sequence in 1..=40 {
            let position = Position::new(0, sequence * 64);
            assert_eq!(index.append((7, Partition(7)), sequence, position), previous);
            previous = position;
        }
        let chain = index.chain(7).unwrap();
        assert_eq!(chain.marks, [Position::new(0, 16 * 64), Position::new(0, 32 * 64)]);
        assert_eq!((chain.count, chain.last), (40, previous));
        assert!(index.is_whole() && index.chain(8).is_none());
    }

    #[test]
    fn a_replayed_record_counts_once_and_a_hole_is_refused() {
        let mut index = Index::new();
        let who = (7, Partition(7));
        for sequence in [1, 2, 1, 2, 3] {
            index.replay(who, sequence, Position::new(0, sequence * 64)).unwrap();
        }
        assert_eq!(index.chain(7).unwrap().count, 3);
        assert_eq!(index.replay(who, 5, Position::new(0, 512)), Err(Gap));
    }
}
