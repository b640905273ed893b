//! Frames: the bytes that `docs/wire.md` shows are the bytes that are spoken, any split of a stream
//! gives the same frames, and no bytes panic.

use proptest::prelude::*;
use std::collections::BTreeMap;
use wire::body::*;
use wire::fixed::*;
use wire::frame::{decode, encode, header};
use wire::handshake::{Hello, Welcome, negotiate};
use wire::limits::*;
use wire::table::*;
use wire::{
    ClientMessageId, CloseReason, ConversationId, Decoded, ErrorCode, FrameError, Hlc, Kind,
    MessageId, Sequence,
};

/// The reference's worked example must hold every one of these.
const REFERENCE: &str = include_str!("../../docs/wire.md");

const CONVERSATION: ConversationId = ConversationId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const CLIENT_MESSAGE: ClientMessageId = ClientMessageId(0xc1);
const SEQUENCE: Sequence = Sequence(5);
const AT_MS: u64 = 1_700_000_000_000;

fn message() -> MessageId {
    MessageId::new(Hlc(0).next(AT_MS), CONVERSATION, SEQUENCE)
}

fn sent() -> Sent {
    Sent {
        message: message(),
        conversation: CONVERSATION,
        client_message: CLIENT_MESSAGE,
        sequence: SEQUENCE,
        status: SentStatus::Sent,
        durability: Durability::LocalFsync,
    }
}

fn delivered() -> Deliver<'static> {
    Deliver {
        message: message(),
        conversation: CONVERSATION,
        sequence: SEQUENCE,
        message_kind: 0,
        sender: "alice",
        content: b"hi",
    }
}

fn receipt() -> Receipt<'static> {
    Receipt { conversation: CONVERSATION, up_to: SEQUENCE, at_millis: AT_MS, user: "bob" }
}

fn group_status() -> GroupStatus {
    GroupStatus {
        message: message(),
        conversation: CONVERSATION,
        sequence: SEQUENCE,
        total: 300,
        delivered: 200,
        read: 100,
        pending: 100,
    }
}

fn frame(kind: Kind, reference: u64, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, kind, reference, parts);
    out
}

fn sending(target: Target<'static>) -> SendMessage<'static> {
    SendMessage { target, client_message: CLIENT_MESSAGE, message_kind: 0, content: b"hi" }
}

fn control_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut writer = TableWriter::default();
    let welcome = negotiate(&Hello::OURS, 10_000).expect("ours");
    let who = Authenticate { user: Some("alice"), device: Some("phone"), ..Default::default() };
    let authenticate = writer.authenticate(&who).to_vec();
    let session = Authenticated {
        user: "alice",
        device: "phone",
        session: 7,
        resume_token: b"later",
        heartbeat_interval_s: 25,
        resumed: false,
        server_time_ms: AT_MS,
    };
    let authenticated = writer.authenticated(&session).to_vec();
    let go_away = go_away_head(CloseReason::Draining, 1500);
    vec![
        ("Hello", frame(Kind::Hello, 1, &[&Hello::OURS.head().0])),
        ("Welcome", frame(Kind::Welcome, 1, &[&welcome.head().0])),
        ("Authenticate", frame(Kind::Authenticate, 2, &[&authenticate])),
        ("Authenticated", frame(Kind::Authenticated, 2, &[&authenticated])),
        ("Heartbeat", frame(Kind::Heartbeat, 9, &[])),
        ("HeartbeatAck", frame(Kind::HeartbeatAck, 9, &[])),
        ("GoAway", frame(Kind::GoAway, 0, &[&go_away.0, b"later"])),
        ("Error", frame(Kind::Error, 3, &[&error_head(ErrorCode::Busy, 250).0, b"full"])),
    ]
}

fn durable_frames() -> Vec<(&'static str, Vec<u8>)> {
    let first = sending(Target::Recipient("bob"));
    let next = sending(Target::Conversation(CONVERSATION));
    let cursor = cursor_head(CONVERSATION, SEQUENCE).0;
    let unread = Unread { conversation: CONVERSATION, unread: 2 };
    vec![
        ("SendMessage to a user", frame(Kind::SendMessage, 3, &[&first.head().0, b"bob", b"hi"])),
        ("SendMessage to a conversation", frame(Kind::SendMessage, 4, &[&next.head().0, b"hi"])),
        ("MessageSent", frame(Kind::MessageSent, 3, &[&sent().head().0])),
        ("Deliver", frame(Kind::Deliver, 0, &[&delivered().head().0, b"alice", b"hi"])),
        ("MarkDelivered", frame(Kind::MarkDelivered, 0, &[&cursor])),
        ("MarkRead", frame(Kind::MarkRead, 0, &[&cursor])),
        ("DeliveryReceipt", frame(Kind::DeliveryReceipt, 0, &[&receipt().head().0, b"bob"])),
        ("ReadReceipt", frame(Kind::ReadReceipt, 0, &[&receipt().head().0, b"bob"])),
        ("UnreadUpdate", frame(Kind::UnreadUpdate, 0, &[&unread.head().0])),
        ("GroupStatus", frame(Kind::GroupStatus, 0, &[&group_status().head().0])),
    ]
}

