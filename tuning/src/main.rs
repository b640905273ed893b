//! `ringmain-tune`: is this host ready?

use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tuning::{Finding, Verdict, Wanted, findings};

/// Looks at this host with the engine's eyes. Changes nothing and needs no root.
#[derive(Parser)]
#[command(name = "ringmain-tune", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what helps and what hinders. Exit code 1 where something stands in the way.
    Check {
        /// Connections that the server is to carry.
        #[arg(long, value_name = "N", default_value_t = 10_000,
              value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        connections: u64,
        /// Folder of the log, or where it is to be: its disk is measured.
        #[arg(long, value_name = "DIR", default_value = ".")]
        data: PathBuf,
        /// Print JSON, an array of findings.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let Command::Check { connections, data, json } = Arguments::parse().command;
    let findings = findings(&Wanted { connections, disk: Some(data) });
    let text = if json {
        serde_json::to_string_pretty(&findings).expect("findings are plain") + "\n"
    } else {
        findings.iter().map(paragraph).collect::<String>() + &summary(&findings)
    };
    // A reader that has gone, such as `head`, has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let blocks = findings.iter().any(|finding| finding.verdict == Verdict::Blocks);
    ExitCode::from(u8::from(blocks))
}

/// A line for what is fine, a paragraph for what is not.
fn paragraph(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Blocks => "BLOCKS",
        Verdict::Advice => "advice",
        Verdict::Fine => "fine",
        Verdict::NotAvailable => "-",
    };
    let line = format!("{mark:<7} {}: {}", finding.name, finding.measured);
    match &finding.mend {
        None => format!("{line}\n"),
        Some(mend) => format!(
            "{line}\n        wanted: {}\n        why: {}\n        do: {mend}\n",
            finding.wanted, finding.why
        ),
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Blocks), count(Verdict::Advice)) {
        (0, 0) => "\nThis host is ready.\n".to_owned(),
        (0, advice) => format!("\nThis host is ready; {advice} could be better.\n"),
        (blocks, _) => format!("\n{blocks} in the way: see the first lines.\n"),
    }
}
