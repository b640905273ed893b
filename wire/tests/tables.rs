//! Tables: what is written is read back, what breaks a rule is refused, and no bytes panic.

use flatbuffers::FlatBufferBuilder;
use proptest::prelude::*;
use wire::body::BodyError;
use wire::generated as schema;
use wire::limits::*;
use wire::table::*;
use wire::{ClientMessageId, ConversationId, Kind, Sequence};

const GROUP: ConversationId = ConversationId(7 << 120 | 9);

/// Walks all of a body; how much there was, or why it was refused.
type Walk = fn(&[u8]) -> Result<usize, BodyError>;

/// Every table decoder, walking all that it gives; the answer is whether it was taken.
fn decoders() -> [(Kind, Walk); 10] {
    [
        (Kind::Authenticate, |body| {
            Authenticate::decode(body).map(|it| it.token.map_or(0, str::len))
        }),
        (Kind::Authenticated, |body| Authenticated::decode(body).map(|it| it.user.len())),
        (Kind::Sync, |body| Sync::decode(body).map(|it| it.cursors().count())),
        (Kind::CreateGroup, |body| CreateGroup::decode(body).map(|it| it.members.iter().count())),
        (Kind::ChangeMembers, |body| ChangeMembers::decode(body).map(|it| it.users.iter().count())),
        (Kind::RenameGroup, |body| RenameGroup::decode(body).map(|it| it.name.len())),
        (Kind::Group, |body| Group::decode(body).map(|it| it.members.iter().count())),
        (Kind::MembersChanged, |body| {
            MembersChanged::decode(body).map(|it| it.users.iter().count())
        }),
        (Kind::GroupUpdated, |body| GroupUpdated::decode(body).map(|it| it.name.len())),
        (Kind::Conversations, |body| Conversations::decode(body).map(|it| it.entries().count())),
    ]
}

/// One body of each table, in the order of `decoders`.
fn samples() -> Vec<Vec<u8>> {
    let mut writer = TableWriter::default();
    let token = Authenticate { token: Some("a.b.c"), device: Some("d1"), ..Default::default() };
    let member = Member { user: "bob", role: Role::Admin };
    let head = GroupHead {
        group: GROUP,
        name: "G",
        members_count: 3,
        from: 1,
        last_sequence: Sequence(8),
    };
    let entry = ConversationEntry { conversation: GROUP, name: Some("G"), ..Default::default() };
    vec![
        writer.authenticate(&token).to_vec(),
        writer.authenticated(&authenticated()).to_vec(),
        writer.sync(&[(GROUP, Sequence(3)), (ConversationId(4), Sequence(5))]).to_vec(),
        writer.create_group(ClientMessageId(1), "G", ["bob", "eve"]).to_vec(),
        writer.change_members(GROUP, MemberChange::Promote, ["bob"]).to_vec(),
        writer.rename_group(&RenameGroup { group: GROUP, name: "H" }).to_vec(),
        writer.group(&head, [member, member]).to_vec(),
        writer.members_changed(GROUP, MemberChange::Leave, "bob", ["bob"]).to_vec(),
        writer.group_updated(&GroupUpdated { group: GROUP, name: "H", by: "eve" }).to_vec(),
        writer.conversations([entry, entry], true, 4).to_vec(),
    ]
}

fn authenticated() -> Authenticated<'static> {
    Authenticated {
        user: "alice",
        device: "phone",
        session: 5,
        resume_token: b"later",
        heartbeat_interval_s: 25,
        resumed: true,
        server_time_ms: 1_700_000_000_000,
    }
}

#[test]
fn a_table_reads_back_as_it_was_written() {
    let mut writer = TableWriter::default();
    let asked = Authenticate {
        token: Some("a.b.c"),
        user: Some("alice"),
        device: Some("phone"),
        resume_token: Some(b"later"),
        auto_delivered: true,
    };
    assert_eq!(Authenticate::decode(writer.authenticate(&asked)), Ok(asked));
    let least = Authenticate::default();
    assert_eq!(Authenticate::decode(writer.authenticate(&least)), Ok(least));
    let given = authenticated();
    assert_eq!(Authenticated::decode(writer.authenticated(&given)), Ok(given));
    let rename = RenameGroup { group: GROUP, name: "Größe 9" };
    assert_eq!(RenameGroup::decode(writer.rename_group(&rename)), Ok(rename));
    let updated = GroupUpdated { group: GROUP, name: "G", by: "eve" };
    assert_eq!(GroupUpdated::decode(writer.group_updated(&updated)), Ok(updated));
}

