//! `ringmain serve`: from a configuration to running shards, and to their end.

use crate::auth::{TokenRules, Verifier};
use crate::config::{Config, Durability, Host, Placement};
use crate::driver::admin::{self, Readiness, ReadinessCell};
use crate::driver::{self, DiskFolder, FolderLock, House, Place, Sizes, probe};
use crate::metrics::Metrics;
use crate::parcel::ShardPort;
use crate::plan::Plan;
use crate::recovery::{Found, introduce, recover};
use crate::shard::{Failure, Parts, Shard, Surroundings};
use fanout::{LaneCapacities, mesh};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use storage::{Manifest, ShardStart};
use wire::{IdKey, ShardId};

const LANES: LaneCapacities =
    LaneCapacities { requests_max: 4096, parcels_max: 4096, parcels_reserve: 64 };
/// After a second signal, or a drain that does not end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);
const BLOCKS_MAX: u32 = 4096;
const READERS_MAX: u32 = 256;
const PAGE_BACKLOG_MAX: usize = 1 << 16;
const LISTEN_BACKLOG: i32 = 4096;

/// Runs a server until it is told to end.
pub(super) fn run(config: Config) -> ExitCode {
    if config.jwt_hs256_secret_file.is_none() && !config.dev_auth {
        return super::refuse(
            "nobody could log in: set jwt_hs256_secret_file, or dev_auth to try it out",
        );
    }
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("ringmain: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// What a start has made, before the shards run.
struct Ready {
    shards: Vec<Shard>,
    placement: Placement,
    metrics: Metrics,
    folder: DiskFolder,
    native: SocketAddr,
    listeners: Vec<TcpListener>,
    _lock: FolderLock,
}

fn serve(config: &Config) -> Result<(), String> {
    let started = now();
    let abilities = probe::probe().map_err(|error| error.to_string())?;
    tracing::info!(
        kernel = abilities.kernel,
        defers_work = abilities.defers_work,
        "io_uring works here"
    );
    abort_on_panic();
    let readiness = ReadinessCell::default();
    let ready = start(config)?;
    let admin = match config.admin {
        Some(address) => Some(
            admin::start(address, ready.metrics.clone(), readiness.clone())
                .map_err(|error| format!("cannot listen on {address} for admin: {error}"))?
                .0,
        ),
        None => None,
    };
    let shards_count = ready.placement.shards_count();
    advise(u64::from(ready.placement.connections_max) * u64::from(shards_count));
    let house = House::new(shards_count, ready.folder.clone())
        .map_err(|error| format!("cannot make the shards' doorbells: {error}"))?;
    let (native, folder) = (ready.native, ready.folder.clone());
    let (outcomes, ended) = mpsc::channel();
    let _lock = spawn(ready, config, &house, &outcomes)?;
    watch_signals(&house, &readiness)?;
    readiness.set(Readiness::Ready);
    tracing::info!(millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(0), "ready");
    announce(native, admin, shards_count).map_err(|error| format!("stdout: {error}"))?;
    for _ in 0..shards_count {
        match ended.recv().expect("every shard says how it ended") {
            Ok(()) => {}
            Err(failure) => {
                // Nothing may go on beside a shard that failed: what it acknowledged stands, and
                // a start reads what the disk has.
                readiness.set(Readiness::Poisoned);
                if let (Failure::Log { .. }, Err(error)) = (&failure, folder.mark_suspect()) {
                    eprintln!("ringmain: cannot leave word of it in the folder: {error}");
                }
                eprintln!("ringmain: {failure}");
                std::process::exit(1);
            }
        }
    }
    tracing::info!("drained");
    Ok(())
}

/// A broken assertion ends the process, whichever thread it is on: the log has what was
/// acknowledged, and a start is the tested way back.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

/// Says what of the host stands in the way most.
fn advise(connections: u64) {
    let wanted = tuning::Wanted { connections, disk: None };
    let findings = tuning::findings(&wanted).into_iter();
    let worth = [tuning::Verdict::Blocks, tuning::Verdict::Advice];
    for finding in findings.filter(|it| worth.contains(&it.verdict)).take(3) {
        let tuning::Finding { name, measured, wanted, why, .. } = finding;
        tracing::warn!(measured, wanted, "{name}: {why} ('ringmain-tune check' says more)");
    }
}

/// The one line that scripts wait for.
fn announce(native: SocketAddr, admin: Option<SocketAddr>, shards_count: u16) -> io::Result<()> {
    let admin = admin.map_or_else(String::new, |address| format!(" admin={address}"));
    let pid = std::process::id();
    let mut out = io::stdout();
    writeln!(out, "ringmain ready native={native}{admin} pid={pid} shards={shards_count}")?;
    out.flush()
}

fn start(config: &Config) -> Result<Ready, String> {
    let host = host()?;
    let placement = config.place(&host).map_err(|error| error.to_string())?;
    let shards_count = placement.shards_count();
    let mut folder = DiskFolder::new(&config.data);
    let lock = folder.lock().map_err(|error| format!("{}: {error}", config.data.display()))?;
    let suspect = folder.forget_suspect();
    if suspect.map_err(|error| format!("{}: {error}", config.data.display()))? {
        tracing::warn!("the last process met a failing disk: reading from the disk, not the cache");
    }
    let mut id_key = [0; 16];
    getrandom::fill(&mut id_key).map_err(|error| format!("no entropy: {error}"))?;
    let settings = storage_settings(config);
    let opened = storage::open(&mut folder, shards_count, settings, id_key)
        .map_err(|error| format!("{}: {error}", config.data.display()))?;
    let ids = IdKey(opened.manifest.id_key);
    let plan = plan(config, ids, shards_count, placement.connections_max);
    let parts = recover_all(&folder, &opened.shards, &plan)
        .map_err(|error| format!("{}: {error}", config.data.display()))?;
    let metrics = Metrics::new(shards_count);
    let verifier = verifier(config)?;
    let mut shards = assemble(parts, &opened.manifest, &plan, (&metrics, &verifier));
    introduce(&mut shards);
    let listeners = listen(config.native, shards_count)
        .map_err(|error| format!("cannot listen on {}: {error}", config.native))?;
    let native = listeners[0].local_addr().map_err(|error| error.to_string())?;
    Ok(Ready { shards, placement, metrics, folder, native, listeners, _lock: lock })
}

/// All shards recover at once: each reads its own part of the folder.
fn recover_all(
    folder: &DiskFolder,
    starts: &[ShardStart],
    plan: &Plan,
) -> Result<Vec<Parts>, String> {
    let chat = plan.chat;
    let recovered = thread::scope(|scope| {
        let threads: Vec<_> = starts
            .iter()
            .map(|start| {
                let mut folder = folder.clone();
                scope.spawn(move || recover(&mut folder, start, chat))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("recovery panicked"));
        joined.collect::<Vec<_>>()
    });
    let mut parts = Vec::new();
    for (index, outcome) in recovered.into_iter().enumerate() {
        let (part, Found { cut, entries_count, records_count }) =
            outcome.map_err(|error| error.to_string())?;
        tracing::info!(shard = index, entries_count, records_count, "recovered");
        if let Some(cut) = cut {
            let offset = cut.position.offset();
            tracing::warn!(shard = index, offset, bytes = cut.bytes, "cut a torn tail");
        }
        parts.push(part);
    }
    Ok(parts)
}

fn assemble(
    parts: Vec<Parts>,
    manifest: &Manifest,
    plan: &Plan,
    (metrics, verifier): (&Metrics, &Verifier),
) -> Vec<Shard> {
    let shards_count = plan.chat.shards_count;
    let ports: Vec<ShardPort> = mesh(shards_count, LANES);
    // Wall time is coarser than sessions come, and a process restarts less than once a second.
    let session_base = wall_millis() << 20;
    let zipped = parts.into_iter().zip(ports).enumerate();
    zipped
        .map(|(index, (part, port))| {
            let shard = ShardId(u16::try_from(index).expect("at most 1024 shards"));
            let surroundings = Surroundings {
                shard,
                shards_count,
                ids: IdKey(manifest.id_key),
                plan: *plan,
                port,
                verifier: verifier.clone(),
                metrics: metrics.shard(shard),
                session_base,
            };
            Shard::new(part, surroundings)
        })
        .collect()
}

fn spawn(
    ready: Ready,
    config: &Config,
    house: &House,
    outcomes: &mpsc::Sender<Result<(), Failure>>,
) -> Result<FolderLock, String> {
    let Ready { shards, placement, metrics, folder, listeners, _lock: lock, .. } = ready;
    let pinned: Vec<usize> = placement.pins.iter().flatten().copied().collect();
    let allowed = cpus_allowed();
    let worker_cpus: Vec<usize> =
        allowed.iter().copied().filter(|cpu| !pinned.contains(cpu)).collect();
    // With a shard on every CPU the workers go wherever there is a moment.
    let worker_cpus = if worker_cpus.is_empty() { allowed } else { worker_cpus };
    for ((shard, listener), (index, cpu)) in
        shards.into_iter().zip(listeners).zip(placement.pins.iter().enumerate())
    {
        let id = ShardId(u16::try_from(index).expect("at most 1024 shards"));
        let place = Place {
            shard: id,
            listener: Some(listener),
            cpu: *cpu,
            worker_cpus: worker_cpus.clone(),
            folder: folder.clone(),
            sizes: Sizes {
                connections_max: placement.connections_max,
                buffers_count: u16::try_from(config.recv_buffers_count)
                    .expect("the configuration bounds it"),
                buffer_bytes: config.recv_buffer_bytes as usize,
                accepts_max: config.accept_budget,
                spin: Duration::from_micros(u64::from(config.spin_us)),
            },
            metrics: metrics.shard(id),
        };
        let (house, outcomes) = (house.clone(), outcomes.clone());
        thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || {
                let outcome = driver::run(shard, place, house);
                // The main thread waits for every shard; it is there to hear.
                let _ = outcomes.send(outcome);
            })
            .map_err(|error| format!("cannot start shard {index}: {error}"))?;
    }
    Ok(lock)
}

/// The first signal drains, a second one ends the process; so does a drain that takes too long.
fn watch_signals(house: &House, readiness: &ReadinessCell) -> Result<(), String> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .map_err(|error| format!("cannot watch signals: {error}"))?;
    let (house, readiness) = (house.clone(), readiness.clone());
    let watch = move || {
        for (count, _) in signals.forever().enumerate() {
            if count > 0 {
                tracing::warn!("a second signal: ending now");
                std::process::exit(1);
            }
            tracing::info!("draining");
            readiness.set(Readiness::Draining);
            house.drain();
            let spawned = thread::Builder::new().name("drain".into()).spawn(|| {
                wait(DRAIN_TIME_MAX);
                tracing::warn!("the drain took too long: ending now");
                std::process::exit(1);
            });
            drop(spawned);
        }
    };
    let spawned = thread::Builder::new().name("signals".into()).spawn(watch);
    spawned.map(drop).map_err(|error| format!("cannot watch signals: {error}"))
}

fn listen(address: SocketAddr, shards_count: u16) -> io::Result<Vec<TcpListener>> {
    driver::expect_free(address)?;
    let mut address = address;
    let mut listeners = Vec::new();
    for _ in 0..shards_count {
        let listener = driver::listen(address, LISTEN_BACKLOG)?;
        // With port 0 the first one's port is everybody's.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn host() -> Result<Host, String> {
    let open_files_max = driver::raise_open_files()
        .map_err(|error| format!("cannot read the limit on open files: {error}"))?;
    Ok(Host { cpus_allowed: cpus_allowed(), open_files_max })
}

fn cpus_allowed() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let ids: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    if ids.is_empty() { vec![0] } else { ids }
}

fn storage_settings(config: &Config) -> storage::Settings {
    let standard = storage::Settings::standard();
    storage::Settings {
        segment_bytes: config.segment_bytes,
        first_segment_bytes: standard.first_segment_bytes.min(config.segment_bytes),
        commit_window_bytes: config.commit_window_bytes,
        durability: durability(config),
        ..standard
    }
}

fn durability(config: &Config) -> storage::Durability {
    match config.durability {
        Durability::Fsync => storage::Durability::Fsync,
        Durability::Memory => storage::Durability::Memory,
    }
}

fn plan(config: &Config, ids: IdKey, shards_count: u16, connections_max: u32) -> Plan {
    let standard = chat::Settings::standard(ids, shards_count);
    let some = |value: u64| (value > 0).then_some(value);
    Plan {
        connections_max,
        send_queue_bytes_max: u32::try_from(config.send_queue_bytes_max)
            .expect("the configuration bounds it"),
        blocks_max: BLOCKS_MAX,
        auth_timeout_ms: u64::from(config.auth_timeout_s) * 1000,
        heartbeat_interval_ms: u64::from(config.heartbeat_interval_s) * 1000,
        readers_max: READERS_MAX,
        page_backlog_max: PAGE_BACKLOG_MAX,
        snapshot_every_bytes: config.snapshot_every_bytes,
        retention_bytes: some(config.retention_bytes),
        retention_ms: some(u64::from(config.retention_days) * 86_400_000),
        durability: durability(config),
        chat: chat::Settings {
            group_members_max: config.group_members_max,
            dedup_entries_max: config.dedup_entries_max.next_power_of_two(),
            ..standard
        },
    }
}

fn verifier(config: &Config) -> Result<Verifier, String> {
    let tokens = match &config.jwt_hs256_secret_file {
        None => None,
        Some(file) => {
            let secret = std::fs::read(file)
                .map_err(|error| format!("cannot read the secret {}: {error}", file.display()))?;
            let secret = secret.trim_ascii_end();
            if secret.len() < 32 {
                return Err(format!(
                    "the secret in {} has {} bytes: HS256 wants 32 or more",
                    file.display(),
                    secret.len()
                ));
            }
            let (audience, issuer) = (config.jwt_audience.as_deref(), config.jwt_issuer.as_deref());
            Some(TokenRules::hs256(secret, audience, issuer))
        }
    };
    Ok(Verifier { dev_auth: config.dev_auth, tokens })
}

#[expect(clippy::disallowed_methods, reason = "a start is measured by its own clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "sessions of two processes must differ")]
fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).expect("fits for ages")
}

#[expect(clippy::disallowed_methods, reason = "this thread does nothing else")]
fn wait(time: Duration) {
    thread::sleep(time);
}
