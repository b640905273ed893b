//! One lane: a bounded ring with one producer and one consumer.
//!
//! ```text
//!            head (consumer's)         tail (producer's)
//!              │                         │        staged, not yet visible
//!   ▢ ▢ ▢ ▢ ▢ [▣ ▣ ▣ ▣ ▣ ▣ ▣ ▣ ▣ ▣ ▣ ▣] [▤ ▤ ▤] ▢ ▢ ▢ ▢
//!   free       published                          free
//! ```
//!
//! Both indices only grow (and wrap at 2^32, a multiple of every capacity); a slot's place is the
//! index under the mask. Each stands on its own cache line and each side keeps the last value it
//! saw of the other's, so a line travels between cores once a batch and not once an item.

#![expect(unsafe_code, reason = "slots are handed from one thread to another by two indices")]

use std::fmt;
use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::atomic::{Arc, AtomicU32, Ordering, UnsafeCell};

/// The largest capacity of a ring: indices must tell a full ring from an empty one.
const CAPACITY_MAX: u32 = 1 << 31;

/// A ring of `capacity` slots, a power of two; the two halves may go to two threads.
pub fn ring<T>(capacity: u32) -> (Producer<T>, Consumer<T>) {
    ring_starting_at(capacity, 0)
}

/// Indices may start anywhere; tests start them just below the wrap.
fn ring_starting_at<T>(capacity: u32, start: u32) -> (Producer<T>, Consumer<T>) {
    assert!(capacity.is_power_of_two(), "a ring's capacity is a power of two, not {capacity}");
    assert!(capacity <= CAPACITY_MAX);
    let ring = Arc::new(Ring {
        tail: CachePadded::new(AtomicU32::new(start)),
        head: CachePadded::new(AtomicU32::new(start)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        mask: capacity - 1,
    });
    let producer =
        Producer { ring: Arc::clone(&ring), tail: start, published: start, head_seen: start };
    (producer, Consumer { ring, head: start, released: start, tail_seen: start })
}

/// The lane is full; here is the item back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the lane is full")
    }
}

impl<T> std::error::Error for Full<T> {}

/// What both halves share.
struct Ring<T> {
    /// Where the producer is: every slot below it, down to `head`, holds an item.
    tail: CachePadded<AtomicU32>,
    /// Where the consumer is: every slot below it is the producer's again.
    head: CachePadded<AtomicU32>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: u32,
}

