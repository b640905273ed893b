//! All lanes between all shards, and one shard's ends of them: its port.
//!
//! Why two kinds of lane: with one, two shards that flood each other would both wait for room
//! and neither would make any. So traffic has two ranks. Handling a *parcel* sends nothing, hence
//! parcels can always be taken and their lanes always empty. Handling a *request* may send
//! parcels, hence a request is taken only while every parcel lane has room for all that one
//! request may send there (`parcels_reserve`); else it stays where it is and presses back. A full
//! request lane is an answer to the caller, who refuses the client, and never a wait. So nobody
//! waits for anybody who waits.
//!
//! A turn: take parcels, take requests, send, and end with one [`Port::publish`].

use crossbeam_utils::CachePadded;
use wire::ShardId;

use crate::atomic::Arc;
use crate::doorbell::{Doorbell, Published};
use crate::ring::{Consumer, Full, Producer, ring};

/// Items taken from one source before the next has its chance.
const SOURCE_BITE_MAX: u32 = 32;

/// How long the lanes of a mesh are.
#[derive(Clone, Copy, Debug)]
pub struct LaneCapacities {
    /// Slots of each request lane: a power of two.
    pub requests_max: u32,
    /// Slots of each parcel lane: a power of two.
    pub parcels_max: u32,
    /// The most parcels that handling one request may send to one shard.
    pub parcels_reserve: u32,
}

/// Builds the ports of `ports_count` threads, in the order of their ids. A thread that owns no
/// partition may be one of them: a mesh knows only a count.
pub fn mesh<R, P>(ports_count: u16, capacities: LaneCapacities) -> Vec<Port<R, P>> {
    assert!(ports_count > 0);
    assert!(
        (1..=capacities.parcels_max).contains(&capacities.parcels_reserve),
        "a reserve that no lane can hold would stop all requests"
    );
    let doorbells = (0..ports_count).map(|_| CachePadded::new(Doorbell::new())).collect();
    let doorbells: Arc<Box<[_]>> = Arc::new(doorbells);
    let mut ports: Vec<_> = (0..ports_count)
        .map(|shard| Port {
            shard: ShardId(shard),
            peers: Vec::with_capacity(usize::from(ports_count) - 1),
            touched: Vec::with_capacity(usize::from(ports_count) - 1),
            doorbells: Arc::clone(&doorbells),
            parcels_reserve: capacities.parcels_reserve,
            parcels_slack: 0,
            parcel_sources: Rotation::default(),
            request_sources: Rotation::default(),
        })
        .collect();
    // Every port meets its peers in the order of their ids: first those below it, each of which
    // comes by as `low`, then those above it.
    for high in 1..ports.len() {
        for low in 0..high {
            let (low_end, high_end) = peers(ports[low].shard, ports[high].shard, capacities);
            ports[high].peers.push(low_end);
            ports[low].peers.push(high_end);
        }
    }
    ports
}

/// Two shards' ends of the four lanes between them: `low` as `high` sees it, and the reverse.
fn peers<R, P>(
    low: ShardId,
    high: ShardId,
    capacities: LaneCapacities,
) -> (Peer<R, P>, Peer<R, P>) {
    let (requests_up, requests_at_high) = ring(capacities.requests_max);
    let (requests_down, requests_at_low) = ring(capacities.requests_max);
    let (parcels_up, parcels_at_high) = ring(capacities.parcels_max);
    let (parcels_down, parcels_at_low) = ring(capacities.parcels_max);
    let low_end = Peer {
        shard: low,
        requests_out: requests_down,
        parcels_out: parcels_down,
        requests_in: requests_at_high,
        parcels_in: parcels_at_high,
    };
    let high_end = Peer {
        shard: high,
        requests_out: requests_up,
        parcels_out: parcels_up,
        requests_in: requests_at_low,
        parcels_in: parcels_at_low,
    };
    (low_end, high_end)
}

