//! All sizes and bounds of one shard, in one place. Every field is named by whoever makes one.

use chat::Settings as ChatSettings;

/// What a shard may hold and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections of the shard.
    pub connections_max: u32,
    /// Bytes that one connection may have waiting to be sent.
    pub send_queue_bytes_max: u32,
    /// Blocks of 64 KiB for frames on their way out.
    pub blocks_max: u32,
    /// How long a connection may take to say who it is.
    pub auth_timeout_ms: u64,
    /// How often a client is to be heard; twice that is the end.
    pub heartbeat_interval_ms: u64,
    /// Pages of history read at once.
    pub readers_max: u32,
    /// Questions for pages that may wait for a reader.
    pub page_backlog_max: usize,
    /// Bytes of log between snapshots.
    pub snapshot_every_bytes: u64,
    /// Bytes of log kept; none: all.
    pub retention_bytes: Option<u64>,
    /// How long log is kept; none: for ever.
    pub retention_ms: Option<u64>,
    /// Whether acknowledgements wait for the disk, for the label on them.
    pub durability: storage::Durability,
    /// The bounds of what chat keeps.
    pub chat: ChatSettings,
}
