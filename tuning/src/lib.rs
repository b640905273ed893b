//! THE MACHINE: what of this host helps or hinders the engine, in words a person can act on.
//!
//! It measures and explains; it changes nothing and needs no root. Each [`Finding`] has what was
//! found, what is wanted, why, and the command that mends it. A host that hides something, such
//! as a container without `/sys`, gives "not available here" rather than a guess.

mod disk;
mod kernel;
mod limits;
mod memory;
mod network;
mod processor;
mod system;
mod uring;

pub use system::System;

use serde::Serialize;
use std::path::PathBuf;

/// What a [`Finding`] comes to. In order of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The engine cannot do what is wanted of it.
    Blocks,
    /// It can, but slower or less evenly than this machine could.
    Advice,
    /// As wanted.
    Fine,
    /// The host does not say.
    NotAvailable,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, by the name an operator would search for.
    pub name: &'static str,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was found.
    pub measured: String,
    /// What is wanted.
    pub wanted: String,
    /// Why that matters to this engine.
    pub why: &'static str,
    /// The command, or the deed, that mends it; none where there is nothing to mend.
    pub mend: Option<String>,
}

/// What the host is to carry.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Connections of the whole process.
    pub connections: u64,
    /// Folder whose disk is measured; none: no disk is. Measuring takes some 16 syncs.
    pub disk: Option<PathBuf>,
}

/// A finding that has yet to be judged.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

impl Subject {
    pub(crate) fn fine(&self, measured: impl ToString, wanted: impl ToString) -> Finding {
        self.finding(Verdict::Fine, measured.to_string(), wanted.to_string(), None)
    }

    pub(crate) fn not_available(&self, wanted: impl ToString) -> Finding {
        let measured = "not available here".to_owned();
        self.finding(Verdict::NotAvailable, measured, wanted.to_string(), None)
    }

    /// Not as wanted, which `verdict` weighs; `mend` says what to do.
    pub(crate) fn short(
        &self,
        verdict: Verdict,
        (measured, wanted): (impl ToString, impl ToString),
        mend: impl ToString,
    ) -> Finding {
        self.finding(verdict, measured.to_string(), wanted.to_string(), Some(mend.to_string()))
    }

    fn finding(
        &self,
        verdict: Verdict,
        measured: String,
        wanted: String,
        mend: Option<String>,
    ) -> Finding {
        Finding { name: self.name, verdict, measured, wanted, why: self.why, mend }
    }

    /// A number that should be at least `wanted`, or is not known.
    pub(crate) fn at_least(
        &self,
        measured: Option<u64>,
        wanted: u64,
        short: Verdict,
        mend: impl ToString,
    ) -> Finding {
        let words = format!("at least {wanted}");
        match measured {
            None => self.not_available(words),
            Some(u64::MAX) => self.fine("unlimited", words),
            Some(found) if found >= wanted => self.fine(found, words),
            Some(found) => self.short(short, (found, words), mend),
        }
    }
}

/// Everything worth knowing about this host, the most urgent first.
pub fn findings(wanted: &Wanted) -> Vec<Finding> {
    let system = System::here();
    let mut findings = system_findings(&system, wanted);
    findings.extend(uring::findings(wanted));
    if let Some(folder) = &wanted.disk {
        findings.push(disk::finding(folder));
    }
    findings.sort_by_key(|finding| finding.verdict);
    findings
}

/// What the files of `system` tell.
fn system_findings(system: &System, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = kernel::findings(system);
    findings.extend(limits::findings(system, wanted));
    findings.extend(network::findings(system, wanted));
    findings.extend(memory::findings(system, wanted));
    findings.extend(processor::findings(system));
    findings
}

#[cfg(test)]
mod tests;
