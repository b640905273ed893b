//! Whether a shard sleeps, so that others ring its bell only when they must.
//!
//! The danger is a lost wake-up: the consumer looks into its rings, sees nothing and falls
//! asleep, while the producer publishes, sees it still awake and does not ring. Each side
//! therefore writes first, then fences, then reads what the other writes:
//!
//! ```text
//!   consumer                          producer
//!   state = ASLEEP                    tail = new tail           (ring publish)
//!   fence(SeqCst)                     fence(SeqCst)             (Published::fence)
//!   tail moved? then AWAKE, go on     state ASLEEP? then AWAKE, ring the bell
//! ```
//!
//! The two fences have one order. Whichever comes second, its side sees the other's write: at
//! least one of them notices. Release and Acquire alone do not give this, since they let a store
//! pass a later load of something else; `loom_without_fences_a_wake_up_is_lost` shows it happen.

use crate::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Evidence that the producer's fence came after what it published.
#[must_use = "the fence is of use only to the doorbells that are looked at after it"]
pub struct Published(());

impl Published {
    /// Orders all that was published before any doorbell looked at with the result. One fence
    /// serves every target of a turn.
    #[inline]
    pub fn fence() -> Self {
        fence(Ordering::SeqCst);
        Self(())
    }
}

/// One shard's flag. It says who must be woken; waking is the driver's work.
pub struct Doorbell {
    state: AtomicU32,
}

impl Doorbell {
    /// A doorbell of a shard that is awake.
    pub fn new() -> Self {
        Self { state: AtomicU32::new(AWAKE) }
    }

    /// Consumer: says that it is about to sleep. It must look into all its rings after this,
    /// and call [`awake`](Self::awake) instead of sleeping if it finds anything.
    pub fn prepare_sleep(&self) {
        self.state.store(ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Consumer: it runs again, whatever woke it.
    pub fn awake(&self) {
        // Acquire pairs with the ringer's Release: a shard that was rung sees at once what it was
        // rung for, and its next ASLEEP comes after every AWAKE that a producer wrote.
        self.state.swap(AWAKE, Ordering::Acquire);
    }

    /// Producer: true if the bell must be rung, which is then this caller's duty alone; others
    /// are told that the shard is already being woken.
    #[inline]
    pub fn must_ring(&self, _after: &Published) -> bool {
        // Mostly the target is awake and a plain load leaves its line shared. The exchange picks
        // one of several producers that see it asleep.
        self.state.load(Ordering::Relaxed) == ASLEEP
            && self
                .state
                .compare_exchange(ASLEEP, AWAKE, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }
}

impl Default for Doorbell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let bell = Doorbell::new();
        assert!(!bell.must_ring(&Published::fence()));
        bell.prepare_sleep();
        assert!(bell.must_ring(&Published::fence()));
        assert!(!bell.must_ring(&Published::fence()));
        bell.prepare_sleep();
        bell.awake();
        assert!(!bell.must_ring(&Published::fence()));
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use loom::sync::Notify;
    use loom::thread;

    use super::*;
    use crate::atomic::{Arc, model_within};
    use crate::ring::{Producer, ring};

    /// One item against one attempt to sleep: whoever sleeps on an item must be rung.
    fn check_nobody_sleeps_on_an_item(fence_both: fn()) {
        loom::model(move || {
            let bell = Arc::new(Doorbell::new());
            let (mut producer, mut consumer) = ring(2);
            let seen = Arc::clone(&bell);
            let sender = thread::spawn(move || {
                producer.push(1_u32).unwrap();
                producer.publish();
                fence_both();
                seen.must_ring(&Published(()))
            });
            bell.state.store(ASLEEP, Ordering::Relaxed);
            fence_both();
            let sleeps = consumer.is_empty();
            let rung = sender.join().unwrap();
            assert!(!sleeps || rung, "a wake-up was lost");
        });
    }

    #[test]
    fn loom_whoever_sleeps_on_an_item_is_rung() {
        check_nobody_sleeps_on_an_item(|| fence(Ordering::SeqCst));
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn loom_without_fences_a_wake_up_is_lost() {
        check_nobody_sleeps_on_an_item(|| ());
    }

    #[test]
    #[should_panic(expected = "a wake-up was lost")]
    fn loom_acquire_and_release_fences_do_not_suffice() {
        check_nobody_sleeps_on_an_item(|| fence(Ordering::AcqRel));
    }

    fn send_and_ring(mut producer: Producer<u32>, bell: &Doorbell, eventfd: &Notify) {
        producer.push(1).unwrap();
        producer.publish();
        if bell.must_ring(&Published::fence()) {
            eventfd.notify();
        }
    }

    /// Loom reports a sleep that nobody ends as a deadlock.
    #[test]
    fn loom_two_producers_never_leave_the_consumer_asleep() {
        model_within(2, || {
            let shared = Arc::new((Doorbell::new(), Notify::new()));
            let mut consumers = Vec::new();
            let mut senders = Vec::new();
            for _ in 0..2 {
                let (producer, consumer) = ring(1);
                consumers.push(consumer);
                let shared = Arc::clone(&shared);
                senders.push(thread::spawn(move || send_and_ring(producer, &shared.0, &shared.1)));
            }
            let mut taken_count = 0;
            while taken_count < 2 {
                taken_count += consumers.iter_mut().filter_map(|consumer| consumer.pop()).count();
                if taken_count == 2 {
                    break;
                }
                shared.0.prepare_sleep();
                if consumers.iter_mut().all(|consumer| consumer.is_empty()) {
                    shared.1.wait();
                }
                shared.0.awake();
            }
            for sender in senders {
                sender.join().unwrap();
            }
        });
    }
}
