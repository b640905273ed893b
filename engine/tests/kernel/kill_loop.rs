//! Kill, start, again: what was acknowledged is there, once, in order.

use crate::support::{Client, Dice, Folder, Received, Server};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};
use wire::Kind;
use wire::fixed::{Sent, SentStatus};

/// How often, where nobody says otherwise.
const KILLS_COUNT: u64 = 8;
const KILLS_VARIABLE: &str = "RINGMAIN_KILLS";
const WINDOW: usize = 12;

/// One user, and what it knows across all its connections.
struct Talker {
    user: String,
    peer: String,
    /// Messages get numbers from 1 on, which are their ids and their text.
    newest: u128,
    /// In the order they were first sent.
    unacknowledged: Vec<u128>,
    acknowledged: BTreeMap<u128, Sent>,
    duplicates_count: u64,
    /// What was delivered, by sequence.
    delivered: BTreeMap<u64, String>,
}

impl Talker {
    fn new(user: &str, peer: &str) -> Self {
        Self {
            user: user.to_owned(),
            peer: peer.to_owned(),
            newest: 0,
            unacknowledged: Vec::new(),
            acknowledged: BTreeMap::new(),
            duplicates_count: 0,
            delivered: BTreeMap::new(),
        }
    }

    /// Talks until the connection ends; with `is_last` only until everything is acknowledged.
    fn talk(&mut self, address: SocketAddr, is_last: bool) {
        let Ok(mut client) = Client::try_login(address, &self.user) else {
            assert!(!is_last, "nobody is killed any more");
            return;
        };
        let mut asked: BTreeMap<u64, u128> = BTreeMap::new();
        // All that is in doubt goes first, in its order, then what is new.
        let mut again = self.unacknowledged.clone().into_iter();
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(20), "{} hangs", self.user);
            while asked.len() < WINDOW {
                let Some(number) = again.next().or_else(|| (!is_last).then(|| self.take_new()))
                else {
                    break;
                };
                let text = format!("{} {number}", self.user);
                let Ok(reference) = client.try_send(&self.peer, number, text.as_bytes()) else {
                    return;
                };
                asked.insert(reference, number);
            }
            if asked.is_empty() {
                assert_eq!(self.unacknowledged, [0; 0]);
                return;
            }
            match client.try_next(Duration::from_secs(5)) {
                Ok(Some(frame)) => self.take(&frame, &mut asked),
                Ok(None) => panic!("{} waits in vain", self.user),
                Err(_) => return,
            }
        }
    }

    fn take_new(&mut self) -> u128 {
        self.newest += 1;
        self.unacknowledged.push(self.newest);
        self.newest
    }

    fn take(&mut self, frame: &Received, asked: &mut BTreeMap<u64, u128>) {
        match frame.kind {
            Kind::MessageSent => {
                let sent = frame.sent();
                let number = asked.remove(&frame.reference).expect("an answer to a question");
                assert_eq!(sent.client_message.0, number);
                self.duplicates_count += u64::from(sent.status == SentStatus::Duplicate);
                self.unacknowledged.retain(|waiting| *waiting != number);
                let before = self.acknowledged.insert(number, sent);
                assert_eq!(before, None, "acknowledged twice in a session");
            }
            Kind::Deliver => {
                let message = frame.message();
                self.heard(message.sequence, message.text());
            }
            Kind::SyncBatch => {
                for message in frame.page().0 {
                    self.heard(message.sequence, message.text());
                }
            }
            Kind::Error => panic!("{} was refused: {:?}", self.user, frame.error()),
            _ => {}
        }
    }

    /// A message may come again in another session, but never as another one.
    fn heard(&mut self, sequence: u64, text: &str) {
        let before = self.delivered.insert(sequence, text.to_owned());
        assert!(before.is_none_or(|before| before == text), "{sequence} was two messages");
    }

    /// Compares all that this user was told with what is stored.
    fn check(&self, server: &Server) -> usize {
        let mut client = server.device(&self.user, "reader");
        let conversation = client.listed(&self.peer).conversation;
        let history = client.whole_history(conversation);
        let numbers: Vec<u64> = history.iter().map(|message| message.sequence).collect();
        assert_eq!(numbers, (1..=history.len() as u64).collect::<Vec<_>>());
        let at = |sequence: u64| &history[usize::try_from(sequence).unwrap() - 1];
        for (number, sent) in &self.acknowledged {
            let message = at(sent.sequence.0);
            assert_eq!(message.text(), format!("{} {number}", self.user));
            assert_eq!(message.id, sent.message);
        }
        for (sequence, text) in &self.delivered {
            assert_eq!(at(*sequence).text(), text, "delivered and then lost");
        }
        // Each once, in the order they were first sent.
        let own = history.iter().filter(|message| message.sender == self.user);
        let own: Vec<String> = own.map(|message| message.text().to_owned()).collect();
        let all: Vec<String> = (1..=self.newest).map(|n| format!("{} {n}", self.user)).collect();
        assert_eq!(own, all);
        self.acknowledged.len()
    }
}

fn kills_count() -> u64 {
    std::env::var(KILLS_VARIABLE).map_or(KILLS_COUNT, |count| {
        count.parse().unwrap_or_else(|_| panic!("{KILLS_VARIABLE} is a number of rounds"))
    })
}

#[test]
fn kill_loop() {
    let folder = Folder::new();
    let pairs = [("ann", "ben"), ("ben", "ann"), ("cem", "dan"), ("dan", "cem")];
    let mut talkers: Vec<Talker> =
        pairs.iter().map(|(user, peer)| Talker::new(user, peer)).collect();
    let rounds = kills_count();
    let mut dice = Dice::new(20);
    let started = Instant::now();
    for round in 0..=rounds {
        let shards = ["1", "2", "3"][usize::try_from(round / 4 % 3).unwrap()];
        let server = folder.serve(&["--shards", shards]);
        let address = server.native;
        let is_last = round == rounds;
        talkers = thread::scope(|scope| {
            let talk = |mut talker: Talker| {
                scope.spawn(move || {
                    talker.talk(address, is_last);
                    talker
                })
            };
            let talking: Vec<_> = talkers.drain(..).map(talk).collect();
            if !is_last {
                thread::sleep(Duration::from_millis(30 + dice.below(300)));
                server.kill();
                return talking.into_iter().map(|talking| talking.join().unwrap()).collect();
            }
            let talkers = talking.into_iter().map(|talking| talking.join().unwrap()).collect();
            server.stop();
            talkers
        });
    }
    let server = folder.serve(&[]);
    let acknowledged: usize = talkers.iter().map(|talker| talker.check(&server)).sum();
    let duplicates: u64 = talkers.iter().map(|talker| talker.duplicates_count).sum();
    server.stop();
    assert!(acknowledged as u64 > rounds, "hardly anything was said");
    println!(
        "kill_loop: {rounds} kills, {acknowledged} messages acknowledged, {duplicates} retries \
         recognised, 0 lost, 0 twice, 0 out of order, in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
