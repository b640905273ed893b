//! The pure parts of a message's way, each alone: what a processor needs where no kernel is asked.
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use chat::{Command, Decision, Owner, Speaker, Stamp, WallMillis};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::collections::BTreeMap;
use std::hint::black_box;
use storage::{DiskError, DiskEvent, DiskOp, FileId, Folder, Log, NewRecord};
use wire::body::{Deliver, SendMessage, Target};
use wire::frame::{self, Decoded};
use wire::{ClientMessageId, ConversationId, Hlc, IdKey, Kind, MessageId, Sequence};

const CONTENT: [u8; 128] = [0x5a; 128];
const IDS: IdKey = IdKey([3; 16]);
const WALL: WallMillis = WallMillis(1_700_000_000_000);

fn frames(criterion: &mut Criterion) {
    let target = Target::Conversation(ConversationId(9));
    let client_message = ClientMessageId(7);
    let send = SendMessage { target, client_message, message_kind: 0, content: &CONTENT };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, Kind::SendMessage, 1, &[&send.head().0, &CONTENT]);
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode a send", |bencher| {
        bencher.iter(|| {
            let Ok(Decoded::Frame(frame, _)) = frame::decode(black_box(&bytes)) else {
                panic!("a whole frame")
            };
            SendMessage::decode(frame.body).unwrap().content.len()
        });
    });
    let deliver = Deliver {
        message: MessageId(1),
        conversation: ConversationId(9),
        sequence: Sequence(4),
        message_kind: 0,
        sender: "alice",
        content: &CONTENT,
    };
    let mut out = Vec::with_capacity(1024);
    group.bench_function("encode a deliver", |bencher| {
        bencher.iter(|| {
            out.clear();
            let parts: [&[u8]; 3] = [&deliver.head().0, b"alice", black_box(&CONTENT)];
            frame::encode(&mut out, Kind::Deliver, 0, &parts);
            out.len()
        });
    });
    group.finish();
}

fn ring(criterion: &mut Criterion) {
    let (mut producer, mut consumer) = fanout::ring::<[u64; 4]>(1024);
    let mut group = criterion.benchmark_group("fanout");
    group.throughput(Throughput::Elements(64));
    group.bench_function("push, publish and pop 64 items", |bencher| {
        bencher.iter(|| {
            for number in 0..64 {
                producer.push([number; 4]).unwrap();
            }
            producer.publish();
            let mut sum = 0;
            while let Some(item) = consumer.pop() {
                sum += item[0];
            }
            sum
        });
    });
    group.finish();
}

/// Pairs of users who write to each other in turn, so that no conversation stays in the cache.
fn chat(criterion: &mut Criterion) {
    const PAIRS: u64 = 1_000;
    let user = |name: String| (IDS.user(&name), name);
    let pair = |number| [user(format!("a{number}")), user(format!("b{number}"))];
    let pairs: Vec<_> = (0..PAIRS).map(pair).collect();
    let mut owner = Owner::new(chat::Settings::standard(IDS, 1));
    let mut number = 0;
    let mut send = || {
        number += 1;
        let [from, to] = &pairs[usize::try_from(number % PAIRS).unwrap()];
        let command = Command::Send {
            conversation: IDS.direct(from.0, to.0),
            recipient: Some(Speaker { user: to.0, name: &to.1 }),
            client_message: ClientMessageId(u128::from(number)),
            message_kind: 0,
            content: black_box(&CONTENT),
        };
        let from = Speaker { user: from.0, name: &from.1 };
        let Ok(Decision::Append(record)) = owner.decide(WALL, from, command) else {
            panic!("nothing stands in the way of message {number}")
        };
        let stamp = Stamp { hlc: owner.next_hlc(WALL), sequence: Sequence(record.sequence()) };
        owner.apply(&record, stamp);
        owner.release(ConversationId(record.entity()), stamp.sequence);
        stamp.sequence
    };
    let mut group = criterion.benchmark_group("chat");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decide and apply a direct message", |bencher| bencher.iter(&mut send));
    group.finish();
}

/// A folder in memory, for the start of a log; what the log writes later is only answered.
#[derive(Default)]
struct Memory(BTreeMap<(String, String), Vec<u8>>);

impl Memory {
    fn key(file: FileId) -> (String, String) {
        (file.folder(), file.name())
    }
}

impl Folder for Memory {
    fn list(&mut self, folder: &str) -> Result<Vec<(String, u64)>, DiskError> {
        let files = self.0.iter().filter(|((place, _), _)| place == folder);
        Ok(files.map(|((_, name), bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn read(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let bytes = self.0.get(&Self::key(file)).ok_or(DiskError::NotFound)?;
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes[from..(from + length).min(bytes.len())].to_vec())
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let from = usize::try_from(offset).unwrap();
        let held = self.0.get_mut(&Self::key(file)).ok_or(DiskError::NotFound)?;
        held.resize(held.len().max(from + bytes.len()), 0);
        held[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, _: FileId) -> Result<(), DiskError> {
        Ok(())
    }

    fn create(&mut self, file: FileId, bytes: u64, header: &[u8]) -> Result<(), DiskError> {
        let mut held = header.to_vec();
        held.resize(usize::try_from(bytes).unwrap().max(held.len()), 0);
        self.0.insert(Self::key(file), held);
        Ok(())
    }

    fn create_dir(&mut self, _: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_dir(&mut self, _: &str) -> Result<(), DiskError> {
        Ok(())
    }

    fn rename(&mut self, from: FileId, to: FileId) -> Result<(), DiskError> {
        let held = self.0.remove(&Self::key(from)).ok_or(DiskError::NotFound)?;
        self.0.insert(Self::key(to), held);
        Ok(())
    }

    fn remove(&mut self, file: FileId) -> Result<(), DiskError> {
        self.0.remove(&Self::key(file));
        Ok(())
    }
}

/// Answers all that the log asks, at once and well.
fn serve(log: &mut Log) {
    while let Some(op) = log.poll_op() {
        let event = match op {
            DiskOp::Write { file, bytes, .. } => {
                let result = Ok(bytes.len());
                DiskEvent::Written { file, bytes, result }
            }
            DiskOp::Sync { file } => DiskEvent::Synced { file, result: Ok(()) },
            DiskOp::Prepare { file, .. } => DiskEvent::Prepared { file, result: Ok(()) },
            other => panic!("a log that only appends asks for no {other:?}"),
        };
        log.handle(event);
    }
}

fn log(criterion: &mut Criterion) {
    const BATCH: u64 = 64;
    let mut folder = Memory::default();
    let settings = storage::Settings::standard();
    let opened = storage::open(&mut folder, 1, settings, [1; 16]).unwrap();
    let recovered = storage::recover(&mut folder, &opened.shards[0], &mut |_| {}).unwrap();
    let mut log = recovered.log;
    serve(&mut log);
    let partition = ConversationId(9).partition();
    let mut sequence = 0;
    let mut group = criterion.benchmark_group("storage");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append and commit 64 records, no disk", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                sequence += 1;
                let (hlc, body) = (Hlc(sequence), [&CONTENT[..48], &CONTENT[..]]);
                let kind = storage::KIND_FIRST;
                let record = NewRecord { kind, partition, entity: 9, sequence, hlc, body };
                log.append(record).unwrap();
            }
            serve(&mut log);
            log.durable()
        });
    });
    group.finish();
}

criterion_group!(hot, frames, ring, chat, log);
criterion_main!(hot);
