//! Shared bytes: one encoded frame, sent by several shards without copying it.
//!
//! ```text
//!   block    ┌────────┬────────┬──────────┬───────────────────────┐
//!            │ span 1 │ span 2 │ span 3   │ free, the pool's only │
//!            └────────┴────────┴──────────┴───────────────────────┘
//!            0                       committed               capacity
//! ```
//!
//! A block belongs to one pool, which alone writes, and only above `committed`. A [`Span`] keeps
//! its block alive wherever it travels; its bytes neither move nor change until the last
//! reference is gone, so the kernel may read them for as long as a span is held. References are
//! counted and come home by themselves: when the pool needs a block it looks for one that only
//! the pool still holds. One small span therefore pins a whole block, and what bounds memory is
//! the number of blocks.

#![expect(unsafe_code, reason = "readers see a block's lower part while its owner writes above")]

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What fills a block before it is used again, if the pool was told to: see
/// [`BlockPool::set_poison`].
const POISON: u8 = 0xDD;

/// Blocks looked at before a pool below its bound takes a fresh one instead.
const RECYCLE_LOOKS_MAX: usize = 8;

/// How much a pool may hold. All of it is spent on demand and kept for good.
#[derive(Clone, Copy, Debug)]
pub struct BlockLimits {
    /// Bytes of an ordinary block.
    pub block_bytes: u32,
    /// The most ordinary blocks.
    pub blocks_count_max: u32,
    /// Bytes of a block for what no ordinary block can hold: at least the largest frame.
    pub large_block_bytes: u32,
    /// The most large blocks; zero if every frame fits an ordinary one.
    pub large_blocks_count_max: u32,
}

/// Every block is still read by someone. The caller must shed or wait until readers are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFull;

impl fmt::Display for PoolFull {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("every block is in use")
    }
}

impl std::error::Error for PoolFull {}

/// One shard's blocks: the only place that writes them.
pub struct BlockPool {
    ordinary: Shelf,
    large: Shelf,
    poison: bool,
}

impl BlockPool {
    /// An empty pool. The first ordinary block is allocated here, the others on demand.
    pub fn new(limits: BlockLimits) -> Self {
        assert!(limits.block_bytes > 0 && limits.blocks_count_max > 0);
        let mut ordinary = Shelf::new(limits.block_bytes, limits.blocks_count_max);
        ordinary.current = Some(OwnedBlock::new(limits.block_bytes));
        let has_large = limits.large_blocks_count_max > 0;
        assert!(!has_large || limits.large_block_bytes > limits.block_bytes);
        let large_block_bytes = if has_large { limits.large_block_bytes } else { 0 };
        let large = Shelf::new(large_block_bytes, limits.large_blocks_count_max);
        Self { ordinary, large, poison: false }
    }

    /// Appends what `write` puts at the front of `bytes_max` bytes of arbitrary content, and
    /// returns how long it is. Spans of one block follow each other without a gap.
    #[inline]
    pub fn append(
        &mut self,
        bytes_max: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<Span, PoolFull> {
        let poison = self.poison;
        Ok(self.shelf(bytes_max).with_room(bytes_max, poison)?.append(bytes_max, write))
    }

    /// Appends `parts` as one span.
    #[inline]
    pub fn append_parts(&mut self, parts: &[&[u8]]) -> Result<Span, PoolFull> {
        let bytes_count = parts.iter().map(|part| part.len()).sum();
        self.append(bytes_count, |area| {
            let mut rest = area;
            for part in parts {
                let (target, after) = rest.split_at_mut(part.len());
                target.copy_from_slice(part);
                rest = after;
            }
            bytes_count
        })
    }

    /// If set, a block is filled with `0xDD` before it is used again, so that whoever reads it
    /// without holding a span is found out. For simulators and tests.
    pub fn set_poison(&mut self, poison: bool) {
        self.poison = poison;
    }

    /// Blocks allocated, of both sizes: they are never given back.
    pub fn blocks_count(&self) -> usize {
        self.ordinary.blocks_count() + self.large.blocks_count()
    }

    /// Blocks that someone outside the pool still reads, of both sizes. It looks at every block.
    pub fn blocks_in_use_count(&self) -> usize {
        self.ordinary.in_use_count() + self.large.in_use_count()
    }

    #[inline]
    fn shelf(&mut self, bytes_max: usize) -> &mut Shelf {
        if bytes_max <= self.ordinary.block_bytes as usize {
            return &mut self.ordinary;
        }
        assert!(
            bytes_max <= self.large.block_bytes as usize,
            "{bytes_max} bytes are more than the largest block of the plan"
        );
        &mut self.large
    }
}

/// All blocks of one size.
struct Shelf {
    block_bytes: u32,
    blocks_count_max: u32,
    /// Where the next append goes. `None` only before the first one.
    current: Option<OwnedBlock>,
    /// Blocks that had no room left, oldest first; most are idle, some are still read.
    resting: VecDeque<OwnedBlock>,
}

impl Shelf {
    fn new(block_bytes: u32, blocks_count_max: u32) -> Self {
        let resting = VecDeque::with_capacity(blocks_count_max as usize);
        Self { block_bytes, blocks_count_max, current: None, resting }
    }

