//! Bounds of the protocol, in one place, so that they can prove each other.

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Largest body a peer may announce.
pub const FRAME_BODY_BYTES_MAX: usize = 128 * 1024;
/// Largest whole frame.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX;
/// Largest content of one message.
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;
/// Longest user or device id.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest group name.
pub const GROUP_NAME_BYTES_MAX: usize = 256;
/// Longest token in an authenticate frame.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Most members named in one frame.
pub const MEMBERS_PER_FRAME_MAX: usize = 1000;
/// Most messages in a page; an answer may carry fewer to stay within a frame.
pub const PAGE_MESSAGES_MAX: u16 = 200;
/// Messages in a page where the client names no limit.
pub const PAGE_MESSAGES_DEFAULT: u16 = 50;
/// Most cursors in one sync request.
pub const CURSORS_PER_FRAME_MAX: usize = 4096;
/// Longest resume token.
pub const RESUME_TOKEN_BYTES_MAX: usize = 64;
/// Longest text of an error frame.
pub const ERROR_TEXT_BYTES_MAX: usize = 512;
/// Most conversations in one slice of a list.
pub const CONVERSATIONS_PER_FRAME_MAX: u16 = 200;

/// Deepest nesting of a table body: a root, its list, an entry.
pub const TABLE_DEPTH_MAX: usize = 4;
/// Most tables in a body: the root and one a member.
pub const TABLES_PER_FRAME_MAX: usize = MEMBERS_PER_FRAME_MAX + 1;
/// Most bytes that a table body may seem to have once shared parts are counted each time they are
/// used. Honest bodies stay near twice their length; the bound stops small bodies that unfold.
pub const TABLE_APPARENT_BYTES_MAX: usize = 4 * FRAME_BODY_BYTES_MAX;

const _: () = {
    // A deliver frame with the longest sender and content must fit, and so must a page entry.
    assert!(CONTENT_BYTES_MAX + NAME_BYTES_MAX + 256 <= FRAME_BODY_BYTES_MAX);
    // A group made with the most members, each with the longest name, must fit.
    assert!(MEMBERS_PER_FRAME_MAX * (NAME_BYTES_MAX + 24) + 1024 <= FRAME_BODY_BYTES_MAX);
    assert!(CURSORS_PER_FRAME_MAX * 24 + 1024 <= FRAME_BODY_BYTES_MAX);
    assert!(
        CONVERSATIONS_PER_FRAME_MAX as usize * (GROUP_NAME_BYTES_MAX + NAME_BYTES_MAX + 128)
            <= FRAME_BODY_BYTES_MAX
    );
    assert!(CONVERSATIONS_PER_FRAME_MAX as usize <= MEMBERS_PER_FRAME_MAX);
};
