//! A session with a socket and a clock, on the caller's thread.
//!
//! Nothing happens but within [`Client::poll`], which connects, reads, writes, keeps the session
//! alive and reconnects. There is no thread to stop and no lock to wait for.

use crate::event::Event;
use crate::session::{Identity, Session};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 * 1024;

/// What [`Client::poll`] has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The session's own.
    Event(Event),
    /// There is no connection; the next try comes by itself.
    Disconnected {
        /// For people.
        why: String,
        /// Until the next try.
        retry_in: Duration,
    },
    /// There is no connection and there will be none: the server would only refuse it.
    Ended {
        /// For people.
        why: String,
    },
}

/// A session with a socket and a clock.
pub struct Client {
    session: Session,
    server: String,
    stream: Option<TcpStream>,
    /// When to connect; none where there is no use in it, or where there is a connection.
    connect_at: Option<Duration>,
    notice: Option<Notice>,
    epoch: Instant,
    buffer: Box<[u8]>,
}

impl Client {
    /// A client of the server at `server`, such as `127.0.0.1:7400`. Nothing is connected before
    /// the first [`Client::poll`]. `seed` is fresh entropy: see [`crate::Ids`].
    #[expect(clippy::disallowed_methods, reason = "the shell owns the clock")]
    pub fn new(server: &str, identity: Identity, seed: u128) -> Self {
        Self {
            session: Session::new(identity, seed),
            server: server.to_owned(),
            stream: None,
            connect_at: Some(Duration::ZERO),
            notice: None,
            epoch: Instant::now(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// The session, to send and to ask. What it has to say goes out with the next poll.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The time as the session counts it.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Does what is to be done until there is something to say, for at most about `wait`.
    pub fn poll(&mut self, wait: Duration) -> Option<Notice> {
        let deadline = self.now() + wait;
        loop {
            if let Some(event) = self.session.poll_event() {
                return Some(Notice::Event(event));
            }
            if let Some(notice) = self.notice.take() {
                return Some(notice);
            }
            let now = self.now();
            if self.stream.is_none() {
                match self.connect_at {
                    Some(at) if at <= now => self.connect(),
                    at => sleep_until(now, at.map_or(deadline, |at| at.min(deadline))),
                }
            } else if let Err(why) = self.exchange(now, deadline) {
                self.disconnect(why);
            }
            if self.now() >= deadline && !self.has_news() {
                return None;
            }
        }
    }

    fn has_news(&self) -> bool {
        self.notice.is_some() || self.session.has_event()
    }

    fn connect(&mut self) {
        match open(&self.server) {
            Ok(stream) => {
                self.stream = Some(stream);
                self.connect_at = None;
                let now = self.now();
                self.session.handle_connected(now);
            }
            Err(error) => self.disconnect(format!("cannot reach {}: {error}", self.server)),
        }
    }

    fn disconnect(&mut self, why: String) {
        self.stream = None;
        let now = self.now();
        self.connect_at = self.session.handle_disconnected(now);
        self.notice = Some(match self.connect_at {
            Some(at) => Notice::Disconnected { why, retry_in: at.saturating_sub(now) },
            None => Notice::Ended { why },
        });
    }

    /// Writes what is to be written and reads once. The error is for people.
    fn exchange(&mut self, now: Duration, deadline: Duration) -> Result<(), String> {
        let stream = self.stream.as_mut().expect("the caller looked");
        self.session.handle_timeout(now).map_err(|error| error.to_string())?;
        while let Some(bytes) = self.session.poll_transmit(now) {
            stream.write_all(&bytes).map_err(|error| format!("cannot write: {error}"))?;
        }
        let until = self.session.poll_timeout().map_or(deadline, |at| at.min(deadline));
        // A timeout of zero would mean none at all.
        let wait = until.saturating_sub(now).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(wait)).map_err(|error| error.to_string())?;
        match stream.read(&mut self.buffer) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(count) => {
                let now = self.epoch.elapsed();
                let bytes = &self.buffer[..count];
                self.session.handle_bytes(now, bytes).map_err(|error| error.to_string())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(format!("cannot read: {error}")),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

#[expect(clippy::disallowed_methods, reason = "the shell waits between two tries")]
fn sleep_until(now: Duration, until: Duration) {
    std::thread::sleep(until.saturating_sub(now));
}

/// Connects to the first address of `server` that answers.
fn open(server: &str) -> io::Result<TcpStream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_TIME_MAX))?;
                return Ok(stream);
            }
            Err(refused) => error = refused,
        }
    }
    Err(error)
}