    /// The block for the next `bytes_max` bytes.
    #[inline]
    fn with_room(&mut self, bytes_max: usize, poison: bool) -> Result<&mut OwnedBlock, PoolFull> {
        let has_room = self.current.as_ref().is_some_and(|block| block.free_bytes() >= bytes_max);
        if !has_room {
            self.turn_over(poison)?;
        }
        let block = self.current.as_mut().expect("there was room, or turning over made it");
        debug_assert!(block.free_bytes() >= bytes_max);
        Ok(block)
    }

    /// Makes an empty block the current one. On an error nothing changes, so that a smaller
    /// append may still find room.
    #[cold]
    fn turn_over(&mut self, poison: bool) -> Result<(), PoolFull> {
        // The block at hand is the warmest: readers that keep up let us stay in it for good.
        if let Some(current) = &mut self.current
            && current.recycle(poison)
        {
            return Ok(());
        }
        let is_at_bound = self.blocks_count() >= self.blocks_count_max as usize;
        let looks_max = if is_at_bound { self.resting.len() } else { RECYCLE_LOOKS_MAX };
        let next = match self.take_idle(looks_max, poison) {
            Some(block) => block,
            None if is_at_bound => return Err(PoolFull),
            None => OwnedBlock::new(self.block_bytes),
        };
        self.resting.extend(self.current.replace(next));
        Ok(())
    }

    /// Looks for an idle block from the oldest on. A busy one goes to the back, so that a stalled
    /// reader's block is not looked at each time.
    fn take_idle(&mut self, looks_max: usize, poison: bool) -> Option<OwnedBlock> {
        for _ in 0..looks_max.min(self.resting.len()) {
            let mut block = self.resting.pop_front()?;
            if block.recycle(poison) {
                return Some(block);
            }
            self.resting.push_back(block);
        }
        None
    }

    fn blocks_count(&self) -> usize {
        self.resting.len() + usize::from(self.current.is_some())
    }

    fn in_use_count(&self) -> usize {
        self.current.iter().chain(&self.resting).filter(|block| block.is_shared()).count()
    }
}

/// The right to write a block. There is one for each block, and it is never cloned.
struct OwnedBlock {
    block: Arc<Block>,
    /// The value of `block.committed`, which only we store.
    committed: u32,
}

impl OwnedBlock {
    fn new(bytes_count: u32) -> Self {
        let bytes = Box::into_raw(vec![0_u8; bytes_count as usize].into_boxed_slice());
        // SAFETY: the pointer comes from `into_raw` just above, and `UnsafeCell<u8>` has the
        // same layout as `u8`.
        let area = unsafe { Box::from_raw(bytes as *mut [UnsafeCell<u8>]) };
        Self { block: Arc::new(Block { committed: AtomicU32::new(0), area }), committed: 0 }
    }

    #[inline]
    fn free_bytes(&self) -> usize {
        self.block.area.len() - self.committed as usize
    }

    #[inline]
    fn append(&mut self, bytes_max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Span {
        let start = self.committed as usize;
        let free = &self.block.area[start..start + bytes_max];
        // SAFETY: the range lies above `committed`, and `Block::bytes` hands out nothing above
        // it, so no reader has a reference into it; `&mut self` of the only `OwnedBlock` makes
        // us the only writer. The pointer comes from a slice of cells of this very range.
        let target = unsafe {
            std::slice::from_raw_parts_mut(UnsafeCell::raw_get(free.as_ptr()), free.len())
        };
        let bytes_count = write(target);
        assert!(bytes_count <= bytes_max, "wrote {bytes_count} bytes of at most {bytes_max}");
        let end = u32::try_from(start + bytes_count).expect("a block is shorter than 4 GiB");
        // Release: whoever sees this border sees the bytes below it.
        self.block.committed.store(end, Ordering::Release);
        let block = BlockRef(Arc::clone(&self.block));
        let start = self.committed;
        self.committed = end;
        Span { block, start, end }
    }

    /// Empties the block, if nobody reads it any more.
    fn recycle(&mut self, poison: bool) -> bool {
        // `get_mut` reads the count with Acquire: all that the last reader did happened before.
        let Some(block) = Arc::get_mut(&mut self.block) else { return false };
        *block.committed.get_mut() = 0;
        self.committed = 0;
        if poison {
            block.area.iter_mut().for_each(|byte| *byte.get_mut() = POISON);
        }
        true
    }

    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.block) > 1
    }
}

