//! What a run is to do, and whether that is possible.

use crate::Error;
use crate::arrivals::Spread;
use crate::clock::{Nanos, SECOND};
use crate::content::CONTENT_BYTES_MIN;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Connections that share one source address. The kernel hands out some 28,000 ports to each, every
/// other one first, and walks through the taken ones: far below half of them a search is short.
pub const CONNECTIONS_PER_SOURCE: u32 = 8_000;
/// Connections of one ring: as many as the usual limit on files allows, less a few.
pub const CONNECTIONS_PER_RING_MAX: u32 = 19_968;
/// Most rings of one generator.
pub const RINGS_MAX: u16 = 256;

/// Most members of a group: as many as one frame can name.
const MEMBERS_MAX: u32 = 1000;

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Scenario {
    /// Pairs: each sends to the other.
    Direct {
        /// Connections, an even number.
        connections: u32,
    },
    /// Rooms: some members send, all members receive.
    Group {
        /// Rooms.
        groups: u32,
        /// Members of each.
        members: u32,
        /// How many of them send.
        senders: u32,
    },
    /// Nobody sends: connections are made, authenticated and kept.
    Idle {
        /// Connections.
        connections: u32,
    },
}

impl Scenario {
    /// How many connections it needs.
    pub fn connections(self) -> u32 {
        match self {
            Self::Direct { connections } | Self::Idle { connections } => connections,
            Self::Group { groups, members, .. } => groups * members,
        }
    }

    /// Deliveries that one accepted message leads to.
    pub fn deliveries_per_message(self) -> u64 {
        match self {
            Self::Direct { .. } => 1,
            Self::Group { members, .. } => u64::from(members) - 1,
            Self::Idle { .. } => 0,
        }
    }

    /// Users that must stay on one ring.
    pub(crate) fn block(self) -> u32 {
        match self {
            Self::Direct { .. } => 2,
            Self::Group { .. } | Self::Idle { .. } => 1,
        }
    }

    /// Whether user `index` sends.
    pub(crate) fn sends(self, index: u32) -> bool {
        match self {
            Self::Direct { .. } => true,
            Self::Group { members, senders, .. } => index % members < senders,
            Self::Idle { .. } => false,
        }
    }
}

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// The native binary protocol.
    Native,
    /// The raw relay probe.
    Relay,
}

/// A run. All fields are the caller's choice; `Config::new` has usual ones.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Where the server listens.
    pub target: SocketAddr,
    /// Who sends to whom.
    pub scenario: Scenario,
    /// Which protocol.
    pub door: Door,
    /// Messages a second in total.
    pub rate: f64,
    /// How arrivals are spread.
    pub spread: Spread,
    /// Shortest time between two turns that send: what is due meanwhile shares a send, as at a
    /// gateway. It counts as offer lag.
    pub turn: Nanos,
    /// Bytes of content.
    pub content_bytes: usize,
    /// Makes the run repeatable.
    pub seed: u64,
    /// First part of every user id; a run that shall start from nothing needs a new one.
    pub user_prefix: String,
    /// Rings, each on a thread of its own.
    pub rings_count: u16,
    /// Processors to pin the rings to, in turn; none means not pinned.
    pub pins: Vec<usize>,
    /// Left out of the figures.
    pub warmup: Nanos,
    /// The measured part; of `Idle`, how long connections are kept.
    pub duration: Nanos,
    /// Longest wait for what is still under way at the end.
    pub drain: Nanos,
    /// Longest wait for all connections to be ready.
    pub connect_timeout: Nanos,
    /// Offer lag, 99.9th percentile, above which the figures are void.
    pub offer_lag_max: Nanos,
    /// Acknowledge deliveries, coalesced.
    pub receipts: bool,
    /// Come back after a lost connection, and retry what was not acknowledged.
    pub survives_restart: bool,
    /// Allow a target that is not this machine.
    pub any_target: bool,
}

impl Config {
    /// The usual run of `scenario` against `target`.
    pub fn new(target: SocketAddr, scenario: Scenario) -> Self {
        Self {
            target,
            scenario,
            door: Door::Native,
            rate: 10_000.0,
            spread: Spread::Poisson,
            turn: 0,
            content_bytes: 128,
            seed: 1,
            user_prefix: "b1-".to_owned(),
            rings_count: rings_for(scenario.connections()),
            pins: Vec::new(),
            warmup: SECOND,
            duration: 10 * SECOND,
            drain: 5 * SECOND,
            connect_timeout: 60 * SECOND,
            offer_lag_max: SECOND / 100,
            receipts: true,
            survives_restart: false,
            any_target: false,
        }
    }

