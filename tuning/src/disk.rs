//! How long the disk takes to make a message durable.

use crate::{Finding, Subject, Verdict};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const SYNCS_COUNT: usize = 16;
const BLOCK_BYTES: usize = 4096;
/// A slower disk makes each send wait longer than a person would call instant.
const MEDIAN_WANTED: Duration = Duration::from_millis(5);

/// Measures the disk under `folder`, or under the nearest folder above it that exists.
pub(crate) fn finding(folder: &Path) -> Finding {
    let subject = Subject {
        name: "disk sync",
        why: "a message counts as sent when a sync that covers it returned; the median of a 4 KiB \
              write and fdatasync is the least it can take",
    };
    let wanted = format!("{} ms or less", MEDIAN_WANTED.as_millis());
    let existing = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let place = existing.display();
    match measure(existing) {
        Ok(mut times) => {
            times.sort_unstable();
            let (median, longest) = (times[SYNCS_COUNT / 2], times[SYNCS_COUNT - 1]);
            let measured = format!(
                "{} µs, longest of {SYNCS_COUNT} {} µs, in {place}",
                median.as_micros(),
                longest.as_micros()
            );
            if median <= MEDIAN_WANTED {
                return subject.fine(measured, wanted);
            }
            let mend = "put --data on an NVMe disk, or one with a protected cache";
            subject.short(Verdict::Advice, (measured, wanted), mend)
        }
        Err(error) => {
            let measured = format!("cannot write in {place}: {error}");
            let mend = "name a folder that this user may write to";
            subject.short(Verdict::Blocks, (measured, wanted), mend)
        }
    }
}

/// The times of some syncs of a file made for it, written ahead as the log's segments are.
#[expect(clippy::disallowed_methods, reason = "this measures the host")]
fn measure(folder: &Path) -> io::Result<[Duration; SYNCS_COUNT]> {
    let path = folder.join(format!(".ringmain-tune-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let measured = (|| {
        let block = [0x5a; BLOCK_BYTES];
        file.write_all_at(&vec![0; BLOCK_BYTES * SYNCS_COUNT], 0)?;
        file.sync_all()?;
        let mut times = [Duration::ZERO; SYNCS_COUNT];
        for (index, time) in times.iter_mut().enumerate() {
            let started = Instant::now();
            file.write_all_at(&block, (index * BLOCK_BYTES) as u64)?;
            file.sync_data()?;
            *time = started.elapsed();
        }
        Ok(times)
    })();
    std::fs::remove_file(&path)?;
    measured
}
