//! How fast the ring between two shards moves items from one pinned thread to another.

use bench::clock::{self, SECOND};
use serde::Serialize;

/// Items published at a time, as a shard does once a turn.
const BATCH: u64 = 64;
const CAPACITY: u32 = 4096;

/// What was moved.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Moved {
    pub(crate) items: u64,
    pub(crate) item_bytes: usize,
    pub(crate) seconds: f64,
    pub(crate) items_per_second: f64,
}

/// Moves `items` from a thread on processor `pins[0]` to one on `pins[1]`, and checks them.
pub(crate) fn run(items: u64, pins: [Option<usize>; 2]) -> Moved {
    let (mut producer, mut consumer) = fanout::ring::<[u64; 4]>(CAPACITY);
    let began = clock::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            crate::pin(pins[0]);
            let mut next = 0;
            while next < items {
                let batch = BATCH.min(items - next);
                if !producer.has_room(u32::try_from(batch).expect("at most 64")) {
                    std::hint::spin_loop();
                    continue;
                }
                for number in next..next + batch {
                    producer.push([number; 4]).expect("there was room for a batch");
                }
                producer.publish();
                next += batch;
            }
        });
        scope.spawn(move || {
            crate::pin(pins[1]);
            let mut next = 0;
            while next < items {
                match consumer.pop() {
                    Some(item) => {
                        assert_eq!(item[3], next, "the ring keeps the order");
                        next += 1;
                    }
                    None => std::hint::spin_loop(),
                }
            }
        });
    });
    let seconds = (clock::now() - began) as f64 / SECOND as f64;
    Moved {
        items,
        item_bytes: size_of::<[u64; 4]>(),
        seconds,
        items_per_second: items as f64 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_arrive() {
        assert_eq!(run(10_000, [None, None]).items, 10_000);
    }
}