/// One shard's ends of all its lanes. It moves to the shard's thread and stays there.
pub struct Port<R, P> {
    shard: ShardId,
    /// All other shards, by id; our own is left out.
    peers: Vec<Peer<R, P>>,
    /// Indices of the peers that something is staged for, each once.
    touched: Vec<u16>,
    doorbells: Arc<Box<[CachePadded<Doorbell>]>>,
    parcels_reserve: u32,
    /// So many more parcels may go out, wherever to, before any lane can be short of its reserve.
    /// Saves looking at every lane for every request.
    parcels_slack: u32,
    parcel_sources: Rotation,
    request_sources: Rotation,
}

/// Our ends of the four lanes that we share with one other shard.
struct Peer<R, P> {
    shard: ShardId,
    requests_out: Producer<R>,
    parcels_out: Producer<P>,
    requests_in: Consumer<R>,
    parcels_in: Consumer<P>,
}

impl<R, P> Peer<R, P> {
    fn has_staged(&self) -> bool {
        self.requests_out.has_staged() || self.parcels_out.has_staged()
    }
}

/// Items waiting in the four lanes to and from one peer, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDepths {
    /// The peer.
    pub peer: ShardId,
    /// Requests that it has not released.
    pub requests_out: u32,
    /// Parcels that it has not released.
    pub parcels_out: u32,
    /// Its requests that we have not taken.
    pub requests_in: u32,
    /// Its parcels that we have not taken.
    pub parcels_in: u32,
}

impl<R, P> Port<R, P> {
    /// Whose port this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Ports in the mesh, ours included.
    pub fn ports_count(&self) -> usize {
        self.doorbells.len()
    }

    /// Stages a request, or gives it back: the target is overloaded, and the client must hear so.
    pub fn send_request(&mut self, to: ShardId, request: R) -> Result<(), Full<R>> {
        let index = self.peer_index(to);
        let peer = &mut self.peers[index];
        let is_first = !peer.has_staged();
        peer.requests_out.push(request)?;
        self.touch(index, is_first);
        Ok(())
    }

    /// Stages a parcel. A handler that keeps to `parcels_reserve` never gets it back while the
    /// target lives.
    pub fn send_parcel(&mut self, to: ShardId, parcel: P) -> Result<(), Full<P>> {
        let index = self.peer_index(to);
        let peer = &mut self.peers[index];
        let is_first = !peer.has_staged();
        peer.parcels_out.push(parcel)?;
        self.touch(index, is_first);
        self.parcels_slack = self.parcels_slack.saturating_sub(1);
        Ok(())
    }

    /// How many parcels can be staged for one target, by a fresh look.
    pub fn parcels_room(&mut self, to: ShardId) -> u32 {
        let index = self.peer_index(to);
        self.peers[index].parcels_out.free_count()
    }

    /// True if every parcel lane has room for what one request may send. Ask before handling a
    /// command of one's own, which sends as much as a request of others.
    pub fn has_parcels_room(&mut self) -> bool {
        if self.parcels_slack > 0 {
            return true;
        }
        // A shard that is gone takes nothing and must not hold up the others while they drain.
        let lanes = self.peers.iter_mut().map(|peer| &mut peer.parcels_out);
        let alive = lanes.filter(|lane| !lane.is_abandoned());
        let room = alive.map(Producer::free_count).min().unwrap_or(u32::MAX);
        // One more than the surplus: the lane is short only after the parcel beyond it.
        self.parcels_slack = room.saturating_sub(self.parcels_reserve - 1);
        self.parcels_slack > 0
    }

    /// Takes a parcel, from all sources in turn. Handling it must send nothing.
    pub fn next_parcel(&mut self) -> Option<(ShardId, P)> {
        let peers = &mut self.peers;
        self.parcel_sources.next(peers.len(), |index| {
            let peer = &mut peers[index];
            Some((peer.shard, peer.parcels_in.pop()?))
        })
    }

    /// Takes a request, from all sources in turn, unless a parcel lane is short of its reserve:
    /// then the request waits, and parcels must be taken and published meanwhile.
    pub fn next_request(&mut self) -> Option<(ShardId, R)> {
        if !self.has_parcels_room() {
            return None;
        }
        let peers = &mut self.peers;
        self.request_sources.next(peers.len(), |index| {
            let peer = &mut peers[index];
            Some((peer.shard, peer.requests_in.pop()?))
        })
    }

