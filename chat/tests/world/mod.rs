//! A small world: one owner, a log in memory, and people who speak in sentences.
//!
//! Statements stand between semicolons; each gives a line of effects:
//! ```text
//! alice -> bob: hi #7            #7 is the client message id; a group's name works as well as bob
//! alice creates team with bob carol
//! alice adds|removes|promotes|demotes dave in team      dave leaves team
//! alice renames team to crew     bob reads|has team 3     flush     wait 24h
//! hold, release                  what is appended becomes durable at once unless held
//! bob sees team                  bob lists team           who team
//! ```
#![allow(dead_code, reason = "each test binary uses its own part of the world")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use chat::record::Message;
use chat::{
    Audience, Command, Decision, MemberChange, Millis, Owner, Record, Refusal, Role, Settings,
    Speaker, Stamp, Tell, Walk, WallMillis,
};
use std::collections::BTreeMap;
use wire::{ClientMessageId, ConversationId, Hlc, IdKey, Sequence, UserKey};

pub(crate) const IDS: IdKey = IdKey(*b"a key of a test!");

/// One record as a log would keep it.
pub(crate) struct Logged {
    pub(crate) kind: u16,
    pub(crate) entity: u128,
    pub(crate) stamp: Stamp,
    pub(crate) body: Vec<u8>,
}

impl Logged {
    pub(crate) fn record(&self) -> Record<'_> {
        let Self { kind, entity, stamp, body } = self;
        Record::decode(*kind, *entity, stamp.sequence.0, body).expect("the log keeps records")
    }
}

pub(crate) struct World {
    pub(crate) owner: Owner,
    pub(crate) settings: Settings,
    pub(crate) log: Vec<Logged>,
    pub(crate) wall: u64,
    groups: BTreeMap<String, ConversationId>,
    names: BTreeMap<UserKey, String>,
    is_held: bool,
    /// Whether each statement is followed by a replay of the whole log into a second owner.
    pub(crate) is_replayed: bool,
}

pub(crate) fn user(name: &str) -> Speaker<'_> {
    Speaker { user: IDS.user(name), name }
}

pub(crate) fn settings() -> Settings {
    Settings { dedup_entries_max: 64, ..Settings::standard(IDS, 4) }
}

/// The whole state, as a snapshot would keep it, in an order of its own.
pub(crate) fn state(owner: &Owner) -> Vec<(u16, u16, Vec<u8>)> {
    let mut entries = Vec::new();
    let keep = |kind: u16, partition: wire::Partition, bytes: &[u8]| {
        entries.push((kind, partition.0, bytes.to_vec()));
    };
    assert!(!owner.snapshot_bite(&mut Walk::new(), usize::MAX, keep));
    entries.sort();
    entries
}

pub(crate) fn replay<'a>(settings: Settings, log: impl IntoIterator<Item = &'a Logged>) -> Owner {
    let mut owner = Owner::new(settings);
    for logged in log {
        owner.apply(&logged.record(), logged.stamp);
    }
    owner.release_all();
    owner
}

