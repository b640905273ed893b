//! Every bound and delay of this crate, named where it is chosen.

use wire::IdKey;

/// Monotonic milliseconds, handed in by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// Milliseconds since 1970 as the wall shows them; may step back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallMillis(pub u64);

/// What the plan decides for one shard. No default: whoever makes one names every field, or takes
/// [`Settings::standard`] and says what differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Makes ids from names; the same on every shard of a data folder.
    pub ids: IdKey,
    /// Shards of this process: where a user's home is follows from it.
    pub shards_count: u16,
    /// Most members a group may have.
    pub group_members_max: u32,
    /// Largest group in which each receipt is told to each member; above it, counts to the sender.
    pub receipts_group_max: u32,
    /// How long moved receipts are gathered before they are written.
    pub receipt_flush_ms: u64,
    /// Most members whose moved receipts may wait to be written.
    pub receipts_pending_max: u32,
    /// How long a retry is recognised.
    pub dedup_window_ms: u64,
    /// Most messages remembered for that; the oldest goes first. A power of two.
    pub dedup_entries_max: u32,
    /// Most conversations a shard may own.
    pub conversations_max: u32,
    /// Most users a shard may be home to.
    pub users_max: u32,
    /// Most conversations a user may be in.
    pub conversations_user_max: u32,
    /// Most devices of a user that are remembered, and most that are online at once.
    pub devices_user_max: u32,
    /// How long moved device cursors are gathered before they are written.
    pub cursor_flush_ms: u64,
    /// Most device cursors that may wait to be written.
    pub cursors_pending_max: u32,
}

impl Settings {
    /// The bounds of an ordinary server.
    pub fn standard(ids: IdKey, shards_count: u16) -> Self {
        Self {
            ids,
            shards_count,
            group_members_max: 1000,
            receipts_group_max: 32,
            receipt_flush_ms: 100,
            receipts_pending_max: 1 << 20,
            dedup_window_ms: 24 * 60 * 60 * 1000,
            dedup_entries_max: 1 << 20,
            conversations_max: 1 << 26,
            users_max: 1 << 26,
            conversations_user_max: 10_000,
            devices_user_max: 16,
            cursor_flush_ms: 1000,
            cursors_pending_max: 1 << 20,
        }
    }

    /// Refuses sizes the tables cannot have; a wrong plan must not reach the first message.
    pub(crate) fn check(&self) {
        assert!(self.shards_count > 0, "there is at least one shard");
        assert!(self.dedup_entries_max.is_power_of_two() && self.dedup_entries_max <= 1 << 30);
        assert!(self.group_members_max >= 2 && self.group_members_max < 1 << 20);
        assert!(self.conversations_max < 1 << 31 && self.users_max < 1 << 31);
        assert!(self.receipts_pending_max < 1 << 31 && self.cursors_pending_max < 1 << 31);
        assert!(self.devices_user_max >= 1);
    }
}