/// A fixed area of bytes; what lies below `committed` is final.
struct Block {
    committed: AtomicU32,
    area: Box<[UnsafeCell<u8>]>,
}

// SAFETY: bytes below `committed` are only read, and were written before the Release store of
// `committed` that readers load with Acquire. Bytes above are touched by the one `OwnedBlock`
// alone. `committed` falls only in `OwnedBlock::recycle`, which holds `&mut Block`.
unsafe impl Sync for Block {}

/// A counted reference to a block. It may travel to any thread; the block stays as it is below
/// its committed border while one lives.
#[derive(Clone)]
pub struct BlockRef(Arc<Block>);

impl BlockRef {
    /// The bytes from `start` to `end`, which must be committed.
    #[inline]
    pub fn bytes(&self, start: u32, end: u32) -> &[u8] {
        // Acquire: the bytes below this border are written.
        let committed = self.0.committed.load(Ordering::Acquire);
        assert!(start <= end && end <= committed, "{start}..{end} of {committed} committed bytes");
        let range = &self.0.area[start as usize..end as usize];
        // SAFETY: the range lies below `committed`, so nobody writes it while `self` keeps the
        // block from being recycled, and the slice borrows `self`.
        unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(range.as_ptr()), range.len()) }
    }

    /// True if both refer to one block.
    #[inline]
    pub fn same_block(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "BlockRef({:p})", Arc::as_ptr(&self.0))
    }
}

/// A range of committed bytes, with the reference that keeps them.
#[derive(Clone, Debug)]
pub struct Span {
    block: BlockRef,
    start: u32,
    end: u32,
}

