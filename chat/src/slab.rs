//! A table of things that have a 128-bit key and keep their slot while they live.
//!
//! Pages are fixed in size, so that growing moves nothing and a slot is a place that a snapshot's
//! walk can come back to. The table beside them holds only slots: five bytes an entry.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

const PAGE: usize = 256;

/// Something with a key of its own.
pub(crate) trait Keyed {
    fn key(&self) -> u128;
}

/// See the module.
pub(crate) struct Slab<T> {
    pages: Vec<Vec<Option<T>>>,
    /// Slots that were given back; never more than the pages hold.
    free: Vec<u32>,
    slots: HashTable<u32>,
    hasher: FixedState,
}

impl<T: Keyed> Slab<T> {
    pub(crate) fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            slots: HashTable::new(),
            hasher: FixedState::default(),
        }
    }

    /// How many things live here.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Slots that were ever used: where a walk ends.
    pub(crate) fn slots_end(&self) -> u32 {
        let Some(last) = self.pages.last() else { return 0 };
        u32::try_from((self.pages.len() - 1) * PAGE + last.len()).expect("slots fit 32 bits")
    }

    pub(crate) fn slot_of(&self, key: u128) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let is_it = |slot: &u32| self.at(*slot).is_some_and(|thing| thing.key() == key);
        self.slots.find(hash, is_it).copied()
    }

    pub(crate) fn find(&self, key: u128) -> Option<&T> {
        self.at(self.slot_of(key)?)
    }

    pub(crate) fn find_mut(&mut self, key: u128) -> Option<&mut T> {
        let slot = self.slot_of(key)?;
        self.at_mut(slot)
    }

    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        self.pages.get(slot as usize / PAGE)?.get(slot as usize % PAGE)?.as_ref()
    }

    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.pages.get_mut(slot as usize / PAGE)?.get_mut(slot as usize % PAGE)?.as_mut()
    }

    /// Puts `thing` in. Nothing with its key may be here.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        let key = thing.key();
        debug_assert!(self.slot_of(key).is_none(), "a key has one slot");
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.fresh_slot(),
        };
        self.pages[slot as usize / PAGE][slot as usize % PAGE] = Some(thing);
        let pages = &self.pages;
        let hasher = &self.hasher;
        let rehash = |slot: &u32| {
            let thing = pages[*slot as usize / PAGE][*slot as usize % PAGE].as_ref();
            hasher.hash_one(thing.expect("a slot in the table is taken").key())
        };
        self.slots.insert_unique(hasher.hash_one(key), slot, rehash);
        slot
    }

    fn fresh_slot(&mut self) -> u32 {
        let slot = self.slots_end();
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages.last_mut().expect("a page was just pushed").push(None);
        slot
    }

    /// Takes out what `slot` holds.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let thing = self.pages.get_mut(slot as usize / PAGE)?[slot as usize % PAGE].take()?;
        let hash = self.hasher.hash_one(thing.key());
        let entry = self.slots.find_entry(hash, |other| *other == slot);
        entry.expect("what lives has an entry").remove();
        self.free.push(slot);
        Some(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(u128);

    impl Keyed for Thing {
        fn key(&self) -> u128 {
            self.0
        }
    }

    #[test]
    fn a_slot_is_kept_while_its_thing_lives_and_used_again_after() {
        let mut slab = Slab::new();
        let slots: Vec<u32> = (0..1000).map(|key| slab.insert(Thing(key))).collect();
        assert_eq!((slab.count(), slab.slots_end()), (1000, 1000));
        assert_eq!(slab.remove(slots[7]).map(|thing| thing.0), Some(7));
        assert!(slab.find(7).is_none() && slab.at(slots[7]).is_none());
        assert_eq!(slab.slot_of(999), Some(slots[999]));
        assert_eq!(slab.insert(Thing(5000)), slots[7]);
        assert_eq!((slab.count(), slab.slots_end()), (1000, 1000));
        assert!(slab.find_mut(5000).is_some() && slab.at_mut(1000).is_none());
    }
}