fn page() -> Vec<u8> {
    let mut body = Page::head(CONVERSATION, 1, true).0.to_vec();
    Page::put_entry(&mut body, &delivered());
    body
}

fn query_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut writer = TableWriter::default();
    let history = ReadHistory { conversation: CONVERSATION, before: Sequence(6), limit: 1 };
    let list = ListConversations { after: CONVERSATION, limit: 20 };
    let group = ReadGroup { group: CONVERSATION, from: 1000 };
    let gap = Gap { conversation: CONVERSATION, from: Sequence(1), to: Sequence(4) };
    let done = SyncDone { conversations_count: 1 };
    vec![
        ("ReadHistory", frame(Kind::ReadHistory, 5, &[&history.head().0])),
        ("HistoryPage", frame(Kind::HistoryPage, 5, &[&page()])),
        ("Sync", frame(Kind::Sync, 6, &[writer.sync(&[(CONVERSATION, Sequence(4))])])),
        ("SyncBatch", frame(Kind::SyncBatch, 6, &[&page()])),
        ("Gap", frame(Kind::Gap, 6, &[&gap.head().0])),
        ("SyncDone", frame(Kind::SyncDone, 6, &[&done.head().0])),
        ("ListConversations", frame(Kind::ListConversations, 7, &[&list.head().0])),
        ("ReadGroup", frame(Kind::ReadGroup, 8, &[&group.head().0])),
    ]
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    [control_frames(), durable_frames(), query_frames()].concat()
}

/// The frames that the reference shows: a name and a colon, then lines of hex, each with a remark
/// behind a semicolon.
fn shown() -> BTreeMap<&'static str, String> {
    let mut frames: BTreeMap<&str, String> = BTreeMap::new();
    let mut name = None;
    for block in REFERENCE.split("```frames\n").skip(1) {
        let (block, _) = block.split_once("```").expect("a block ends");
        for line in block.lines() {
            let hex = line.split(';').next().unwrap_or_default();
            if let Some(title) = hex.trim_end().strip_suffix(':') {
                name = Some(title);
            } else if let Some(name) = name {
                frames.entry(name).or_default().extend(hex.split_whitespace());
            }
        }
    }
    frames
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_reference_shows_the_bytes_that_are_spoken() {
    let mut shown = shown();
    for (name, bytes) in samples() {
        let hex = hex(&bytes);
        assert_eq!(shown.remove(name), Some(hex), "docs/wire.md, frame {name}");
    }
    assert_eq!(shown, BTreeMap::new(), "docs/wire.md shows frames that nothing makes");
}

/// Reads a body of any kind as its receiver would, entries and all.
fn read(kind: Kind, body: &[u8]) -> Result<(), BodyError> {
    match kind {
        Kind::Heartbeat | Kind::HeartbeatAck => exact::<0>(body).map(|_| ()),
        Kind::Hello => Hello::decode(body).map(|_| ()),
        Kind::Welcome => Welcome::decode(body).map(|_| ()),
        Kind::Authenticate => Authenticate::decode(body).map(|_| ()),
        Kind::Authenticated => Authenticated::decode(body).map(|_| ()),
        Kind::SendMessage => SendMessage::decode(body).map(|_| ()),
        Kind::MessageSent => Sent::decode(body).map(|_| ()),
        Kind::Deliver => Deliver::decode(body).map(|_| ()),
        Kind::MarkDelivered | Kind::MarkRead => cursor(body).map(|_| ()),
        Kind::DeliveryReceipt | Kind::ReadReceipt => Receipt::decode(body).map(|_| ()),
        Kind::UnreadUpdate => Unread::decode(body).map(|_| ()),
        Kind::GroupStatus => GroupStatus::decode(body).map(|_| ()),
        Kind::ReadHistory => ReadHistory::decode(body).map(|_| ()),
        Kind::HistoryPage | Kind::SyncBatch => {
            Page::decode(body)?.try_for_each(|entry| entry.map(|_| ()))
        }
        Kind::Sync => Sync::decode(body).map(|it| it.cursors().for_each(drop)),
        Kind::SyncDone => SyncDone::decode(body).map(|_| ()),
        Kind::Gap => Gap::decode(body).map(|_| ()),
        Kind::ListConversations => ListConversations::decode(body).map(|_| ()),
        Kind::Conversations => Conversations::decode(body).map(|it| it.entries().for_each(drop)),
        Kind::ReadGroup => ReadGroup::decode(body).map(|_| ()),
        Kind::Group => Group::decode(body).map(|it| it.members.iter().for_each(drop)),
        Kind::CreateGroup => CreateGroup::decode(body).map(|it| it.members.iter().for_each(drop)),
        Kind::ChangeMembers => ChangeMembers::decode(body).map(|it| it.users.iter().for_each(drop)),
        Kind::MembersChanged => {
            MembersChanged::decode(body).map(|it| it.users.iter().for_each(drop))
        }
        Kind::RenameGroup => RenameGroup::decode(body).map(|_| ()),
        Kind::GroupUpdated => GroupUpdated::decode(body).map(|_| ()),
        Kind::GoAway => go_away(body).map(|_| ()),
        Kind::Error => error(body).map(|_| ()),
    }
}

