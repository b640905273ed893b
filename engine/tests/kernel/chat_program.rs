//! `ringmain chat` with a pipe at each end.

use crate::support::{Folder, PATIENCE, Server, ringmain, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// A person at a pipe.
struct Person {
    child: Child,
    input: Option<ChildStdin>,
    shown: Arc<Mutex<String>>,
}

impl Person {
    fn join(server: &Server, user: &str, to: &str) -> Self {
        let address = server.native.to_string();
        let mut child = ringmain()
            .args(["chat", "--user", user, "--server", &address, "--to", to])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (output, text) = (child.stdout.take().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut text = text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        let input = child.stdin.take();
        let person = Self { child, input, shown };
        person.expect(&format!("connected as {user}"));
        person
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn expect(&self, text: &str) {
        wait_for(&format!("'{text}'"), PATIENCE, || {
            self.shown.lock().unwrap().contains(text).then_some(())
        });
    }

    /// Ends the input and waits for the end: the exit code and all that was shown.
    fn leave(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        let status = wait_for("the end", PATIENCE, || self.child.try_wait().unwrap());
        let shown = self.shown.lock().unwrap().clone();
        (status.code(), shown)
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_people_talk_through_pipes_and_see_ticks_and_history() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let mut alice = Person::join(&server, "alice", "bob");
    let mut bob = Person::join(&server, "bob", "alice");
    alice.type_line("hello bob");
    alice.expect("sent to bob: #1");
    bob.expect("alice: hello bob");
    // Bob looks at the conversation, so it is read.
    alice.expect("read");
    bob.type_line("hello yourself");
    alice.expect("bob: hello yourself");
    assert_eq!(bob.leave().0, Some(0));
    alice.type_line("are you there?");
    alice.expect("sent to bob: #3");
    let (code, _) = alice.leave();
    assert_eq!(code, Some(0));

    // What was missed is shown, and history has the rest.
    let mut bob = Person::join(&server, "bob", "alice");
    bob.expect("alice: are you there?");
    bob.type_line("/history");
    bob.expect("alice: hello bob");
    bob.expect("me to alice: hello yourself");
    assert_eq!(bob.leave().0, Some(0));
    server.stop();
}

#[test]
fn lines_in_a_pipe_are_sent_in_turn_across_a_restart() {
    let folder = Folder::new();
    let server = folder.serve(&[]);
    let native = server.native.to_string();
    let mut alice = Person::join(&server, "alice", "bob");
    for n in 0..50 {
        alice.type_line(&format!("line {n}"));
    }
    alice.expect("sent to bob: #10");
    server.kill();
    for n in 50..60 {
        alice.type_line(&format!("line {n}"));
    }
    let server = folder.serve(&["--native", &native]);
    alice.expect("sent to bob: #60");
    assert_eq!(alice.leave().0, Some(0));
    let mut bob = server.client("bob");
    let conversation = bob.listed("alice").conversation;
    let history = bob.whole_history(conversation);
    let texts: Vec<&str> = history.iter().map(|message| message.text()).collect();
    assert_eq!(texts, (0..60).map(|n| format!("line {n}")).collect::<Vec<_>>());
    server.stop();
}