#[test]
fn a_list_reads_back_in_its_order() {
    let mut writer = TableWriter::default();
    let cursors = [(GROUP, Sequence(3)), (ConversationId(1), Sequence(0))];
    let body = writer.sync(&cursors);
    assert!(Sync::decode(body).unwrap().cursors().eq(cursors));

    let body = writer.create_group(ClientMessageId(8), "G", ["bob", "eve", "bob"]);
    let create = CreateGroup::decode(body).unwrap();
    assert_eq!((create.request, create.name, create.members.len()), (ClientMessageId(8), "G", 3));
    assert!(create.members.iter().eq(["bob", "eve", "bob"]));

    let body = writer.change_members(GROUP, MemberChange::Remove, ["bob", "eve"]);
    let change = ChangeMembers::decode(body).unwrap();
    assert_eq!((change.group, change.change), (GROUP, MemberChange::Remove));
    assert!(change.users.iter().eq(["bob", "eve"]));

    let body = writer.members_changed(GROUP, MemberChange::Demote, "eve", ["bob"]);
    let changed = MembersChanged::decode(body).unwrap();
    assert_eq!((changed.group, changed.change, changed.by), (GROUP, MemberChange::Demote, "eve"));
    assert!(changed.users.iter().eq(["bob"]));
}

#[test]
fn a_group_and_a_list_of_conversations_read_back() {
    let mut writer = TableWriter::default();
    let members =
        [Member { user: "bob", role: Role::Admin }, Member { user: "eve", role: Role::Member }];
    let head = GroupHead {
        group: GROUP,
        name: "G",
        members_count: 9,
        from: 4,
        last_sequence: Sequence(6),
    };
    let group = Group::decode(writer.group(&head, members)).unwrap();
    let read = GroupHead {
        group: group.group,
        name: group.name,
        members_count: group.members_count,
        from: group.from,
        last_sequence: group.last_sequence,
    };
    assert_eq!(read, head);
    assert!(group.members.iter().eq(members));

    let entries = [
        ConversationEntry {
            conversation: ConversationId(2),
            peer: Some("bob"),
            last_sequence: Sequence(9),
            unread: 4,
            delivered: Sequence(7),
            read: Sequence(5),
            ..Default::default()
        },
        ConversationEntry { conversation: GROUP, name: Some("G"), ..Default::default() },
    ];
    let list = Conversations::decode(writer.conversations(entries, true, 11)).unwrap();
    assert_eq!((list.has_more, list.total_unread), (true, 11));
    assert!(list.entries().eq(entries));
}

#[test]
fn the_fullest_bodies_fit_their_kind_and_the_verifier() {
    let mut writer = TableWriter::default();
    let user = "u".repeat(NAME_BYTES_MAX);
    let name = "n".repeat(GROUP_NAME_BYTES_MAX);
    let users = || std::iter::repeat_n(user.as_str(), MEMBERS_PER_FRAME_MAX);
    let group = GroupHead {
        group: GROUP,
        name: &name,
        members_count: 1,
        from: 0,
        last_sequence: Sequence(1),
    };
    let entry = ConversationEntry {
        conversation: GROUP,
        name: Some(&name),
        peer: Some(&user),
        last_sequence: Sequence(1),
        unread: 1,
        delivered: Sequence(1),
        read: Sequence(1),
    };
    let entries = std::iter::repeat_n(entry, usize::from(CONVERSATIONS_PER_FRAME_MAX));
    let token = "t".repeat(TOKEN_BYTES_MAX);
    let resume = [7; RESUME_TOKEN_BYTES_MAX];
    let authenticate = Authenticate {
        token: Some(&token),
        user: Some(&user),
        device: Some(&user),
        resume_token: Some(&resume),
        auto_delivered: true,
    };
    let authenticated =
        Authenticated { user: &user, device: &user, resume_token: &resume, ..authenticated() };
    let cursors = vec![(GROUP, Sequence(u64::MAX)); CURSORS_PER_FRAME_MAX];
    let bodies = [
        writer.authenticate(&authenticate).to_vec(),
        writer.authenticated(&authenticated).to_vec(),
        writer.sync(&cursors).to_vec(),
        writer.create_group(ClientMessageId(1), &name, users()).to_vec(),
        writer.change_members(GROUP, MemberChange::Add, users()).to_vec(),
        writer.rename_group(&RenameGroup { group: GROUP, name: &name }).to_vec(),
        writer.group(&group, users().map(|user| Member { user, role: Role::Admin })).to_vec(),
        writer.members_changed(GROUP, MemberChange::Add, &user, users()).to_vec(),
        writer.group_updated(&GroupUpdated { group: GROUP, name: &name, by: &user }).to_vec(),
        writer.conversations(entries, true, 1).to_vec(),
    ];
    for ((kind, decode), body) in decoders().into_iter().zip(bodies) {
        assert!(body.len() <= kind.body_bytes_max(), "{kind:?}: {} bytes", body.len());
        decode(&body).unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
    }
}