/// Whether all of a kind's body behind its head is content, so that a shorter one is another body.
fn ends_in_content(kind: Kind) -> bool {
    matches!(kind, Kind::SendMessage | Kind::Deliver | Kind::Error | Kind::GoAway)
}

fn only_frame(bytes: &[u8]) -> wire::Frame<'_> {
    match decode(bytes) {
        Ok(Decoded::Frame(frame, taken)) if taken == bytes.len() => frame,
        other => panic!("not one frame: {other:?}"),
    }
}

#[test]
fn a_body_cut_short_is_refused_unless_its_end_is_content() {
    for (name, bytes) in samples() {
        let frame = only_frame(&bytes);
        assert_eq!(read(frame.kind, frame.body), Ok(()), "{name}");
        let is_table = matches!(frame.kind, Kind::Authenticate | Kind::Authenticated | Kind::Sync);
        for end in 0..frame.body.len() {
            let cut = read(frame.kind, &frame.body[..end]);
            // The end of a table may be padding or an unused byte of its last string's alignment.
            let may_pass = ends_in_content(frame.kind) || is_table;
            assert!(may_pass || cut.is_err(), "{name} cut to {end} bytes");
        }
    }
}

#[test]
fn a_body_with_a_byte_too_many_is_refused_unless_its_end_is_content() {
    for (name, bytes) in samples() {
        let frame = only_frame(&bytes);
        let is_table = matches!(frame.kind, Kind::Authenticate | Kind::Authenticated | Kind::Sync);
        let longer = [frame.body, b"x"].concat();
        let may_pass = ends_in_content(frame.kind) || is_table;
        assert!(may_pass || read(frame.kind, &longer).is_err(), "{name}");
    }
}

#[test]
fn views_read_back_what_was_written() {
    assert_eq!(Sent::decode(&sent().head().0), Ok(sent()));
    assert_eq!(GroupStatus::decode(&group_status().head().0), Ok(group_status()));
    let body = [&delivered().head().0[..], b"alice", b"hi"].concat();
    assert_eq!(Deliver::decode(&body), Ok(delivered()));
    assert_eq!(delivered().body_bytes(), body.len());
    let body = [&receipt().head().0[..], b"bob"].concat();
    assert_eq!(Receipt::decode(&body), Ok(receipt()));
    for target in [Target::Recipient("bob"), Target::Conversation(CONVERSATION)] {
        let recipient = if let Target::Recipient(name) = target { name } else { "" };
        let body = [&sending(target).head().0[..], recipient.as_bytes(), b"hi"].concat();
        assert_eq!(SendMessage::decode(&body), Ok(sending(target)));
    }
    let body = page();
    let entries: Vec<_> = Page::decode(&body).unwrap().collect();
    assert_eq!(entries, [Ok(delivered())]);
    let body = [&error_head(ErrorCode::Busy, 250).0[..], b"full"].concat();
    let (head, text) = error(&body).unwrap();
    assert_eq!(ErrorCode::from_number(head.code()), Some(ErrorCode::Busy));
    assert_eq!((head.retry_after_ms(), text), (250, "full"));
    let history = ReadHistory { conversation: CONVERSATION, before: Sequence(6), limit: 999 };
    assert_eq!(ReadHistory::decode(&history.head().0), Ok(history));
    assert_eq!(history.count_max(), PAGE_MESSAGES_MAX);
    assert_eq!(ListConversations::default().count_max(), PAGE_MESSAGES_DEFAULT);
}

