//! Opening a data folder: the manifest, and a new epoch if the shard count changed.
//!
//! Files of a new epoch come first and the manifest that names them last, by one rename: a crash
//! at any step leaves a folder that opens as if the step had not begun.

use crate::error::{DiskError, OpenError};
use crate::file::{FileId, log_folder};
use crate::folder::Folder;
use crate::manifest::{Epoch, Manifest};
use crate::record::is_zero;
use crate::scan::at;
use crate::segment::{Segment, encode_header};
use crate::settings::Settings;
use crate::{BLOCK_BYTES, BLOCK_LENGTH};
use wire::ShardId;

const MANIFEST: FileId = FileId::Manifest { temporary: false };
const MANIFEST_NEW: FileId = FileId::Manifest { temporary: true };
const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// An open data folder.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the folder is.
    pub manifest: Manifest,
    /// What each shard needs to recover its part, in the order of the shards.
    pub shards: Vec<ShardStart>,
}

/// What a shard needs to recover its part of the folder.
#[derive(Clone, Debug)]
pub struct ShardStart {
    /// Which shard.
    pub shard: ShardId,
    /// The sizes of its log.
    pub settings: Settings,
    pub(crate) manifest: Manifest,
}

/// Opens a data folder, or makes one with `id_key_if_new`.
pub fn open(
    folder: &mut dyn Folder,
    shards_count: u16,
    settings: Settings,
    id_key_if_new: [u8; 16],
) -> Result<Opened, OpenError> {
    settings.check();
    let mut manifest = match read_manifest(folder)? {
        Some(manifest) => manifest,
        None => {
            refuse_orphans(folder)?;
            Manifest { id_key: id_key_if_new, epochs: Vec::new() }
        }
    };
    if manifest.epochs.last().is_none_or(|newest| newest.shards_count != shards_count) {
        let epoch = manifest.push_epoch(shards_count).ok_or(OpenError::LogIdsSpent)?;
        create_logs(folder, &manifest, &epoch, &settings)?;
        publish(folder, &manifest)?;
    }
    let shards = (0..shards_count)
        .map(|shard| ShardStart { shard: ShardId(shard), settings, manifest: manifest.clone() })
        .collect();
    Ok(Opened { manifest, shards })
}

/// The manifest of a data folder; none if the folder is new.
pub fn read_manifest(folder: &mut dyn Folder) -> Result<Option<Manifest>, OpenError> {
    match folder.read(MANIFEST, 0, MANIFEST_BYTES_MAX) {
        Ok(bytes) => match Manifest::decode(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(what) => Err(OpenError::Manifest { what }),
        },
        Err(DiskError::NotFound) => Ok(None),
        Err(error) => Err(at(MANIFEST, 0)(error)),
    }
}

/// Without a manifest there may be the empty logs of a first start that was cut short, but no
/// records: overwriting those would be the worst that a start can do.
fn refuse_orphans(folder: &mut dyn Folder) -> Result<(), OpenError> {
    for (name, _) in list(folder, "")? {
        let digits = name.strip_prefix("log-").filter(|digits| digits.len() == 5);
        let Some(log) = digits.and_then(|digits| digits.parse::<u16>().ok()) else { continue };
        for (name, _) in list(folder, &log_folder(log))? {
            let Some(file) = FileId::in_log(log, &name) else { continue };
            let first_block =
                folder.read(file, BLOCK_BYTES, BLOCK_LENGTH).map_err(at(file, BLOCK_BYTES))?;
            if !is_zero(&first_block) {
                return Err(OpenError::ManifestMissing { file });
            }
        }
    }
    Ok(())
}

fn list(folder: &mut dyn Folder, name: &str) -> Result<Vec<(String, u64)>, OpenError> {
    match folder.list(name) {
        Err(DiskError::NotFound) => Ok(Vec::new()),
        listed => listed.map_err(in_folder(name)),
    }
}

fn in_folder(name: &str) -> impl Fn(DiskError) -> OpenError {
    move |error| OpenError::DiskFolder { folder: name.to_owned(), error }
}

/// Makes the empty logs of `epoch`. What a start that was cut short left in their place is from
/// no manifest, so it goes.
fn create_logs(
    folder: &mut dyn Folder,
    manifest: &Manifest,
    epoch: &Epoch,
    settings: &Settings,
) -> Result<(), OpenError> {
    for shard in (0..epoch.shards_count).map(ShardId) {
        let identity = manifest.identity(epoch, shard);
        let directory = log_folder(identity.log);
        for (name, _) in list(folder, &directory)? {
            if let Some(stray) = FileId::in_log(identity.log, &name) {
                folder.remove(stray).map_err(at(stray, 0))?;
            }
        }
        folder.create_dir(&directory).map_err(in_folder(&directory))?;
        let segment = Segment::new(0, settings.first_segment_bytes);
        let file = FileId::Segment { log: identity.log, base: 0 };
        let header = encode_header(identity, &segment);
        folder.create(file, segment.bytes, &header).map_err(at(file, 0))?;
        folder.sync_dir(&directory).map_err(in_folder(&directory))?;
    }
    folder.sync_dir("").map_err(in_folder(""))
}

fn publish(folder: &mut dyn Folder, manifest: &Manifest) -> Result<(), OpenError> {
    let text = manifest.encode();
    assert!(text.len() <= MANIFEST_BYTES_MAX, "65,536 epochs are shorter");
    let failed = at(MANIFEST_NEW, 0);
    folder.create(MANIFEST_NEW, text.len() as u64, text.as_bytes()).map_err(failed)?;
    folder.rename(MANIFEST_NEW, MANIFEST).map_err(at(MANIFEST, 0))?;
    folder.sync_dir("").map_err(in_folder(""))
}
