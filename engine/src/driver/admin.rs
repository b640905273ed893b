//! The admin door: metrics and health over HTTP/1.1, on a thread of its own.
//!
//! One connection at a time, one request a connection, so many bytes and so much time a request:
//! a collector asks every few seconds, and whoever is slower than that waits for nobody but
//! itself. It reads counters and one byte of readiness, and cannot make a shard wait.

use crate::metrics::Metrics;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const REQUEST_BYTES_MAX: usize = 8 * 1024;
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);
const HEADERS_MAX: usize = 64;

/// Whether a balancer should send clients here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// The log is being recovered.
    Starting = 0,
    /// Clients are served.
    Ready = 1,
    /// The process is about to end.
    Draining = 2,
    /// A write or sync of a log failed; the process is about to stop.
    Poisoned = 3,
}

impl Readiness {
    fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Poisoned => "poisoned",
        }
    }
}

/// The readiness of a process: written by its main thread, read by the admin thread.
#[derive(Clone, Debug, Default)]
pub struct ReadinessCell(Arc<AtomicU8>);

impl ReadinessCell {
    /// Sets it.
    pub fn set(&self, readiness: Readiness) {
        self.0.store(readiness as u8, Ordering::Release);
    }

    /// What it was set to last; `Starting` before that.
    pub fn read(&self) -> Readiness {
        match self.0.load(Ordering::Acquire) {
            0 => Readiness::Starting,
            1 => Readiness::Ready,
            2 => Readiness::Draining,
            _ => Readiness::Poisoned,
        }
    }
}

/// Serves on `address` until the process ends. Returns the address in use, whose port the kernel
/// chose where `address` has none.
pub fn start(
    address: SocketAddr,
    metrics: Metrics,
    readiness: ReadinessCell,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    let thread = std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || serve(&listener, &metrics, &readiness))?;
    Ok((bound, thread))
}

#[expect(clippy::disallowed_methods, reason = "the driver waits, and this thread is part of it")]
fn serve(listener: &TcpListener, metrics: &Metrics, readiness: &ReadinessCell) {
    loop {
        let answered = listener.accept().and_then(|(stream, _)| answer(stream, metrics, readiness));
        if let Err(error) = answered {
            tracing::debug!(%error, "admin request failed");
            // Out of files, say: asking again at once would only burn a CPU.
            if error
                .raw_os_error()
                .is_some_and(|errno| [libc::EMFILE, libc::ENFILE].contains(&errno))
            {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, metrics: &Metrics, readiness: &ReadinessCell) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
    let reply = match read_request(&mut stream)? {
        Some(request) => reply_to(&request, metrics, readiness.read()),
        None => return Ok(()),
    };
    stream.write_all(&reply.encode())?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// What of a request is looked at; or why it is refused.
enum Request {
    Get(String),
    Head(String),
    OtherMethod,
    Malformed,
    TooLarge,
    TooSlow,
}

/// The request, or nothing where the peer went before it was complete.
#[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
fn read_request(stream: &mut TcpStream) -> io::Result<Option<Request>> {
    let deadline = Instant::now() + REQUEST_TIME_MAX;
    let mut bytes = [0; REQUEST_BYTES_MAX];
    let mut length = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(Request::TooSlow));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[length..]) {
            Ok(0) => return Ok(None),
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if let Some(request) = parse(&bytes[..length]) {
            return Ok(Some(request));
        }
        if length == bytes.len() {
            return Ok(Some(Request::TooLarge));
        }
    }
}

/// The request in `bytes`, or nothing while its head is incomplete.
fn parse(bytes: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or("/");
            let path = path.split('?').next().unwrap_or(path).to_owned();
            Some(match request.method {
                Some("GET") => Request::Get(path),
                Some("HEAD") => Request::Head(path),
                _ => Request::OtherMethod,
            })
        }
        Err(httparse::Error::TooManyHeaders) => Some(Request::TooLarge),
        Err(_) => Some(Request::Malformed),
    }
}

struct Reply {
    status: &'static str,
    content_type: &'static str,
    body: String,
    is_head: bool,
}