#[test]
fn a_message_names_a_conversation_or_a_recipient_and_not_both_or_neither() {
    let mut body = sending(Target::Conversation(CONVERSATION)).head().0;
    body[34] = 3; // the recipient's length
    assert_eq!(SendMessage::decode(&[&body[..], b"bobhi"].concat()), Err(BodyError::Length));
    let body = sending(Target::Conversation(ConversationId(0))).head().0;
    assert_eq!(SendMessage::decode(&[&body[..], b"hi"].concat()), Err(BodyError::Name));
}

#[test]
fn content_over_its_limit_is_refused() {
    let head = sending(Target::Conversation(CONVERSATION)).head().0;
    let largest = [&head[..], &vec![0; CONTENT_BYTES_MAX]].concat();
    assert!(SendMessage::decode(&largest).is_ok());
    let larger = [&head[..], &vec![0; CONTENT_BYTES_MAX + 1]].concat();
    assert_eq!(SendMessage::decode(&larger), Err(BodyError::TooLarge));
}

#[test]
fn numbers_that_version_1_does_not_define_are_refused() {
    let mut body = sent().head().0;
    body[56] = 2; // status
    assert_eq!(Sent::decode(&body), Err(BodyError::Field));
    let mut body = sent().head().0;
    body[57] = 2; // durability
    assert_eq!(Sent::decode(&body), Err(BodyError::Field));
    let upside_down = Gap { conversation: CONVERSATION, from: Sequence(4), to: Sequence(1) };
    assert_eq!(Gap::decode(&upside_down.head().0), Err(BodyError::Field));
}

#[test]
fn a_page_that_lies_about_its_count_ends_in_an_error() {
    let mut more = page();
    more[16] = 2;
    assert_eq!(read(Kind::HistoryPage, &more), Err(BodyError::Length));
    let mut fewer = page();
    fewer[16] = 0;
    assert_eq!(read(Kind::HistoryPage, &fewer), Err(BodyError::Length));
    let mut longer = page();
    longer.push(0);
    assert_eq!(read(Kind::HistoryPage, &longer), Err(BodyError::Length));
}

fn header_with(length: u32, number: u16, flags: u8, spare: u8) -> [u8; FRAME_HEADER_BYTES] {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..6].copy_from_slice(&number.to_le_bytes());
    bytes[6] = flags;
    bytes[7] = spare;
    bytes[8] = 77;
    bytes
}

#[test]
fn a_length_over_the_kinds_limit_is_refused_before_the_body_arrives() {
    for kind in Kind::ALL {
        let most = u32::try_from(kind.body_bytes_max()).unwrap();
        for bytes in [most + 1, 1 << 31, u32::MAX] {
            let refused = decode(&header_with(bytes, *kind as u16, 0, 0)).unwrap_err();
            assert_eq!(refused, FrameError::TooLarge { reference: 77, bytes }, "{kind:?}");
        }
        let bytes_needed = FRAME_HEADER_BYTES + kind.body_bytes_max();
        let header = header_with(most, *kind as u16, 0, 0);
        match decode(&header) {
            Ok(Decoded::Incomplete { bytes_needed: needed }) => assert_eq!(needed, bytes_needed),
            Ok(Decoded::Frame(frame, FRAME_HEADER_BYTES)) => {
                assert_eq!((frame.kind, most), (*kind, 0))
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
}

#[test]
fn an_empty_body_is_a_frame() {
    let header = header(Kind::MarkRead, 5, 0);
    assert_eq!(only_frame(&header).body, b"");
    assert_eq!(read(Kind::MarkRead, b""), Err(BodyError::Length));
}

#[test]
fn set_flags_and_spare_bits_are_malformed() {
    for bit in 0..8 {
        assert_eq!(decode(&header_with(0, 3, 1 << bit, 0)), Err(FrameError::Malformed));
        assert_eq!(decode(&header_with(0, 3, 0, 1 << bit)), Err(FrameError::Malformed));
    }
}

#[test]
fn an_unknown_kind_is_stepped_over_within_the_general_limit() {
    let mut bytes = header_with(5, 0x7777, 0, 0).to_vec();
    bytes.extend_from_slice(b"12345");
    bytes.extend_from_slice(&header(Kind::Heartbeat, 9, 0));
    let Ok(Decoded::Unknown { number, reference, bytes: taken }) = decode(&bytes) else {
        panic!("a well-formed frame of an unknown kind");
    };
    assert_eq!((number, reference, taken), (0x7777, 77, 21));
    assert_eq!(only_frame(&bytes[taken..]).kind, Kind::Heartbeat);
    let most = u32::try_from(FRAME_BODY_BYTES_MAX).unwrap();
    assert!(decode(&header_with(most, 0x7777, 0, 0)).is_ok());
    assert!(decode(&header_with(most + 1, 0x7777, 0, 0)).is_err());
}

#[test]
fn a_number_names_one_kind_and_its_top_bit_the_sender() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(*kind as u16), Some(*kind));
        let is_servers = *kind as u16 & 0x8000 != 0;
        assert_eq!(kind.sender() == wire::Sender::Server, is_servers, "{kind:?}");
    }
    assert!(Kind::ALL.is_sorted());
}

