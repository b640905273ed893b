//! The start of a shard: snapshot, then the log's tail. An empty folder and one after a crash go
//! the same way.

use crate::parcel::{Announcement, Joined};
use crate::shard::{Parts, Shard};
use chat::{BadRecord, Home, Owner, Record, Settings, Stamp, Walk, is_home_entry};
use storage::{Cut, Folder, OpenError, Recovered, ShardStart};
use wire::{Hlc, Sequence};

/// Why a shard cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record is whole and yet says nothing this version knows.
    #[error("record of kind {kind:#06x}: {error:?}. It is of a newer version: start that one")]
    Record {
        /// Its kind.
        kind: u16,
        /// What is wrong with it.
        error: BadRecord,
    },
}

/// What a start found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// A torn tail that was cut, if there was one.
    pub cut: Option<Cut>,
    /// Entries taken from snapshots.
    pub entries_count: u64,
    /// Records replayed.
    pub records_count: u64,
}

/// Recovers one shard's part of a data folder.
pub fn recover(
    folder: &mut dyn Folder,
    start: &ShardStart,
    settings: Settings,
) -> Result<(Parts, Found), StartError> {
    let mut owner = Owner::new(settings);
    let mut home = Home::new(settings);
    let mut failure = None;
    let recovery = storage::recover(folder, start, &mut |recovered| {
        if failure.is_none() {
            failure = restore(&mut owner, &mut home, recovered).err();
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    owner.release_all();
    let found = Found {
        cut: recovery.cut,
        entries_count: recovery.entries_count,
        records_count: recovery.records_count,
    };
    Ok((Parts { owner, home, log: recovery.log }, found))
}

fn restore(owner: &mut Owner, home: &mut Home, recovered: Recovered<'_>) -> Result<(), StartError> {
    match recovered {
        Recovered::Entry { kind, body, .. } => {
            let restored = if is_home_entry(kind) {
                home.restore(kind, body)
            } else {
                owner.restore(kind, body)
            };
            restored.map_err(|error| StartError::Record { kind, error })
        }
        Recovered::Record(found) => {
            let (kind, sequence) = (found.kind, found.sequence);
            let record = Record::decode(kind, found.entity, sequence, found.body)
                .map_err(|error| StartError::Record { kind, error })?;
            if record.is_home() {
                home.apply(&record);
            } else {
                let stamp = Stamp { hlc: Hlc(found.hlc.0), sequence: Sequence(sequence) };
                owner.apply(&record, stamp);
            }
            Ok(())
        }
    }
}

impl Shard {
    /// Who is in which of this shard's conversations: for the homes, before anybody connects.
    pub fn announcements(&self, mut out: impl FnMut(Announcement)) {
        let mut walk = Walk::new();
        loop {
            let has_more = self.owner.announce_bite(&mut walk, 4096, |conversation, speaker| {
                out(Announcement { user: speaker.user, name: speaker.name.into(), conversation });
            });
            if !has_more {
                return;
            }
        }
    }

    /// Takes what an owner announced of a user who lives here.
    pub fn on_announcement(&mut self, announcement: Announcement) {
        let Announcement { user, name, conversation } = announcement;
        self.on_joined(&Joined { conversation, users: vec![(user, name)] });
    }

    /// All owners have announced.
    pub fn settle(&mut self) {
        self.home.settle();
    }
}

/// Tells every home what every owner knows, and settles them: the last step before serving.
pub fn introduce(shards: &mut [Shard]) {
    let mut announced = Vec::new();
    for shard in shards.iter() {
        shard.announcements(|announcement| announced.push(announcement));
    }
    for announcement in announced {
        let home = shards[0].home_of(announcement.user);
        shards[usize::from(home.0)].on_announcement(announcement);
    }
    shards.iter_mut().for_each(Shard::settle);
}
