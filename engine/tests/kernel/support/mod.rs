//! Servers to test against, and what every test does with them.

mod bystanders;
mod client;

pub(crate) use bystanders::Bystanders;
pub(crate) use client::{Client, Received, authenticate, hello};

use rustix::process::{Pid, Signal, kill_process};
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wire::Kind;
use wire::table::Authenticate;

/// How long a test waits for what must come. Far longer than it takes, for slow machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Small and quick to start; named again by a test, the later flag wins in `serve`.
const FLAGS: &[(&str, &str)] = &[
    ("--native", "127.0.0.1:0"),
    ("--segment-bytes", "16 MiB"),
    ("--recv-buffers-count", "64"),
    ("--connections-max", "512"),
    ("--dedup-entries-max", "65536"),
    ("--pin", "none"),
    ("--shards", "1"),
];

/// A data folder that outlives its servers, and what they wrote to stderr.
pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Another file, beside the data.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn stderr(&self) -> PathBuf {
        self.path("stderr")
    }

    /// Starts a server that takes a client's word for its name.
    pub(crate) fn serve(&self, flags: &[&str]) -> Server {
        let flags: Vec<&str> = ["--dev-auth"].iter().chain(flags).copied().collect();
        self.serve_strictly(&flags)
    }

    /// Starts a server with these flags alone, and small sizes.
    pub(crate) fn serve_strictly(&self, flags: &[&str]) -> Server {
        match self.try_serve(&self.data(), flags) {
            Ok(server) => server,
            Err((status, stderr)) => panic!("the server did not start: {status}\n{stderr}"),
        }
    }

    /// Starts a server on `data`, or says how that ended.
    pub(crate) fn try_serve(
        &self,
        data: &Path,
        flags: &[&str],
    ) -> Result<Server, (ExitStatus, String)> {
        let stderr = self.stderr();
        let mut command = ringmain();
        command.arg("serve").arg("--data").arg(data).args(flags);
        for (flag, value) in FLAGS {
            if !flags.contains(flag) {
                command.args([flag, value]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = receiver.recv_timeout(2 * PATIENCE);
        let text = || std::fs::read_to_string(&stderr).unwrap();
        match line {
            Ok(line) if line.starts_with("ringmain ready ") => {
                Ok(Server::from_line(&line, child, stderr))
            }
            Ok(line) if line.is_empty() => Err((child.wait().unwrap(), text())),
            other => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("no ready line but {other:?}; stderr: {}", text());
            }
        }
    }
}

/// A running server. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    pub(crate) native: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    stderr: PathBuf,
    /// The clients' sockets, to be closed before it ends: a drain waits a moment for each.
    sockets: RefCell<Vec<TcpStream>>,
}

impl Server {
    fn from_line(line: &str, child: Child, stderr: PathBuf) -> Self {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        let native = word("native=").unwrap().parse().unwrap();
        let admin = word("admin=").map(|address| address.parse().unwrap());
        assert_eq!(word("pid="), Some(child.id().to_string().as_str()), "{line}");
        Self { child, native, admin, stderr, sockets: RefCell::default() }
    }

    /// A device that is live and has what it missed behind it.
    pub(crate) fn client(&self, user: &str) -> Client {
        self.device(user, "phone")
    }

    pub(crate) fn device(&self, user: &str, device: &str) -> Client {
        let mut client = self.login(user, device);
        client.expect(Kind::SyncDone);
        client
    }

    /// A device that is live; what it missed is on its way.
    pub(crate) fn login(&self, user: &str, device: &str) -> Client {
        let claim = Authenticate { user: Some(user), device: Some(device), ..Default::default() };
        self.login_with(&claim)
    }

    pub(crate) fn login_with(&self, claim: &Authenticate<'_>) -> Client {
        let mut client = Client::connect(self.native);
        client.write(&[hello(), authenticate(claim)].concat());
        client.expect_live();
        self.sockets.borrow_mut().push(client.socket());
        client
    }

    /// What it wrote to stderr so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// How long it has worked, in hundredths of a second.
    pub(crate) fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name, in brackets, may hold anything; utime and stime are words 14 and 15.
        let words = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        words.map(|word| word.parse::<u64>().unwrap()).sum()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
    }

    /// Ends it in peace, its clients first.
    pub(crate) fn stop(mut self) {
        for socket in self.sockets.take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.terminate();
        let status = self.wait(PATIENCE + Duration::from_secs(2));
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Ends it without a warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        wait_for("the server to end", patience, || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        if !matches!(ended, Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the server said ({ended:?}):\n{}", self.log());
        }
    }
}

/// The program under test.
pub(crate) fn ringmain() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmain"));
    command.env_remove("RINGMAIN_LOG");
    command
}

/// Runs the program to its end: exit code, stdout, stderr.
pub(crate) fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        ringmain().args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Looks until there is an answer.
pub(crate) fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < patience, "waited {patience:?} for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Numbers that look random and are the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}
