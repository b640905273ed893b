//! `ringmain log`: what is in a data folder, for people and for scripts.
//!
//! Nothing is written. A server may be running on the folder: what it appends meanwhile shows as
//! a torn tail at worst.

use crate::driver::DiskFolder;
use chat::record::{self, Record};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use storage::{DumpFilter, LogReport, LogStat};

/// Looks into the log of a data folder; changes nothing.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Reads every record and checks it. Exit code 1 where something is damaged.
    Verify(Flags),
    /// Prints records, oldest first.
    Dump {
        #[command(flatten)]
        flags: Flags,
        /// Only those of this conversation, or of this user's devices: 32 hexadecimal digits.
        #[arg(long, value_name = "HEX", value_parser = parse_id)]
        entity: Option<u128>,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u64,
        /// Print what messages say, too.
        #[arg(long)]
        content: bool,
    },
    /// Counts records by kind.
    Stat(Flags),
}

#[derive(clap::Args)]
pub(super) struct Flags {
    /// The data folder.
    #[arg(long, value_name = "DIR", default_value = "./ringmain-data")]
    data: PathBuf,
    /// Print JSON, an object a line.
    #[arg(long)]
    json: bool,
}

fn parse_id(text: &str) -> Result<u128, String> {
    u128::from_str_radix(text, 16).map_err(|_| "an id is up to 32 hexadecimal digits".to_owned())
}

pub(super) fn run(command: &Command) -> ExitCode {
    let outcome = match command {
        Command::Verify(flags) => verify(flags),
        Command::Stat(flags) => stat(flags).map(|()| true),
        Command::Dump { flags, entity, limit, content } => {
            let filter = DumpFilter { entity: *entity, records_max: *limit };
            dump(flags, filter, *content).map(|()| true)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("ringmain: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// The folder that `flags` name, if there is one.
fn open(flags: &Flags) -> Result<DiskFolder, String> {
    if flags.data.is_dir() {
        return Ok(DiskFolder::new(&flags.data));
    }
    Err(format!("there is no data folder {}: name it with --data", flags.data.display()))
}

fn sentence(data: &Path, error: &storage::OpenError) -> String {
    format!("{}: {error}", data.display())
}

/// Prints an object as a line of JSON, or as `key value` pairs for people.
fn print(is_json: bool, object: &Value) {
    if is_json {
        super::print(&format!("{object}\n"));
        return;
    }
    let fields = object.as_object().expect("only objects are printed");
    let words = fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name} {value}")
    });
    super::print(&format!("{}\n", words.collect::<Vec<_>>().join("  ")));
}

fn verify(flags: &Flags) -> Result<bool, String> {
    let mut folder = open(flags)?;
    let reports = storage::verify(&mut folder).map_err(|error| sentence(&flags.data, &error))?;
    for report in &reports {
        print(flags.json, &report_json(report));
    }
    let is_whole = reports.iter().all(|report| report.damage.is_none());
    if !flags.json {
        let verdict = if is_whole { "whole" } else { "DAMAGED: restore the file named above" };
        super::print(&format!("{verdict}\n"));
    }
    Ok(is_whole)
}

fn report_json(report: &LogReport) -> Value {
    let broken: Vec<_> = report.snapshots_broken.iter().map(ToString::to_string).collect();
    json!({
        "log": report.log,
        "epoch": report.epoch,
        "segments": report.segments_count,
        "records": report.records_count,
        "bytes": report.records_bytes,
        "first": report.first.map(|position| position.offset()),
        "last": report.last.map(|position| position.offset()),
        "torn_bytes": report.torn_bytes,
        "snapshots": report.snapshots.len(),
        "snapshots_broken": if broken.is_empty() { Value::Null } else { json!(broken) },
        "damage": report.damage.as_ref().map(|damage| damage.error.to_string()),
    })
}

fn stat(flags: &Flags) -> Result<(), String> {
    let mut folder = open(flags)?;
    let stats = storage::stat(&mut folder).map_err(|error| sentence(&flags.data, &error))?;
    for (log, stat) in &stats {
        print(flags.json, &stat_json(*log, stat));
        for (kind, (count, bytes)) in &stat.kinds {
            let kind = kind_name(*kind);
            let line = json!({ "log": log, "kind": kind, "records": count, "bytes": bytes });
            print(flags.json, &line);
        }
    }
    Ok(())
}

fn stat_json(log: u16, stat: &LogStat) -> Value {
    json!({
        "log": log,
        "files_bytes": stat.files_bytes,
        "oldest_ms": stat.span.map(|(oldest, _)| oldest.wall_millis()),
        "newest_ms": stat.span.map(|(_, newest)| newest.wall_millis()),
    })
}

fn dump(flags: &Flags, filter: DumpFilter, has_content: bool) -> Result<(), String> {
    let mut folder = open(flags)?;
    let is_json = flags.json;
    storage::dump(&mut folder, filter, &mut |record| print(is_json, &row(record, has_content)))
        .map_err(|error| sentence(&flags.data, &error))
}

fn row(record: &storage::Record<'_>, has_content: bool) -> Value {
    let mut row = json!({
        "log": record.position.log(),
        "at": record.position.offset(),
        "ms": record.hlc.wall_millis(),
        "kind": kind_name(record.kind),
        "entity": format!("{:032x}", record.entity),
        "sequence": record.sequence,
        "bytes": record.body.len(),
    });
    let decoded = Record::decode(record.kind, record.entity, record.sequence, record.body);
    match decoded {
        Ok(Record::Message(message)) => {
            row["sender"] = message.sender.name.into();
            if has_content {
                row["content"] = String::from_utf8_lossy(message.content).into();
            }
        }
        Ok(_) => {}
        Err(_) => row["unreadable"] = true.into(),
    }
    row
}

fn kind_name(kind: u16) -> String {
    match kind {
        record::kind::MESSAGE => "message".to_owned(),
        record::kind::GROUP_CREATED => "group_created".to_owned(),
        record::kind::MEMBERS_CHANGED => "members_changed".to_owned(),
        record::kind::RENAMED => "renamed".to_owned(),
        record::kind::CURSORS => "cursors".to_owned(),
        record::kind::DEVICE_CURSOR => "device_cursor".to_owned(),
        other => format!("{other:#06x}"),
    }
}