impl Span {
    /// The bytes. They stay where they are until the last span of their block is dropped.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.block.bytes(self.start, self.end)
    }

    /// How many bytes there are.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// True if there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The block they lie in.
    pub fn block(&self) -> &BlockRef {
        &self.block
    }

    /// The offset of the first byte in its block.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The offset after the last byte.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// True if `next` begins where this ends, so that one send can carry both.
    #[inline]
    pub fn is_followed_by(&self, next: &Self) -> bool {
        self.end == next.start && self.block.same_block(&next.block)
    }

    /// Takes in the neighbour that follows, or gives it back if it lies elsewhere.
    #[inline]
    pub fn join(&mut self, next: Self) -> Result<(), Self> {
        if !self.is_followed_by(&next) {
            return Err(next);
        }
        self.end = next.end;
        Ok(())
    }

    /// Leaves out the first `bytes_count` bytes: what a short send has already carried.
    #[inline]
    pub fn advance(&mut self, bytes_count: usize) {
        assert!(bytes_count <= self.len(), "advanced {bytes_count} of {} bytes", self.len());
        self.start += u32::try_from(bytes_count).expect("it is no more than the span's length");
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn pool(blocks_count_max: u32) -> BlockPool {
        BlockPool::new(BlockLimits {
            block_bytes: 64,
            blocks_count_max,
            large_block_bytes: 256,
            large_blocks_count_max: 1,
        })
    }

    fn append(pool: &mut BlockPool, byte: u8, bytes_count: usize) -> Result<Span, PoolFull> {
        pool.append_parts(&[&vec![byte; bytes_count]])
    }

    #[test]
    fn appends_follow_each_other_without_a_gap() {
        let mut pool = pool(2);
        let mut first = pool.append_parts(&[b"head", b"", b"body"]).unwrap();
        let second = pool
            .append(40, |area| {
                area[..3].copy_from_slice(b"abc");
                3
            })
            .unwrap();
        let third = append(&mut pool, b'x', 1).unwrap();
        assert_eq!((first.start(), first.end()), (0, 8));
        assert_eq!((second.start(), second.end()), (8, 11));
        assert!(first.is_followed_by(&second) && !first.is_followed_by(&third));
        let third = first.join(third).unwrap_err();
        first.join(second).unwrap();
        first.join(third).unwrap();
        assert_eq!(first.bytes(), b"headbodyabcx");
        first.advance(8);
        assert_eq!(first.bytes(), b"abcx");
    }

    #[test]
    fn neighbours_in_number_but_not_in_block_do_not_join() {
        let mut pool = pool(2);
        let mut full = append(&mut pool, 1, 64).unwrap();
        let next = append(&mut pool, 2, 64).unwrap();
        assert!(!full.block().same_block(next.block()));
        full.advance(64);
        assert!(full.join(next).is_err());
    }

    #[test]
    fn what_a_span_holds_is_not_overwritten() {
        let mut pool = pool(4);
        pool.set_poison(true);
        let held = append(&mut pool, 7, 10).unwrap();
        for byte in 0..200 {
            let span = append(&mut pool, byte, 20).unwrap();
            assert_eq!(span.bytes(), [byte; 20]);
            assert_eq!(held.bytes(), [7; 10]);
        }
        assert_eq!(pool.blocks_count(), 2);
    }

    #[test]
    fn a_pool_at_its_bound_refuses_until_a_reader_is_done() {
        let mut pool = pool(3);
        let mut held: Vec<Span> = (0..3).map(|_| append(&mut pool, 1, 60).unwrap()).collect();
        assert_eq!(append(&mut pool, 2, 60).unwrap_err(), PoolFull);
        assert_eq!(pool.blocks_in_use_count(), 3);
        // What is left of the last block is still good for a smaller one.
        let small = append(&mut pool, 3, 4).unwrap();
        assert!(held[2].is_followed_by(&small));
        held.remove(1);
        let span = append(&mut pool, 4, 60).unwrap();
        assert_eq!((span.start(), span.bytes()), (0, &[4; 60][..]));
        assert_eq!(append(&mut pool, 5, 60).unwrap_err(), PoolFull);
        assert_eq!(pool.blocks_count(), 3);
    }

    #[test]
    fn readers_that_keep_up_need_one_block() {
        let mut pool = pool(8);
        let first = append(&mut pool, 0, 30).unwrap().block().clone();
        let place = first.bytes(0, 1).as_ptr() as usize;
        drop(first);
        for byte in 0..100 {
            append(&mut pool, byte, 30).unwrap();
        }
        assert_eq!(pool.blocks_count(), 1);
        pool.append(34, |_| 0).unwrap();
        let again = append(&mut pool, 1, 64).unwrap();
        assert_eq!(again.bytes().as_ptr() as usize, place);
    }

    #[test]
    fn a_recycled_block_is_poisoned_when_asked() {
        let mut pool = pool(1);
        pool.set_poison(true);
        append(&mut pool, 1, 64).unwrap();
        let span = pool.append(64, |area| area.len()).unwrap();
        assert_eq!(span.bytes(), [POISON; 64]);
    }

    #[test]
    fn an_oversized_frame_gets_a_large_block() {
        let mut pool = pool(1);
        let before = append(&mut pool, 1, 10).unwrap();
        let large = append(&mut pool, 2, 200).unwrap();
        let after = append(&mut pool, 3, 10).unwrap();
        assert_eq!(large.bytes(), [2; 200]);
        assert!(before.is_followed_by(&after));
        assert_eq!(append(&mut pool, 4, 200).unwrap_err(), PoolFull);
        drop(large);
        assert_eq!(append(&mut pool, 4, 200).unwrap().bytes(), [4; 200]);
        assert_eq!(pool.blocks_count(), 2);
    }

    #[test]
    #[should_panic(expected = "more than the largest block")]
    fn a_frame_above_the_plan_is_our_error() {
        let _ = append(&mut pool(1), 1, 257);
    }

    #[test]
    #[should_panic(expected = "of 10 committed bytes")]
    fn nobody_reads_above_the_committed_border() {
        let span = append(&mut pool(1), 1, 10).unwrap();
        span.block().bytes(5, 11);
    }

    #[test]
    fn spans_outlive_their_pool() {
        let mut pool = pool(1);
        let span = append(&mut pool, 9, 10).unwrap();
        drop(pool);
        let reader = std::thread::spawn(move || span.bytes().to_vec());
        assert_eq!(reader.join().unwrap(), [9; 10]);
    }

    /// Readers check every byte while the pool recycles under poison as fast as it can.
    #[test]
    fn readers_on_other_threads_never_see_a_byte_change() {
        const ROUNDS_COUNT: u32 = if cfg!(miri) { 100 } else { 20_000 };
        let mut pool = pool(4);
        pool.set_poison(true);
        let (mut senders, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (sender, mut spans) = crate::ring::<(u8, Span)>(8);
            senders.push(sender);
            readers.push(std::thread::spawn(move || {
                let mut seen_count = 0;
                while seen_count < ROUNDS_COUNT {
                    let Some((byte, span)) = spans.pop() else {
                        std::thread::yield_now();
                        continue;
                    };
                    assert!(span.bytes().iter().all(|seen| *seen == byte));
                    seen_count += 1;
                }
            }));
        }
        for round in 0..ROUNDS_COUNT {
            let byte = u8::try_from(round % 200).unwrap();
            let span = loop {
                match append(&mut pool, byte, 1 + round as usize % 30) {
                    Ok(span) => break span,
                    Err(PoolFull) => std::thread::yield_now(),
                }
            };
            for sender in &mut senders {
                while sender.push((byte, span.clone())).is_err() {
                    std::thread::yield_now();
                }
                sender.publish();
            }
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(pool.blocks_count() <= 4);
    }
}
