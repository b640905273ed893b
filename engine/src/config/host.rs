//! From what was set and what the host has to how many shards there are, where, and how large.

use super::{Config, ConfigError, Pin};

/// What of the host bears on the placement. The caller measures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPUs the process may use, by number.
    pub cpus_allowed: Vec<usize>,
    /// The soft limit on open files, after it was raised to the hard one.
    pub open_files_max: u64,
}

/// What `auto` comes to on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The CPU of each shard; none where the kernel decides. As many as there are shards.
    pub pins: Vec<Option<usize>>,
    /// Connections a shard takes.
    pub connections_max: u32,
}

const CONNECTIONS_MAX: u64 = 4_000_000;

impl Placement {
    /// How many shards there are.
    pub fn shards_count(&self) -> u16 {
        u16::try_from(self.pins.len()).expect("the configuration bounds the shards")
    }
}

impl Config {
    /// The placement on `host`, or what of it the host cannot give.
    pub fn place(&self, host: &Host) -> Result<Placement, ConfigError> {
        let cpus_count = host.cpus_allowed.len();
        let shards_count = match (self.shards, &self.pin) {
            (Some(shards), _) => usize::from(shards),
            (None, Pin::List(cpus)) => cpus.len(),
            (None, Pin::Auto | Pin::None) => cpus_count.clamp(1, 1024),
        };
        let pins = match &self.pin {
            Pin::List(cpus) => {
                if let Some(cpu) = cpus.iter().find(|cpu| !host.cpus_allowed.contains(cpu)) {
                    return Err(ConfigError::Conflict(format!(
                        "pin names CPU {cpu}, which this process may not use; it may use {:?}",
                        host.cpus_allowed
                    )));
                }
                cpus.iter().map(|cpu| Some(*cpu)).collect()
            }
            // With more shards than CPUs a pin would stack shards where the kernel could spread.
            Pin::Auto if shards_count <= cpus_count => {
                host.cpus_allowed.iter().take(shards_count).map(|cpu| Some(*cpu)).collect()
            }
            Pin::Auto | Pin::None => vec![None; shards_count],
        };
        Ok(Placement { connections_max: self.connections_a_shard(host)?, pins })
    }

    fn connections_a_shard(&self, host: &Host) -> Result<u32, ConfigError> {
        // A ring's table of sockets is bounded by the limit; the process's own table is not used.
        let allowed = host.open_files_max.min(CONNECTIONS_MAX);
        let allowed = u32::try_from(allowed).expect("bounded above");
        let wanted = self.connections_max.unwrap_or(allowed);
        if wanted == 0 || wanted > allowed {
            return Err(ConfigError::Conflict(format!(
                "connections_max is {} a shard, and the limit of {} open files allows {allowed}: \
                 raise it (ulimit -n), or set fewer",
                wanted.max(1),
                host.open_files_max
            )));
        }
        Ok(wanted)
    }
}
