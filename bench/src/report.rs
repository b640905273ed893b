//! What a run found, for people and for programs.

use crate::clock::{Nanos, SECOND};
use crate::config::Config;
use crate::latency::Figures;
use crate::process::Machine;
use crate::verdict::Verdict;
use serde::Serialize;
use std::fmt;

/// Latencies of one kind of event.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// Over the measured part, in nanoseconds.
    pub total: Figures,
    /// Of each second of it.
    pub seconds: Vec<(u64, Figures)>,
}

/// Counts of the whole run, warm-up included.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages that were due.
    pub offered: u64,
    /// Messages written to a socket's queue, retries included.
    pub sent: u64,
    /// Messages that the server has.
    pub acked: u64,
    /// Messages that the server refused.
    pub refused: u64,
    /// Messages that never left: their socket's queue was full, or it was down.
    pub choked: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries repeated in a later session, which is allowed.
    pub redelivered: u64,
    /// Connections that ended too early.
    pub disconnects: u64,
    /// Sessions begun again.
    pub resumed: u64,
    /// Sends of the generator.
    pub sends: u64,
    /// System calls of the generator's rings.
    pub enters: u64,
}

/// A second's worth of the measured part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rates {
    /// Messages due.
    pub offered: f64,
    /// Of those, the acknowledged.
    pub acked: f64,
    /// Deliveries received.
    pub delivered: f64,
    /// Acknowledged of offered, 0 to 1.
    pub goodput: f64,
}

/// Processor time over the measured part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// Processors that the generator kept busy.
    pub own: f64,
    /// Processors that the server kept busy.
    pub server: Option<f64>,
    /// Of the server, a message.
    pub server_micros_per_message: Option<f64>,
    /// Of the server, a delivery.
    pub server_micros_per_delivery: Option<f64>,
}

/// Memory before the connections and with all of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident bytes of the server, a connection.
    pub server_bytes_per_connection: Option<f64>,
    /// Resident bytes of the generator, a connection.
    pub own_bytes_per_connection: Option<f64>,
    /// Kernel objects of the machine, a connection: both ends of it.
    pub slab_bytes_per_connection: Option<f64>,
}

/// How the connections came to be.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Connects {
    /// From the first to the last.
    pub seconds: f64,
    /// Authenticated connections a second.
    pub per_second: f64,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run.
    pub config: Config,
    /// How it was asked for.
    pub command_line: Vec<String>,
    /// Where.
    pub machine: Machine,
    /// Connections made.
    pub connects: Connects,
    /// Counts of the whole run.
    pub counts: Counts,
    /// Rates of the measured part.
    pub rates: Rates,
    /// From the due time to the acknowledgement at the sender.
    pub sent: Latency,
    /// From the due time to the delivery at a receiver.
    pub delivered: Latency,
    /// From the due time to the hand-over to the kernel: the generator's own lateness.
    pub offer_lag: Latency,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Whether every message came, once, in order, as it was sent.
    pub verdict: Verdict,
    /// Why the figures must not be used, where that is so.
    pub void: Option<String>,
    /// The first thing that went wrong, if any did.
    pub first_error: Option<String>,
}

impl Report {
    /// Whether delivery was complete and no connection was lost that should not have been.
    pub fn is_clean(&self) -> bool {
        let may_disconnect = self.config.survives_restart;
        self.verdict.is_clean() && (may_disconnect || self.counts.disconnects == 0)
    }
}

fn millis(nanos: Nanos) -> f64 {
    nanos as f64 / 1e6
}

fn latency_line(f: &mut fmt::Formatter<'_>, name: &str, figures: &Figures) -> fmt::Result {
    let Figures { count, p50, p90, p99, p999, p9999, max } = *figures;
    let rare = p9999.map_or_else(|| "-".to_owned(), |rare| format!("{:.3}", millis(rare)));
    write!(f, "{name:<16}{:>10.3}{:>10.3}", millis(p50), millis(p90))?;
    write!(f, "{:>10.3}{:>10.3}{rare:>10}", millis(p99), millis(p999))?;
    writeln!(f, "{:>10.3}{count:>12}", millis(max))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, rates) = (&self.counts, &self.rates);
        let machine = &self.machine;
        let (cores, kernel) = (machine.processors_count, &machine.kernel);
        writeln!(f, "machine         {} x {cores}, Linux {kernel}", machine.processor)?;
        writeln!(
            f,
            "connects        {} in {:.2} s, {:.0} a second",
            self.config.scenario.connections(),
            self.connects.seconds,
            self.connects.per_second
        )?;
        if self.config.scenario.deliveries_per_message() > 0 {
            let seconds = self.config.duration as f64 / SECOND as f64;
            writeln!(
                f,
                "rates           offered {:.0}/s, acknowledged {:.0}/s, delivered {:.0}/s, \
                 goodput {:.3} %, over {seconds:.1} s",
                rates.offered,
                rates.acked,
                rates.delivered,
                rates.goodput * 100.0
            )?;
            let names = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
            write!(f, "{:<16}", "ms")?;
            names.iter().try_for_each(|name| write!(f, "{name:>10}"))?;
            writeln!(f, "{:>12}", "count")?;
            latency_line(f, "send to sent", &self.sent.total)?;
            latency_line(f, "send to deliver", &self.delivered.total)?;
            latency_line(f, "offer lag", &self.offer_lag.total)?;
        }
        self.write_costs(f)?;
        write!(f, "counts          offered={} acked={}", counts.offered, counts.acked)?;
        write!(f, " refused={} choked={}", counts.refused, counts.choked)?;
        write!(f, " delivered={} redelivered={}", counts.delivered, counts.redelivered)?;
        writeln!(f, " disconnects={} resumed={}", counts.disconnects, counts.resumed)?;
        let Verdict { lost, duplicated, reordered, corrupt, holes, unanswered } = self.verdict;
        write!(f, "oracle          lost={lost} duplicated={duplicated} reordered={reordered}")?;
        writeln!(f, " corrupt={corrupt} holes={holes} unanswered={unanswered}")?;
        if let Some(error) = &self.first_error {
            writeln!(f, "first error     {error}")?;
        }
        if let Some(why) = &self.void {
            writeln!(f, "VOID            {why}")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, memory) = (&self.cpu, &self.memory);
        write!(f, "cpu             generator {:.0} %", cpu.own * 100.0)?;
        if let Some(server) = cpu.server {
            write!(f, ", server {:.0} %", server * 100.0)?;
        }
        if let Some(micros) = cpu.server_micros_per_message {
            write!(f, ", server {micros:.2} us a message")?;
        }
        if let Some(micros) = cpu.server_micros_per_delivery {
            write!(f, ", {micros:.2} us a delivery")?;
        }
        let (sends, enters) = (self.counts.sends, self.counts.enters);
        writeln!(f, "; generator's sends {sends}, system calls {enters}")?;
        let named = [
            ("server", memory.server_bytes_per_connection),
            ("generator", memory.own_bytes_per_connection),
            ("kernel, both ends", memory.slab_bytes_per_connection),
        ];
        write!(f, "memory")?;
        for (name, bytes) in named {
            if let Some(bytes) = bytes {
                write!(f, "{:>10}{name} {bytes:.0} B a connection", "")?;
            }
        }
        writeln!(f)
    }
}