// SAFETY: a slot is touched by one side at a time. The producer writes only slots outside
// `head..tail` and the consumer reads only slots inside; each hands slots over with a Release
// store of its index that the other reads with Acquire. Items cross threads, hence `T: Send`.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; the ring owns its items and nothing in it is tied to a thread.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, index: u32) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[(index & self.mask) as usize]
    }

    fn capacity(&self) -> u32 {
        self.mask + 1
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Both halves are gone, and each stored its index as it went.
        let tail = self.tail.load(Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: `head..tail` holds items that nobody took, and `&mut self` makes us the
            // only one to see them.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The sending half. Items are staged by [`push`](Self::push) and become visible together by
/// [`publish`](Self::publish), or when the half is dropped.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    /// The next slot to fill; ahead of `published` by what is staged.
    tail: u32,
    /// The value of `ring.tail`, which only we store.
    published: u32,
    /// The consumer's head when we last looked. It may be further by now, never behind.
    head_seen: u32,
}

impl<T> Producer<T> {
    /// Stages an item, or gives it back when every slot is taken.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), Full<T>> {
        if !self.has_room(1) {
            return Err(Full(item));
        }
        // SAFETY: the slot is outside `head..tail`: `has_room` saw with Acquire that the
        // consumer is done with it, the stored tail still excludes it, and `&mut self` makes us
        // the only producer.
        self.ring.slot(self.tail).with_mut(|slot| unsafe {
            (*slot).write(item);
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Makes all staged items visible. True if there were any.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.tail == self.published {
            return false;
        }
        // Release: the consumer that sees this tail sees the items below it.
        self.ring.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// True if `count` more items can be pushed. Looks at the consumer only when what was last
    /// seen of it does not suffice.
    #[inline]
    pub fn has_room(&mut self, count: u32) -> bool {
        let capacity = self.ring.capacity();
        if capacity - self.tail.wrapping_sub(self.head_seen) >= count {
            return true;
        }
        self.free_count() >= count
    }

    /// How many items can be pushed, by a fresh look at the consumer.
    pub fn free_count(&mut self) -> u32 {
        // Acquire: the consumer's reads of the slots below this head are over.
        self.head_seen = self.ring.head.load(Ordering::Acquire);
        self.ring.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Items staged or published that the consumer has not released, by a fresh look.
    pub fn depth(&self) -> u32 {
        self.tail.wrapping_sub(self.ring.head.load(Ordering::Relaxed))
    }

    /// True if items are staged and not yet visible.
    pub fn has_staged(&self) -> bool {
        self.tail != self.published
    }

    /// True if the consumer is gone: what is pushed will never be read.
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.ring) == 1
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // What is staged must be counted in, or nobody would ever drop it.
        self.publish();
    }
}

/// The receiving half. Slots go back to the producer when a batch is drained, at
/// [`release`](Self::release), or when the half is dropped.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    /// The next slot to read; ahead of `released` by what was taken of the current batch.
    head: u32,
    /// The value of `ring.head`, which only we store.
    released: u32,
    /// The producer's tail when we last looked: the end of the current batch.
    tail_seen: u32,
}

impl<T> Consumer<T> {
    /// Takes the oldest visible item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen && self.is_empty() {
            return None;
        }
        // SAFETY: the slot is inside `head..tail`: `is_empty` saw with Acquire a tail above it,
        // so the item is written; we read it once, since `head` moves on and is stored before
        // the producer may write here again, or the ring may drop what is left.
        let item = self.ring.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        if self.head == self.tail_seen {
            self.release();
        }
        Some(item)
    }

    /// True if nothing is visible, by a fresh look at the producer.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        // Acquire: items below this tail are written.
        self.tail_seen = self.ring.tail.load(Ordering::Acquire);
        self.head == self.tail_seen
    }

    /// Gives the slots of all taken items back to the producer.
    #[inline]
    pub fn release(&mut self) {
        if self.head != self.released {
            // Release: our reads of the slots below this head are over.
            self.ring.head.store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }

    /// Visible items that were not taken, by a fresh look.
    pub fn depth(&self) -> u32 {
        self.ring.tail.load(Ordering::Relaxed).wrapping_sub(self.head)
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        // What was taken must be counted out, or the ring would drop it a second time.
        self.release();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc as Counted;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn staged_items_are_invisible_until_published() {
        let (mut producer, mut consumer) = ring(4);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        assert!(producer.has_staged());
        assert_eq!(consumer.pop(), None);
        assert!(producer.publish());
        assert!(!producer.publish());
        assert_eq!((consumer.pop(), consumer.pop(), consumer.pop()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (mut producer, mut consumer) = ring(2);
        producer.push("a").unwrap();
        producer.push("b").unwrap();
        assert_eq!(producer.push("c"), Err(Full("c")));
        producer.publish();
        assert_eq!(consumer.pop(), Some("a"));
        // The batch is not drained, so the slot is not yet the producer's.
        assert_eq!(producer.free_count(), 0);
        consumer.release();
        assert_eq!(producer.push("c"), Ok(()));
        assert_eq!(producer.free_count(), 0);
    }

    #[test]
    fn a_drained_batch_gives_its_slots_back_by_itself() {
        let (mut producer, mut consumer) = ring(2);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        producer.publish();
        consumer.pop();
        assert_eq!(producer.free_count(), 0);
        consumer.pop();
        assert_eq!(producer.free_count(), 2);
    }

    #[test]
    fn every_item_is_dropped_once_wherever_it_was() {
        let item = Counted::new(());
        let (mut producer, mut consumer) = ring(8);
        for _ in 0..4 {
            producer.push(Counted::clone(&item)).unwrap();
        }
        producer.publish();
        let taken = consumer.pop(); // of a batch that is never drained
        producer.push(Counted::clone(&item)).unwrap(); // and one is never published
        assert_eq!(Counted::strong_count(&item), 6);
        drop(consumer);
        assert!(producer.is_abandoned());
        drop(producer);
        assert_eq!(Counted::strong_count(&item), 2);
        drop(taken);
        assert_eq!(Counted::strong_count(&item), 1);
    }

    #[test]
    fn order_is_kept_between_two_threads() {
        const ITEMS_COUNT: u32 = if cfg!(miri) { 200 } else { 100_000 };
        let (mut producer, mut consumer) = ring(16);
        let sender = std::thread::spawn(move || {
            for item in 0..ITEMS_COUNT {
                while producer.push(item).is_err() {
                    producer.publish();
                    std::thread::yield_now();
                }
                if item % 3 == 0 {
                    producer.publish();
                }
            }
        });
        for expected in 0..ITEMS_COUNT {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(item, expected);
        }
        sender.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push,
        Publish,
        Pop,
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Push),
            1 => Just(Step::Publish),
            3 => Just(Step::Pop),
            1 => Just(Step::Release),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The oracle keeps the batch rule too: what is taken frees slots only in batches.
        #[test]
        fn a_ring_behaves_as_a_queue(
            steps in steps(),
            capacity_log2 in 0u32..4,
            start in prop_oneof![Just(0u32), u32::MAX - 20..=u32::MAX],
        ) {
            let capacity = 1 << capacity_log2;
            let (mut producer, mut consumer) = ring_starting_at(capacity, start);
            let (mut staged, mut visible) = (VecDeque::new(), VecDeque::new());
            let (mut next, mut unreleased, mut batch) = (0u64, 0usize, 0usize);
            for step in steps {
                match step {
                    Step::Push => {
                        let taken = staged.len() + visible.len() + unreleased;
                        let fits = taken < capacity as usize;
                        prop_assert_eq!(producer.push(next).is_ok(), fits);
                        if fits { staged.push_back(next); }
                        next += 1;
                    }
                    Step::Publish => {
                        prop_assert_eq!(producer.publish(), !staged.is_empty());
                        visible.append(&mut staged);
                    }
                    Step::Pop => {
                        if batch == 0 { batch = visible.len(); }
                        prop_assert_eq!(consumer.pop(), visible.pop_front());
                        if batch > 0 {
                            batch -= 1;
                            unreleased = if batch == 0 { 0 } else { unreleased + 1 };
                        }
                    }
                    Step::Release => {
                        consumer.release();
                        unreleased = 0;
                    }
                }
                prop_assert_eq!(consumer.depth() as usize, visible.len());
                prop_assert_eq!(producer.has_staged(), !staged.is_empty());
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use crate::atomic::model_within;

    #[test]
    fn loom_items_arrive_whole_and_in_order() {
        model_within(3, || {
            let (mut producer, mut consumer) = ring(2);
            let sender = loom::thread::spawn(move || {
                for item in 0..3_u32 {
                    while producer.push(Box::new(item)).is_err() {
                        producer.publish();
                        loom::thread::yield_now();
                    }
                    producer.publish();
                }
            });
            let mut expected = 0;
            while expected < 3 {
                match consumer.pop() {
                    Some(item) => {
                        assert_eq!(*item, expected);
                        expected += 1;
                    }
                    None => loom::thread::yield_now(),
                }
            }
            sender.join().unwrap();
        });
    }

    #[test]
    fn loom_what_nobody_took_is_dropped_once() {
        loom::model(|| {
            let item = Arc::new(());
            let (mut producer, mut consumer) = ring(2);
            let sent = Arc::clone(&item);
            let sender = loom::thread::spawn(move || {
                producer.push(Arc::clone(&sent)).unwrap();
                producer.publish();
                producer.push(sent).unwrap();
            });
            drop(consumer.pop());
            drop(consumer);
            sender.join().unwrap();
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }
}