/// The loop that every receiver runs: bytes in as they come, whole frames out, the rest kept.
#[derive(Default)]
struct Reassembly {
    held: Vec<u8>,
    frames: Vec<(u16, u64, Vec<u8>)>,
}

impl Reassembly {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.held.extend_from_slice(bytes);
        let mut start = 0;
        loop {
            let taken = match decode(&self.held[start..])? {
                Decoded::Frame(frame, taken) => {
                    self.frames.push((frame.kind as u16, frame.reference, frame.body.to_vec()));
                    taken
                }
                Decoded::Unknown { number, reference, bytes } => {
                    self.frames.push((number, reference, Vec::new()));
                    bytes
                }
                Decoded::Incomplete { bytes_needed } => {
                    assert!(bytes_needed > self.held.len() - start, "it would never end");
                    assert!(bytes_needed <= FRAME_BYTES_MAX);
                    break;
                }
            };
            start += taken;
        }
        self.held.drain(..start);
        Ok(())
    }
}

fn stream() -> Vec<u8> {
    let mut stream = samples().into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>();
    stream.extend_from_slice(&header_with(3, 0x7777, 0, 0));
    stream.extend_from_slice(b"abc");
    stream.extend_from_slice(&header(Kind::Heartbeat, 1, 0));
    stream
}

#[test]
fn a_stream_fed_a_byte_at_a_time_gives_the_same_frames() {
    let (mut whole, mut bytewise) = (Reassembly::default(), Reassembly::default());
    whole.feed(&stream()).unwrap();
    stream().chunks(1).for_each(|byte| bytewise.feed(byte).unwrap());
    assert_eq!(whole.frames.len(), samples().len() + 2);
    assert_eq!((whole.held, whole.frames), (bytewise.held, bytewise.frames));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_stream_gives_the_same_frames(
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let stream = stream();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        let (mut whole, mut split) = (Reassembly::default(), Reassembly::default());
        whole.feed(&stream).unwrap();
        let mut start = 0;
        for cut in cuts.into_iter().chain([stream.len()]) {
            split.feed(&stream[start..cut]).unwrap();
            start = cut;
        }
        prop_assert_eq!(whole.frames, split.frames);
        prop_assert!(split.held.is_empty());
    }

    #[test]
    fn any_bytes_in_any_split_end_the_same_way(
        bytes in proptest::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(bytes.len() + 1);
        let (mut whole, mut split) = (Reassembly::default(), Reassembly::default());
        let at_once = whole.feed(&bytes);
        let in_two = split.feed(&bytes[..cut]).and_then(|()| split.feed(&bytes[cut..]));
        prop_assert_eq!(at_once, in_two);
        prop_assert_eq!(whole.frames, split.frames);
    }

    #[test]
    fn no_body_makes_a_reader_panic(
        body in proptest::collection::vec(any::<u8>(), 0..160),
        which in any::<prop::sample::Index>(),
    ) {
        let _ = read(*which.get(Kind::ALL), &body);
    }

    #[test]
    fn no_damage_to_a_body_makes_a_reader_panic(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        end in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let frame = only_frame(&which.get(&samples).1);
        let mut body = frame.body.to_vec();
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = byte;
            body.truncate(end.index(body.len()) + 1);
        }
        let _ = read(frame.kind, &body);
    }

    #[test]
    fn a_frame_reads_back_as_it_was_written(
        which in any::<prop::sample::Index>(),
        reference in any::<u64>(),
        body in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let kind = *which.get(Kind::ALL);
        let body = &body[..body.len().min(kind.body_bytes_max())];
        let (front, back) = body.split_at(body.len() / 2);
        let bytes = frame(kind, reference, &[front, back]);
        prop_assert_eq!(only_frame(&bytes), wire::Frame { kind, reference, body });
    }
}