#[track_caller]
pub(crate) fn check(script: &str, effects: &str) {
    assert_eq!(World::new(settings()).run(script), effects);
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            owner: Owner::new(settings),
            settings,
            log: Vec::new(),
            wall: 1_700_000_000_000,
            groups: BTreeMap::new(),
            names: BTreeMap::new(),
            is_held: false,
            is_replayed: true,
        }
    }

    pub(crate) fn run(&mut self, script: &str) -> String {
        let statements = script.split(';').map(str::trim).filter(|text| !text.is_empty());
        let effects: Vec<String> = statements.map(|text| self.step(text)).collect();
        effects.join("; ")
    }

    fn step(&mut self, text: &str) -> String {
        self.wall += 1;
        let effect = match text.split_whitespace().collect::<Vec<_>>()[..] {
            ["flush"] => self.flush(usize::MAX),
            ["hold"] => {
                self.is_held = true;
                "held".into()
            }
            ["release"] => {
                self.is_held = false;
                self.owner.release_all();
                "released".into()
            }
            ["wait", hours] => {
                let hours: u64 = hours.trim_end_matches('h').parse().unwrap();
                self.wall += hours * 3_600_000;
                "waited".into()
            }
            ["who", place] => self.who(self.place("", place)),
            [who, "sees", place] => self.sees(who, place),
            [who, "lists", place] => self.lists(who, place),
            ref words => self.command(text, words),
        };
        if self.is_replayed {
            let again = replay(self.settings, &self.log);
            assert_eq!(state(&again), state(&self.owner), "replayed after: {text}");
            assert_eq!(again.orphans_count(), 0);
        }
        effect
    }

    /// A group by its name, or the conversation of two.
    pub(crate) fn place(&self, who: &str, place: &str) -> ConversationId {
        let direct = IDS.direct(IDS.user(who), IDS.user(place));
        self.groups.get(place).copied().unwrap_or(direct)
    }

    fn command(&mut self, text: &str, words: &[&str]) -> String {
        let number = |word: &str| Sequence(word.parse().unwrap());
        let who = words[0];
        match words[1..] {
            ["->", ..] => {
                let (head, content) = text.split_once(": ").unwrap();
                let to = head.split_whitespace().last().unwrap();
                let (content, number) = content.split_once(" #").unwrap_or((content, "0"));
                let client_message = ClientMessageId(number.parse().unwrap());
                let conversation = self.place(who, to);
                let recipient = (!conversation.is_group()).then(|| user(to));
                let content = content.as_bytes();
                let message_kind = 1;
                self.say(
                    who,
                    Command::Send {
                        conversation,
                        recipient,
                        client_message,
                        message_kind,
                        content,
                    },
                )
            }
            ["creates", name, "with", ref members @ ..] => {
                let request = ClientMessageId(IDS.user(name).0);
                let conversation = IDS.group(IDS.user(who), request);
                self.groups.insert(name.into(), conversation);
                let members: Vec<Speaker<'_>> = members.iter().map(|name| user(name)).collect();
                self.say(who, Command::CreateGroup { conversation, name, members: &members })
            }
            ["leaves", place] => self.change(who, place, MemberChange::Leave, &[]),
            [verb, ref users @ .., "in", place] => {
                let change = match verb {
                    "adds" => MemberChange::Add,
                    "removes" => MemberChange::Remove,
                    "promotes" => MemberChange::Promote,
                    "demotes" => MemberChange::Demote,
                    _ => panic!("not a sentence of this world: {text}"),
                };
                let users: Vec<Speaker<'_>> = users.iter().map(|name| user(name)).collect();
                self.change(who, place, change, &users)
            }
            ["renames", place, "to", name] => {
                let conversation = self.place(who, place);
                self.say(who, Command::Rename { conversation, name })
            }
            ["reads", place, up_to] => {
                let (conversation, up_to) = (self.place(who, place), number(up_to));
                self.say(who, Command::MarkRead { conversation, up_to })
            }
            ["has", place, up_to] => {
                let (conversation, up_to) = (self.place(who, place), number(up_to));
                self.say(who, Command::MarkDelivered { conversation, up_to })
            }
            _ => panic!("not a sentence of this world: {text}"),
        }
    }

    fn change(
        &mut self,
        who: &str,
        place: &str,
        change: MemberChange,
        users: &[Speaker<'_>],
    ) -> String {
        let conversation = self.place(who, place);
        self.say(who, Command::ChangeMembers { conversation, change, users })
    }

    /// Decides, appends, applies: what an engine does.
    pub(crate) fn say(&mut self, who: &str, command: Command<'_>) -> String {
        self.names.insert(IDS.user(who), who.into());
        match self.owner.decide(WallMillis(self.wall), user(who), command) {
            Ok(Decision::Append(record)) => self.append(&record),
            Ok(Decision::Duplicate { sequence, .. }) => format!("duplicate of {}", sequence.0),
            Ok(Decision::GroupExists) => "exists".into(),
            Ok(Decision::Moved) => "moved".into(),
            Ok(Decision::Nothing) => "nothing".into(),
            Err(Refusal { code, .. }) => code.name().into(),
        }
    }

    pub(crate) fn append(&mut self, record: &Record<'_>) -> String {
        let stamp = self.log_record(record);
        self.owner.apply(record, stamp);
        if !self.is_held {
            self.owner.release(ConversationId(record.entity()), stamp.sequence);
        }
        match record {
            Record::Message(message) => format!("sent {}", message.sequence.0),
            Record::GroupCreated(created) => self.who(created.group),
            Record::MembersChanged(changed) => self.who(changed.group),
            Record::Renamed(renamed) => format!("called {}", renamed.name),
            Record::Cursors(_) | Record::DeviceCursor(_) => unreachable!("not of a command"),
        }
    }

    fn log_record(&mut self, record: &Record<'_>) -> Stamp {
        let sequence = Sequence(record.sequence());
        let stamp = Stamp { hlc: self.owner.next_hlc(WallMillis(self.wall)), sequence };
        let logged = logged(record, stamp);
        assert_eq!(logged.record(), *record, "a record reads back as it was");
        self.log.push(logged);
        stamp
    }

    pub(crate) fn flush(&mut self, budget: usize) -> String {
        let mut lines = Vec::new();
        let mut taken = Vec::new();
        let names = &self.names;
        self.owner.flush_receipts(Millis(self.wall), budget, |flush| {
            let tell = match flush.tell {
                Tell::Nobody => String::new(),
                Tell::Members(Audience::Direct(_)) => " to both".into(),
                Tell::Members(Audience::Group { .. }) => " to all".into(),
                Tell::Sender { user, status } => {
                    let (total, delivered, read) = (status.total, status.delivered, status.read);
                    format!(" to {}: {delivered} have, {read} read of {total}", names[&user])
                }
            };
            let reach = |what, at: Option<Sequence>| match at {
                Some(at) => format!(" {what} {}", at.0),
                None => String::new(),
            };
            let (has, read) = (reach("has", flush.delivered), reach("read", flush.read));
            lines.push(format!("{}{has}{read}{tell}", flush.name));
            taken.push(logged(&flush.record, Stamp { hlc: Hlc(1), sequence: Sequence(0) }));
            true
        });
        for logged in taken {
            self.log_record(&logged.record());
        }
        if lines.is_empty() { "nothing".into() } else { lines.join(", ") }
    }

    /// Members by name, a star beside admins.
    pub(crate) fn who(&self, conversation: ConversationId) -> String {
        let members = self.owner.members(conversation, 0, usize::MAX);
        if members.len() > 20 {
            return format!("{} members", members.len());
        }
        let star = |role| if role == Role::Admin { "*" } else { "" };
        let mut names: Vec<String> =
            members.map(|it| format!("{}{}", it.speaker.name, star(it.role))).collect();
        names.sort();
        if names.is_empty() { "nobody".into() } else { names.join(" ") }
    }

    fn sees(&self, who: &str, place: &str) -> String {
        match self.owner.visible(self.place(who, place), IDS.user(who)) {
            Ok(visible) => format!("{}..{}", visible.after.0 + 1, visible.through.0),
            Err(refusal) => refusal.code.name().into(),
        }
    }

    fn lists(&self, who: &str, place: &str) -> String {
        match self.owner.describe(self.place(who, place), IDS.user(who)) {
            Ok(it) => {
                let (last, read) = (it.last_sequence.0, it.read.0);
                let title = it.name.or(it.peer).unwrap();
                format!(
                    "{title} last {last} has {} read {read} unread {}",
                    it.delivered.0, it.unread
                )
            }
            Err(refusal) => refusal.code.name().into(),
        }
    }
}

pub(crate) fn logged(record: &Record<'_>, stamp: Stamp) -> Logged {
    let mut body = Vec::new();
    record.encode_head(&mut body);
    body.extend_from_slice(record.payload());
    Logged { kind: record.kind(), entity: record.entity(), stamp, body }
}

/// The messages of a log, in its order.
pub(crate) fn messages(log: &[Logged]) -> impl Iterator<Item = Message<'_>> {
    log.iter().filter_map(|logged| match logged.record() {
        Record::Message(message) => Some(message),
        _ => None,
    })
}