    /// Ends a turn: shows all that was staged, gives back the slots of all that was taken, and
    /// names every target that sleeps and must be woken.
    pub fn publish(&mut self, mut ring_bell: impl FnMut(ShardId)) {
        for peer in &mut self.peers {
            peer.requests_in.release();
            peer.parcels_in.release();
        }
        if self.touched.is_empty() {
            return;
        }
        for index in &self.touched {
            let peer = &mut self.peers[usize::from(*index)];
            peer.requests_out.publish();
            peer.parcels_out.publish();
        }
        let published = Published::fence();
        for index in self.touched.drain(..) {
            let target = self.peers[usize::from(index)].shard;
            if self.doorbells[usize::from(target.0)].must_ring(&published) {
                ring_bell(target);
            }
        }
    }

    /// Asks to sleep, after [`publish`](Self::publish). True: the shard is marked asleep and the
    /// driver may wait for the bell; call [`awake`](Self::awake) when it runs again. False: there
    /// is something to take, or a parcel lane is short of its reserve and nobody rings when it
    /// gets room, so the shard must turn again.
    pub fn prepare_sleep(&mut self) -> bool {
        assert!(self.touched.is_empty(), "a shard that sleeps on staged items never sends them");
        if !self.has_parcels_room() {
            return false;
        }
        self.doorbell().prepare_sleep();
        let is_idle = self
            .peers
            .iter_mut()
            .all(|peer| peer.parcels_in.is_empty() && peer.requests_in.is_empty());
        if !is_idle {
            self.doorbell().awake();
        }
        is_idle
    }

    /// Says that the shard runs again, whatever woke it.
    pub fn awake(&self) {
        self.doorbell().awake();
    }

    /// What waits in each lane, by a fresh look.
    pub fn depths(&self) -> impl Iterator<Item = LaneDepths> + '_ {
        self.peers.iter().map(|peer| LaneDepths {
            peer: peer.shard,
            requests_out: peer.requests_out.depth(),
            parcels_out: peer.parcels_out.depth(),
            requests_in: peer.requests_in.depth(),
            parcels_in: peer.parcels_in.depth(),
        })
    }

    fn doorbell(&self) -> &Doorbell {
        &self.doorbells[usize::from(self.shard.0)]
    }

    fn peer_index(&self, to: ShardId) -> usize {
        assert!(to != self.shard, "a shard has no lane to itself");
        usize::from(to.0) - usize::from(to > self.shard)
    }

    /// Remembers to publish to a peer, at the first item staged for it.
    fn touch(&mut self, index: usize, is_first: bool) {
        if is_first {
            self.touched.push(u16::try_from(index).expect("shard ids are 16 bits"));
        }
    }
}

/// Whose turn it is among the sources of one kind of lane.
#[derive(Default)]
struct Rotation {
    source_index: usize,
    /// Taken from this source since it came on.
    taken_count: u32,
}

