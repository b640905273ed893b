//! Two users who talk while something else goes wrong, and must not notice.

use super::{Client, PATIENCE, Server, wait_for};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The pair, talking in a thread of its own.
pub(crate) struct Bystanders {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    talk: Option<JoinHandle<()>>,
}

impl Bystanders {
    pub(crate) fn of(server: &Server) -> Self {
        let mut left = server.client("bystander.left");
        let mut right = server.client("bystander.right");
        let rounds = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, stopped) = (Arc::clone(&rounds), Arc::clone(&stop));
        let talk = move || {
            for round in 0.. {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                exchange(&mut left, &mut right, round);
                exchange(&mut right, &mut left, round);
                counted.fetch_add(1, Ordering::Release);
                thread::sleep(Duration::from_millis(2));
            }
        };
        Self { rounds, stop, talk: Some(thread::spawn(talk)) }
    }

    /// Waits until they have exchanged messages that were begun after this call.
    pub(crate) fn expect_talking(&self) {
        let until = self.rounds.load(Ordering::Acquire) + 2;
        let talk = self.talk.as_ref().unwrap();
        wait_for("the bystanders", PATIENCE, || {
            assert!(!talk.is_finished(), "a bystander was disturbed");
            (self.rounds.load(Ordering::Acquire) >= until).then_some(())
        });
    }

    /// Ends the talk; everything said in it was heard.
    pub(crate) fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.talk.take().unwrap().join().expect("a bystander was disturbed");
        self.rounds.load(Ordering::Acquire)
    }
}

fn exchange(from: &mut Client, to: &mut Client, round: u64) {
    let text = format!("{} says {round}", from.user);
    let peer = to.user.clone();
    let sent = from.say(&peer, text.as_bytes());
    let message = to.message();
    assert_eq!((message.content.as_slice(), message.sequence), (text.as_bytes(), sent.sequence.0));
}
