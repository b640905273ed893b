//! `ringmain chat`: a conversation in a terminal, or in a pipe.
//!
//! Here are the flags, the threads and the loop; what is typed and shown is [`room`]'s. In a pipe
//! every line is sent in turn, and the program ends when the last is acknowledged.

mod input;
mod room;
mod show;

use super::refuse;
use client::blocking::{Client, Notice};
use client::{Credential, Identity, Target};
use room::Room;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;
use wire::ConversationId;

/// How long the loop waits for the server before it looks for typed lines.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Typed lines that may wait; a faster pipe is made to wait.
const LINES_MAX: usize = 64;

/// Opens a chat in this terminal, or sends the lines of a pipe.
#[derive(clap::Args)]
#[command(after_help = input::HELP)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["user", "token"]))]
pub(super) struct Flags {
    /// Who you are, on a server with dev_auth.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with your token.
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// The server's native door.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    server: String,
    /// Which of your devices this is: each gets every message once.
    #[arg(long, value_name = "NAME", default_value = "terminal")]
    device: String,
    /// Talk to this user.
    #[arg(long, value_name = "USER", conflicts_with = "group")]
    to: Option<String>,
    /// Talk in this group: its id, as /list shows it.
    #[arg(long, value_name = "ID")]
    group: Option<String>,
}

impl Flags {
    fn identity(&self) -> Result<Identity, String> {
        let credential = match (&self.token, &self.user) {
            (Some(file), _) => {
                let token = std::fs::read_to_string(file)
                    .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                Credential::Token(token.trim().to_owned())
            }
            (None, Some(user)) => Credential::User(user.clone()),
            (None, None) => return Err("say who you are with --user or --token".to_owned()),
        };
        let device = Some(self.device.clone());
        let identity = Identity { credential, device, auto_delivered: false };
        if identity.is_valid() {
            Ok(identity)
        } else {
            Err("a user or device id is 1 to 64 of A-Z a-z 0-9 _ . : @ -".to_owned())
        }
    }

    fn target(&self) -> Result<Option<Target>, String> {
        match (&self.to, &self.group) {
            (Some(user), _) => Ok(Some(Target::User(user.clone()))),
            (None, Some(id)) => match u128::from_str_radix(id, 16) {
                Ok(id) => Ok(Some(Target::Conversation(ConversationId(id)))),
                Err(_) => Err(format!("'{id}' is not the id of a group: see /list")),
            },
            (None, None) => Ok(None),
        }
    }
}

pub(super) fn run(flags: &Flags) -> ExitCode {
    let (identity, target) = match (flags.identity(), flags.target()) {
        (Ok(identity), Ok(target)) => (identity, target),
        (Err(sentence), _) | (_, Err(sentence)) => return refuse(&sentence),
    };
    let mut seed = [0; 16];
    if let Err(error) = getrandom::fill(&mut seed) {
        eprintln!("ringmain: the system gives no random numbers: {error}");
        return ExitCode::FAILURE;
    }
    let mut client = Client::new(&flags.server, identity, u128::from_le_bytes(seed));
    let mut room = Room::new(target);
    let is_fine = talk(&mut client, &mut room, &lines_of_stdin());
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Lines as they are typed. The thread ends with the process or with its input.
fn lines_of_stdin() -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Runs until the input ends and everything is acknowledged, or `/quit`, or the server refuses.
/// Returns whether nothing was refused.
fn talk(client: &mut Client, room: &mut Room, lines: &Receiver<String>) -> bool {
    let mut is_input_over = false;
    let mut told_why = String::new();
    loop {
        match client.poll(LOOK_EVERY) {
            Some(Notice::Event(event)) => {
                told_why.clear();
                let now = client.now();
                room.handle_event(client.session(), now, event);
            }
            Some(Notice::Disconnected { why, .. }) => {
                // Once an outage, not once a try.
                if why != told_why {
                    room.say(&format!("-- {why}; trying again"));
                    told_why = why;
                }
                room.handle_disconnected();
            }
            Some(Notice::Ended { why }) => {
                room.say(&format!("-- {why}"));
                flush(room);
                return false;
            }
            None if room.is_over() || (is_input_over && is_done(client, room)) => {
                flush(room);
                return room.refusals_count() == 0;
            }
            None => {}
        }
        while room.takes_lines() && !is_input_over && client.session().is_live() {
            match lines.try_recv() {
                Ok(line) => {
                    let now = client.now();
                    room.handle_line(client.session(), now, &line);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => is_input_over = true,
            }
        }
        flush(room);
    }
}

fn is_done(client: &mut Client, room: &Room) -> bool {
    room.takes_lines() && client.session().is_live() && client.session().is_idle()
}

/// Prints what the room has to show. Where nobody reads it any more there is nothing left to do.
fn flush(room: &mut Room) {
    let shown = room.take_shown();
    let mut out = std::io::stdout().lock();
    if out.write_all(shown.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