impl Rotation {
    /// Asks the source at hand, and the others after it when it has nothing or had its bite.
    fn next<T>(
        &mut self,
        sources_count: usize,
        mut take: impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        // One look more than there are sources: the one at hand may have had its bite, and is
        // then asked last.
        for _ in 0..=sources_count {
            if self.taken_count < SOURCE_BITE_MAX
                && self.source_index < sources_count
                && let Some(item) = take(self.source_index)
            {
                self.taken_count += 1;
                return Some(item);
            }
            self.source_index =
                if self.source_index + 1 < sources_count { self.source_index + 1 } else { 0 };
            self.taken_count = 0;
        }
        None
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SMALL: LaneCapacities =
        LaneCapacities { requests_max: 2, parcels_max: 2, parcels_reserve: 1 };

    fn pair(capacities: LaneCapacities) -> (Port<u32, u32>, Port<u32, u32>) {
        let mut ports = mesh(2, capacities);
        let second = ports.pop().unwrap();
        (ports.pop().unwrap(), second)
    }

    fn publish<R, P>(port: &mut Port<R, P>) -> Vec<u16> {
        let mut rung = Vec::new();
        port.publish(|shard| rung.push(shard.0));
        rung
    }

    #[test]
    fn every_port_reaches_every_other() {
        let mut ports = mesh::<(u16, u16), (u16, u16)>(5, SMALL);
        for port in &mut ports {
            let from = port.shard().0;
            for to in (0..5).filter(|to| *to != from) {
                port.send_request(ShardId(to), (from, to)).unwrap();
                port.send_parcel(ShardId(to), (from, to)).unwrap();
            }
            port.publish(|_| panic!("everybody is awake"));
        }
        for port in &mut ports {
            let to = port.shard().0;
            let others: Vec<_> = (0..5).filter(|from| *from != to).collect();
            let parcels: Vec<_> = std::iter::from_fn(|| port.next_parcel()).collect();
            let expected: Vec<_> =
                others.iter().map(|from| (ShardId(*from), (*from, to))).collect();
            assert_eq!(parcels, expected);
            let requests: Vec<_> = std::iter::from_fn(|| port.next_request()).collect();
            assert_eq!(requests, expected);
        }
    }

    #[test]
    fn nothing_is_visible_before_the_turn_ends() {
        let (mut left, mut right) = pair(SMALL);
        left.send_parcel(ShardId(1), 7).unwrap();
        assert_eq!(right.next_parcel(), None);
        publish(&mut left);
        assert_eq!(right.next_parcel(), Some((ShardId(0), 7)));
    }

    #[test]
    fn a_full_request_lane_is_an_answer() {
        let (mut left, mut right) = pair(SMALL);
        left.send_request(ShardId(1), 1).unwrap();
        left.send_request(ShardId(1), 2).unwrap();
        assert_eq!(left.send_request(ShardId(1), 3), Err(Full(3)));
        publish(&mut left);
        assert_eq!(left.send_request(ShardId(1), 3), Err(Full(3)));
        assert!(publish(&mut left).is_empty());
        right.next_request();
        publish(&mut right);
        assert_eq!(left.send_request(ShardId(1), 3), Ok(()));
    }

    #[test]
    fn requests_wait_while_a_parcel_lane_is_short_of_its_reserve() {
        let capacities = LaneCapacities { requests_max: 4, parcels_max: 4, parcels_reserve: 3 };
        let (mut left, mut right) = pair(capacities);
        for request in 0..3 {
            left.send_request(ShardId(1), request).unwrap();
        }
        publish(&mut left);
        assert_eq!(right.next_request(), Some((ShardId(0), 0)));
        right.send_parcel(ShardId(0), 0).unwrap();
        assert_eq!(right.parcels_room(ShardId(0)), 3);
        assert_eq!(right.next_request(), Some((ShardId(0), 1)));
        right.send_parcel(ShardId(0), 1).unwrap();
        assert_eq!(right.next_request(), None);
        publish(&mut right);
        assert!(!right.prepare_sleep(), "nobody would wake it when there is room");
        assert_eq!(left.next_parcel(), Some((ShardId(1), 0)));
        publish(&mut left);
        assert_eq!(right.next_request(), Some((ShardId(0), 2)));
    }

    #[test]
    fn a_shard_that_is_gone_holds_up_nobody() {
        let capacities = LaneCapacities { requests_max: 2, parcels_max: 2, parcels_reserve: 2 };
        let mut ports = mesh::<u32, u32>(3, capacities);
        let (gone, mut right, mut left) =
            (ports.pop().unwrap(), ports.pop().unwrap(), ports.pop().unwrap());
        right.send_parcel(gone.shard(), 1).unwrap();
        publish(&mut right);
        left.send_request(right.shard(), 2).unwrap();
        publish(&mut left);
        assert_eq!(right.next_request(), None);
        drop(gone);
        assert_eq!(right.next_request(), Some((ShardId(0), 2)));
    }

    #[test]
    fn a_flooding_source_does_not_starve_another() {
        let lane = SOURCE_BITE_MAX * 4;
        let capacities =
            LaneCapacities { requests_max: lane, parcels_max: lane, parcels_reserve: 1 };
        let mut ports = mesh::<u32, u32>(3, capacities);
        for item in 0..lane {
            ports[1].send_request(ShardId(0), item).unwrap();
        }
        ports[2].send_request(ShardId(0), 0).unwrap();
        publish(&mut ports[1]);
        publish(&mut ports[2]);
        let first_of_quiet = (0..).find(|_| ports[0].next_request().unwrap().0 == ShardId(2));
        assert_eq!(first_of_quiet, Some(SOURCE_BITE_MAX));
        let rest_count = std::iter::from_fn(|| ports[0].next_request()).count();
        assert_eq!(rest_count, (lane - SOURCE_BITE_MAX) as usize);
    }

    #[test]
    fn a_sleeper_is_rung_once_a_turn_and_only_by_who_sent() {
        let (mut left, mut right) = pair(SMALL);
        assert!(right.prepare_sleep());
        assert!(publish(&mut left).is_empty());
        left.send_request(ShardId(1), 1).unwrap();
        left.send_parcel(ShardId(1), 2).unwrap();
        assert_eq!(publish(&mut left), [1]);
        left.send_parcel(ShardId(1), 3).unwrap();
        assert!(publish(&mut left).is_empty(), "it is being woken already");
        right.awake();
        assert!(!right.prepare_sleep(), "there is something to take");
        while right.next_parcel().is_some() {}
        assert!(!right.prepare_sleep(), "a request is left");
        right.next_request();
        assert!(right.prepare_sleep());
    }

    #[test]
    #[should_panic(expected = "sleeps on staged items")]
    fn a_shard_that_sleeps_publishes_first() {
        let (mut left, _right) = pair(SMALL);
        left.send_parcel(ShardId(1), 1).unwrap();
        left.prepare_sleep();
    }

    #[test]
    fn depths_count_what_waits() {
        let (mut left, mut right) = pair(SMALL);
        left.send_request(ShardId(1), 1).unwrap();
        left.send_parcel(ShardId(1), 2).unwrap();
        left.send_parcel(ShardId(1), 3).unwrap();
        publish(&mut left);
        right.next_parcel();
        let of_left = LaneDepths {
            peer: ShardId(1),
            requests_out: 1,
            parcels_out: 2,
            requests_in: 0,
            parcels_in: 0,
        };
        assert_eq!(left.depths().collect::<Vec<_>>(), [of_left]);
        let of_right = LaneDepths {
            peer: ShardId(0),
            requests_out: 0,
            parcels_out: 0,
            requests_in: 1,
            parcels_in: 1,
        };
        assert_eq!(right.depths().collect::<Vec<_>>(), [of_right]);
    }

    /// What one shard of the flood does: it asks every other shard `REQUESTS_COUNT` times, and
    /// answers each request with parcels to all. It sleeps by parking, its bell is an unpark.
    struct Flooder {
        port: Port<u32, (ShardId, u32)>,
        others: Vec<(ShardId, thread::Thread)>,
        /// By shard: requests sent there, requests taken from there.
        asked: Vec<u32>,
        answered: Vec<u32>,
        /// Parcels that came, by the shard that sent them and the one that had asked.
        parcels: Vec<Vec<u32>>,
    }

    const REQUESTS_COUNT: u32 = if cfg!(miri) { 10 } else { 2_000 };
    const FLOOD: LaneCapacities =
        LaneCapacities { requests_max: 2, parcels_max: 2, parcels_reserve: 2 };

    impl Flooder {
        fn turn(&mut self) {
            while let Some((owner, (asker, number))) = self.port.next_parcel() {
                let seen = &mut self.parcels[usize::from(owner.0)][usize::from(asker.0)];
                assert_eq!(*seen, number, "a lane lost something or changed its order");
                *seen += 1;
            }
            for (to, _) in &self.others {
                let asked = &mut self.asked[usize::from(to.0)];
                while *asked < REQUESTS_COUNT && self.port.send_request(*to, *asked).is_ok() {
                    *asked += 1;
                }
            }
            while let Some((asker, number)) = self.port.next_request() {
                let answered = &mut self.answered[usize::from(asker.0)];
                assert_eq!(*answered, number, "a lane lost something or changed its order");
                *answered += 1;
                for (to, _) in &self.others {
                    for copy in 0..FLOOD.parcels_reserve {
                        let parcel = (asker, number * FLOOD.parcels_reserve + copy);
                        self.port.send_parcel(*to, parcel).expect("the reserve was there");
                    }
                }
            }
            let others = &self.others;
            self.port.publish(|to| {
                let (_, thread) = others.iter().find(|(shard, _)| *shard == to).unwrap();
                thread.unpark();
            });
        }

        fn is_done(&self) -> bool {
            let me = self.port.shard();
            let expected = REQUESTS_COUNT * FLOOD.parcels_reserve;
            self.others.iter().all(|(other, _)| {
                let other = usize::from(other.0);
                let askers = self.parcels[other].iter().enumerate();
                self.asked[other] == REQUESTS_COUNT
                    && self.answered[other] == REQUESTS_COUNT
                    && askers.filter(|(asker, _)| *asker != other).all(|(_, n)| *n == expected)
            }) && self.parcels[usize::from(me.0)].iter().all(|n| *n == 0)
        }

        fn run(mut self) {
            loop {
                self.turn();
                if self.is_done() {
                    return;
                }
                let is_waiting_to_ask = self
                    .others
                    .iter()
                    .any(|(to, _)| self.asked[usize::from(to.0)] < REQUESTS_COUNT);
                if is_waiting_to_ask || !self.port.prepare_sleep() {
                    thread::yield_now();
                    continue;
                }
                thread::park();
                self.port.awake();
            }
        }
    }

    /// A lost wake-up or a deadlock shows as a thread that never reports.
    fn check_flood(ports_count: u16) {
        let (done, all_done) = mpsc::channel();
        let mut starts = Vec::new();
        let mut threads = Vec::new();
        for port in mesh::<u32, (ShardId, u32)>(ports_count, FLOOD) {
            let (start, started) = mpsc::channel::<Vec<(ShardId, thread::Thread)>>();
            let done = done.clone();
            let shard = port.shard();
            let running = thread::spawn(move || {
                let others = started.recv().unwrap();
                let zeros = vec![0; usize::from(ports_count)];
                let parcels = vec![zeros.clone(); usize::from(ports_count)];
                Flooder { port, others, asked: zeros.clone(), answered: zeros, parcels }.run();
                done.send(shard).unwrap();
            });
            threads.push((shard, running.thread().clone()));
            starts.push((shard, start));
        }
        for (shard, start) in starts {
            let others = threads.iter().filter(|(other, _)| *other != shard).cloned().collect();
            start.send(others).unwrap();
        }
        for _ in 0..ports_count {
            all_done.recv_timeout(Duration::from_secs(60)).expect("the mesh stands still");
        }
    }

    #[test]
    fn two_ports_that_flood_each_other_both_finish() {
        check_flood(2);
    }

    #[test]
    fn three_ports_that_flood_each_other_all_finish() {
        check_flood(3);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use loom::sync::Notify;
    use loom::thread;

    use super::*;

    const TINY: LaneCapacities =
        LaneCapacities { requests_max: 1, parcels_max: 1, parcels_reserve: 1 };

    /// Takes until `wanted` items came, asleep whenever there is nothing; answers requests.
    fn take(port: &mut Port<u32, u32>, bells: &[Notify; 2], wanted: usize) {
        let me = usize::from(port.shard().0);
        let mut taken_count = 0;
        loop {
            while port.next_parcel().is_some() {
                taken_count += 1;
            }
            while let Some((asker, request)) = port.next_request() {
                port.send_parcel(asker, request).unwrap();
                taken_count += 1;
            }
            port.publish(|to| bells[usize::from(to.0)].notify());
            if taken_count == wanted {
                return;
            }
            if port.prepare_sleep() {
                bells[me].wait();
                port.awake();
            } else {
                thread::yield_now();
            }
        }
    }

    /// One port asks, the other answers; loom reports a lost wake-up as a deadlock.
    #[test]
    fn loom_a_request_is_answered_though_both_sleep() {
        loom::model(|| {
            let bells = Arc::new([Notify::new(), Notify::new()]);
            let mut ports = mesh::<u32, u32>(2, TINY);
            let (mut owner, mut home) = (ports.pop().unwrap(), ports.pop().unwrap());
            let heard = Arc::clone(&bells);
            let owner = thread::spawn(move || {
                take(&mut owner, &heard, 1);
                owner
            });
            home.send_request(ShardId(1), 7).unwrap();
            home.publish(|to| bells[usize::from(to.0)].notify());
            take(&mut home, &bells, 1);
            owner.join().unwrap();
        });
    }
}
