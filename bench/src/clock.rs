//! The generator's clock: nanoseconds since the process first asked.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds of the monotonic clock, from an origin of this process.
pub type Nanos = u64;

/// Nanoseconds of a second.
pub const SECOND: Nanos = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub const MILLISECOND: Nanos = 1_000_000;

/// Nanoseconds of a microsecond.
pub const MICROSECOND: Nanos = 1_000;

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The time. Never zero, so that zero can mean "not yet".
#[expect(clippy::disallowed_methods, reason = "a load generator lives by the clock")]
pub fn now() -> Nanos {
    let elapsed = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).expect("centuries") + 1
}

/// Waits without a ring, for the threads that have none.
#[expect(clippy::disallowed_methods, reason = "the coordinator only watches")]
pub fn pause(nanos: Nanos) {
    std::thread::sleep(Duration::from_nanos(nanos));
}