    /// Refuses what cannot work, before anything is opened.
    pub fn check(&self) -> Result<(), Error> {
        let connections = self.scenario.connections();
        let refuse = |text: &str| Err(Error::Config(text.to_owned()));
        if connections == 0 {
            return refuse("a run needs connections");
        }
        match self.scenario {
            Scenario::Direct { connections } if connections % 2 == 1 => {
                return refuse("pairs need an even number of connections");
            }
            Scenario::Group { members, senders, .. } if members < 2 || senders == 0 => {
                return refuse("a group needs two members, and one of them must send");
            }
            Scenario::Group { members, senders, .. } if senders > members => {
                return refuse("more senders than members");
            }
            Scenario::Group { members, .. } if members > MEMBERS_MAX => {
                return refuse("a group has at most 1,000 members");
            }
            _ => {}
        }
        if !(CONTENT_BYTES_MIN..=wire::limits::CONTENT_BYTES_MAX).contains(&self.content_bytes) {
            return refuse("content is 40 to 65,536 bytes");
        }
        if self.scenario.deliveries_per_message() > 0 && !self.rate.is_normal() {
            return refuse("a rate above zero is needed");
        }
        if self.rings_count == 0 || self.rings_count > RINGS_MAX {
            return refuse("1 to 256 rings");
        }
        if connections.div_ceil(u32::from(self.rings_count)) > CONNECTIONS_PER_RING_MAX {
            return refuse("too many connections a ring: give more --rings");
        }
        if self.user_prefix.len() > 40 || wire::body::name(self.user_prefix.as_bytes()).is_err() {
            return refuse("a user prefix is 1 to 40 letters, digits, or any of _.:@-");
        }
        if !self.any_target && !self.target.ip().is_loopback() {
            return refuse(
                "the target is not this machine: say --i-own-this-target if it is yours",
            );
        }
        Ok(())
    }

    /// The source address for the connection of user `index`; none where the kernel may choose.
    pub(crate) fn source(&self, index: u32) -> Option<SocketAddr> {
        let is_crowded = self.scenario.connections() > CONNECTIONS_PER_SOURCE;
        let IpAddr::V4(target) = self.target.ip() else { return None };
        (is_crowded && target.is_loopback()).then(|| {
            let host = 2 + index / CONNECTIONS_PER_SOURCE;
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() + host);
            SocketAddr::from((address, 0))
        })
    }
}

/// As few rings as can hold `connections`.
pub fn rings_for(connections: u32) -> u16 {
    let rings = connections.div_ceil(CONNECTIONS_PER_RING_MAX).max(1);
    u16::try_from(rings).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scenario: Scenario) -> Config {
        Config::new(SocketAddr::from(([127, 0, 0, 1], 1)), scenario)
    }

    #[test]
    fn only_this_machine_is_a_target_unless_told_otherwise() {
        let mut config = config(Scenario::Direct { connections: 2 });
        assert!(config.check().is_ok());
        config.target = SocketAddr::from(([192, 0, 2, 1], 1));
        assert!(matches!(config.check(), Err(Error::Config(_))));
        config.any_target = true;
        assert!(config.check().is_ok());
    }

    #[test]
    fn a_million_connections_are_spread_over_source_addresses() {
        let config = config(Scenario::Idle { connections: 1_000_000 });
        assert!(config.check().is_ok());
        let host = |index| config.source(index).map(|address| address.ip().to_string());
        assert_eq!(host(0).as_deref(), Some("127.0.0.2"));
        assert_eq!(host(999_999).as_deref(), Some("127.0.0.126"));
    }

    #[test]
    fn impossible_runs_are_refused_before_they_start() {
        assert!(config(Scenario::Direct { connections: 3 }).check().is_err());
        assert!(config(Scenario::Group { groups: 1, members: 4, senders: 5 }).check().is_err());
        let mut short = config(Scenario::Direct { connections: 2 });
        short.content_bytes = 39;
        assert!(short.check().is_err());
    }
}