#[test]
fn names_lengths_and_ids_are_checked_with_the_table() {
    let mut writer = TableWriter::default();
    let long = "n".repeat(GROUP_NAME_BYTES_MAX + 1);
    let refused = |body: &[u8], error: BodyError| {
        assert_eq!(CreateGroup::decode(body).map(|_| ()), Err(error), "{body:02x?}");
    };
    refused(writer.create_group(ClientMessageId(0), "G", []), BodyError::Table);
    refused(writer.create_group(ClientMessageId(1), "", []), BodyError::Text);
    refused(writer.create_group(ClientMessageId(1), "a\nb", []), BodyError::Text);
    refused(writer.create_group(ClientMessageId(1), &long, []), BodyError::TooLarge);
    refused(writer.create_group(ClientMessageId(1), "G", ["b b"]), BodyError::Name);
    refused(writer.create_group(ClientMessageId(1), "G", ["bob", ""]), BodyError::Name);
    let user = "u".repeat(NAME_BYTES_MAX + 1);
    refused(writer.create_group(ClientMessageId(1), "G", [user.as_str()]), BodyError::Name);

    let body = writer.change_members(ConversationId(0), MemberChange::Add, ["bob"]);
    assert_eq!(ChangeMembers::decode(body).map(|_| ()), Err(BodyError::Table));
    let body = writer.sync(&[(ConversationId(0), Sequence(1))]);
    assert_eq!(Sync::decode(body).map(|_| ()), Err(BodyError::Table));
    let token = "t".repeat(TOKEN_BYTES_MAX + 1);
    let body = writer.authenticate(&Authenticate { token: Some(&token), ..Default::default() });
    assert_eq!(Authenticate::decode(body), Err(BodyError::TooLarge));
    let resume = [0; RESUME_TOKEN_BYTES_MAX + 1];
    let body =
        writer.authenticate(&Authenticate { resume_token: Some(&resume), ..Default::default() });
    assert_eq!(Authenticate::decode(body), Err(BodyError::TooLarge));
    let body = writer.authenticate(&Authenticate { user: Some("no spaces"), ..Default::default() });
    assert_eq!(Authenticate::decode(body), Err(BodyError::Name));
}

#[test]
fn leaving_names_nobody_and_every_other_change_somebody() {
    let mut writer = TableWriter::default();
    for change in MemberChange::ALL {
        let leaves = change == MemberChange::Leave;
        let body = writer.change_members(GROUP, change, []);
        assert_eq!(ChangeMembers::decode(body).is_ok(), leaves, "{change:?} of nobody");
        let body = writer.change_members(GROUP, change, ["bob"]);
        assert_eq!(ChangeMembers::decode(body).is_ok(), !leaves, "{change:?} of somebody");
    }
}

#[test]
fn an_empty_string_stands_for_an_absent_one() {
    let mut writer = TableWriter::default();
    let empty = Authenticate {
        token: Some(""),
        user: Some(""),
        device: Some(""),
        resume_token: Some(&[]),
        auto_delivered: false,
    };
    assert_eq!(Authenticate::decode(writer.authenticate(&empty)), Ok(Authenticate::default()));
}