impl Reply {
    fn text(status: &'static str, body: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, body: format!("{body}\n"), is_head: false }
    }

    fn encode(&self) -> Vec<u8> {
        let body = if self.is_head { "" } else { &self.body };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
             {body}",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes()
    }
}

fn reply_to(request: &Request, metrics: &Metrics, readiness: Readiness) -> Reply {
    match request {
        Request::Get(path) => page(path, metrics, readiness),
        Request::Head(path) => Reply { is_head: true, ..page(path, metrics, readiness) },
        Request::OtherMethod => Reply::text("405 Method Not Allowed", "only GET is answered here"),
        Request::Malformed => Reply::text("400 Bad Request", "this is not HTTP/1.1"),
        Request::TooLarge => {
            Reply::text("431 Request Header Fields Too Large", "at most 8 KiB and 64 headers")
        }
        Request::TooSlow => Reply::text("408 Request Timeout", "a request may take 2 seconds"),
    }
}

fn page(path: &str, metrics: &Metrics, readiness: Readiness) -> Reply {
    match path {
        "/metrics" => Reply {
            status: "200 OK",
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics.encode(),
            is_head: false,
        },
        "/healthz" => Reply::text("200 OK", "alive"),
        "/readyz" if readiness == Readiness::Ready => Reply::text("200 OK", readiness.name()),
        "/readyz" => Reply::text("503 Service Unavailable", readiness.name()),
        _ => Reply::text("404 Not Found", "there are /metrics, /healthz and /readyz"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ShardId;

    struct Door {
        address: SocketAddr,
        readiness: ReadinessCell,
        metrics: Metrics,
    }

    fn open() -> Door {
        let (metrics, readiness) = (Metrics::new(1), ReadinessCell::default());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, _thread) = start(any, metrics.clone(), readiness.clone()).unwrap();
        Door { address, readiness, metrics }
    }

    /// Sends `request` and returns the status line and the body.
    fn ask(door: &Door, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(door.address).unwrap();
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert!(head.contains("Connection: close"));
        if !request.starts_with(b"HEAD") {
            assert_eq!(length.parse::<usize>().unwrap(), body.len());
        }
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    fn get(door: &Door, path: &str) -> (String, String) {
        ask(door, format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n").as_bytes())
    }

    #[test]
    fn readiness_is_told_from_health() {
        let door = open();
        for (readiness, status) in [
            (Readiness::Starting, "HTTP/1.1 503 Service Unavailable"),
            (Readiness::Ready, "HTTP/1.1 200 OK"),
            (Readiness::Draining, "HTTP/1.1 503 Service Unavailable"),
            (Readiness::Poisoned, "HTTP/1.1 503 Service Unavailable"),
        ] {
            door.readiness.set(readiness);
            assert_eq!(get(&door, "/readyz"), (status.into(), format!("{}\n", readiness.name())));
            assert_eq!(get(&door, "/healthz"), ("HTTP/1.1 200 OK".into(), "alive\n".into()));
        }
    }

    #[test]
    fn metrics_are_those_of_the_moment() {
        let door = open();
        door.metrics.shard(ShardId(0)).commits.add(41);
        let (status, body) = get(&door, "/metrics?since=yesterday");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("\nringmain_commits_total{shard=\"0\"} 41\n"));
    }

    #[test]
    fn anything_else_is_refused_and_the_door_stays_open() {
        let door = open();
        let status = |request: &[u8]| ask(&door, request).0;
        assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status(b"\x16\x03\x01 what\r\n\r\n"), "HTTP/1.1 400 Bad Request");
        assert_eq!(status(b"HEAD /healthz HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
        let mut long = b"GET / HTTP/1.1\r\nCookie: ".to_vec();
        long.resize(REQUEST_BYTES_MAX, b'a');
        assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
        assert_eq!(get(&door, "/healthz").0, "HTTP/1.1 200 OK");
    }

    #[test]
    fn a_request_that_never_ends_is_cut_off() {
        let door = open();
        assert_eq!(ask(&door, b"GET /healthz HT").0, "HTTP/1.1 408 Request Timeout");
    }
}
