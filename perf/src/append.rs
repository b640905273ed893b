//! Group commit with nothing around it: write a batch, sync it, again.

use bench::clock::{self, Nanos, SECOND};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const KIB: usize = 1024;
/// Batches that are tried, in bytes.
const BATCHES: [usize; 5] = [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB];
/// The file is written over and over within this size, as a segment prepared ahead would be.
const FILE_BYTES: usize = 128 * 1024 * KIB;

/// What one size of batch allows.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) batch_bytes: usize,
    pub(crate) syncs: u64,
    pub(crate) syncs_per_second: f64,
    pub(crate) megabytes_per_second: f64,
    pub(crate) p50: Nanos,
    pub(crate) p99: Nanos,
    pub(crate) max: Nanos,
}

/// Tries each size for its share of `seconds`, in a file of its own in `dir`.
pub(crate) fn append(dir: &Path, seconds: f64) -> io::Result<Vec<Line>> {
    let path = dir.join(format!("ringmain-perf-append-{}", std::process::id()));
    let file = File::create_new(&path)?;
    let lines = measure(&file, seconds / BATCHES.len() as f64);
    std::fs::remove_file(&path)?;
    lines
}

fn measure(file: &File, seconds_each: f64) -> io::Result<Vec<Line>> {
    let zeroes = vec![0; 1024 * KIB];
    for at in (0..FILE_BYTES).step_by(zeroes.len()) {
        file.write_all_at(&zeroes, at as u64)?;
    }
    file.sync_all()?;
    BATCHES.iter().map(|batch_bytes| try_batch(file, *batch_bytes, seconds_each)).collect()
}

fn try_batch(file: &File, batch_bytes: usize, seconds: f64) -> io::Result<Line> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60 * SECOND, 3).expect("in order");
    let mut batch = vec![0; batch_bytes];
    let (began, mut at) = (clock::now(), 0);
    let elapsed = |now: Nanos| (now - began) as f64 / SECOND as f64;
    while elapsed(clock::now()) < seconds {
        // Other bytes each time, so that nothing below can take a short cut.
        batch.fill(u8::try_from(histogram.len() % 251).expect("below 251"));
        let start = clock::now();
        file.write_all_at(&batch, at as u64)?;
        file.sync_data()?;
        histogram.saturating_record(clock::now() - start);
        at = (at + batch_bytes) % FILE_BYTES;
    }
    let (seconds, syncs) = (elapsed(clock::now()), histogram.len());
    Ok(Line {
        batch_bytes,
        syncs,
        syncs_per_second: syncs as f64 / seconds,
        megabytes_per_second: syncs as f64 * batch_bytes as f64 / 1e6 / seconds,
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        max: histogram.max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_batch_is_measured_and_the_file_removed() {
        let dir = std::env::temp_dir();
        let lines = append(&dir, 0.05).unwrap();
        assert_eq!(lines.len(), BATCHES.len());
        assert!(lines.iter().all(|line| line.syncs > 0 && line.p50 > 500 && line.max < 9 * SECOND));
        let left = format!("ringmain-perf-append-{}", std::process::id());
        assert!(!dir.join(left).exists());
    }
}