/// A create-group body whose `count` members are one and the same string of `bytes` bytes.
fn members_shared(count: usize, bytes: usize) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let member = builder.create_string(&"u".repeat(bytes));
    let members = Some(builder.create_vector(&vec![member; count]));
    let name = Some(builder.create_string("G"));
    let request = 1.into();
    let arguments = schema::CreateGroupArgs { request: Some(&request), name, members };
    let root = schema::CreateGroup::create(&mut builder, &arguments);
    builder.finish_minimal(root);
    builder.finished_data().to_vec()
}

#[test]
fn a_small_body_that_unfolds_into_a_large_one_is_refused_early() {
    let body = members_shared(MEMBERS_PER_FRAME_MAX, NAME_BYTES_MAX);
    assert!(CreateGroup::decode(&body).is_ok(), "sharing strings is allowed within the bound");
    let body = members_shared(1000, 60_000);
    assert!(body.len() < FRAME_BODY_BYTES_MAX);
    assert_eq!(CreateGroup::decode(&body).map(|_| ()), Err(BodyError::Table));
    let body = members_shared(MEMBERS_PER_FRAME_MAX + 1, 1);
    assert_eq!(CreateGroup::decode(&body).map(|_| ()), Err(BodyError::TooLarge));
}

#[test]
fn numbers_that_no_version_defined_are_refused() {
    let mut builder = FlatBufferBuilder::new();
    let by = Some(builder.create_string("eve"));
    let user_ids = Some(builder.create_vector::<flatbuffers::WIPOffset<&str>>(&[]));
    let group = 1.into();
    let change = schema::MemberChange(5);
    let arguments = schema::MembersChangedArgs { group: Some(&group), change, by, user_ids };
    let root = schema::MembersChanged::create(&mut builder, &arguments);
    builder.finish_minimal(root);
    let decoded = MembersChanged::decode(builder.finished_data());
    assert_eq!(decoded.map(|_| ()), Err(BodyError::Table));
}

#[test]
fn a_required_field_that_is_missing_is_refused() {
    for (kind, decode) in decoders() {
        // A table without one field: a root offset, a vtable of two lengths, a table.
        let body = [8, 0, 0, 0, 4, 0, 4, 0, 4, 0, 0, 0];
        let is_optional = matches!(kind, Kind::Authenticate | Kind::Sync);
        assert_eq!(decode(&body).is_ok(), is_optional, "{kind:?}");
    }
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_table_gives_an_answer() {
    for ((kind, decode), body) in decoders().into_iter().zip(samples()) {
        assert!(decode(&body).is_ok(), "{kind:?}");
        for end in 0..body.len() {
            // A cut may leave a table that is whole, where only padding went.
            let _ = decode(&body[..end]);
        }
        assert_eq!(decode(&body[..body.len() / 2]), Err(BodyError::Table), "{kind:?}");
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&flipped);
        }
    }
}

#[test]
fn a_table_is_read_at_any_address() {
    for ((kind, decode), body) in decoders().into_iter().zip(samples()) {
        let mut shifted = vec![0; 8 + body.len()];
        for shift in 0..8 {
            shifted[shift..shift + body.len()].copy_from_slice(&body);
            assert_eq!(decode(&shifted[shift..shift + body.len()]), decode(&body), "{kind:?}");
        }
    }
}

#[test]
fn a_writer_keeps_nothing_of_the_body_before() {
    let mut used = TableWriter::default();
    let before = used.rename_group(&RenameGroup { group: GROUP, name: "first" }).to_vec();
    used.create_group(ClientMessageId(1), "another", ["bob"; 100]);
    let after = used.rename_group(&RenameGroup { group: GROUP, name: "first" });
    assert_eq!(before, after);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (_, decode) in decoders() {
            let _ = decode(&body);
        }
    }

    #[test]
    fn no_small_numbers_make_a_decoder_panic(body in proptest::collection::vec(0_u8..16, 0..200)) {
        for (_, decode) in decoders() {
            let _ = decode(&body);
        }
    }

    #[test]
    fn no_damage_to_a_table_makes_any_decoder_panic(
        which in 0..10_usize,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut body = samples().swap_remove(which);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        for (_, decode) in decoders() {
            let _ = decode(&body);
        }
    }
}
