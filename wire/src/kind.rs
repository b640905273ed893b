//! The whole vocabulary on one screen: a frame's number, who sends it, how it travels, how long
//! its body may be. A released number is never used again for something else.

use crate::limits::{CONTENT_BYTES_MAX, FRAME_BODY_BYTES_MAX, NAME_BYTES_MAX, TOKEN_BYTES_MAX};

/// How a frame kind travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Opens, keeps and closes a connection.
    Control,
    /// Ordered and on disk before it is acknowledged; refused, never dropped.
    Durable,
    /// Answers a question about what is stored.
    Query,
}

/// Which end sends a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client.
    Client,
    /// The server.
    Server,
}

macro_rules! frame_kinds {
    ($(
        $number:literal $name:ident $plane:ident $sender:ident $bytes_max:expr, $about:literal;
    )*) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind { $(#[doc = $about] $name = $number,)* }

        impl Kind {
            /// Every kind, in order of number.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// The kind numbered `number`, if there is one.
            pub fn from_number(number: u16) -> Option<Kind> {
                match number { $($number => Some(Kind::$name),)* _ => None }
            }

            /// How it travels.
            pub fn plane(self) -> Plane { match self { $(Kind::$name => Plane::$plane,)* } }

            /// Who sends it.
            pub fn sender(self) -> Sender { match self { $(Kind::$name => Sender::$sender,)* } }

            /// The longest body it may have.
            pub fn body_bytes_max(self) -> usize { match self { $(Kind::$name => $bytes_max,)* } }

            /// One line for the reference.
            pub fn about(self) -> &'static str { match self { $(Kind::$name => $about,)* } }
        }
    };
}

const TEXT: usize = 1024;
const MESSAGE: usize = CONTENT_BYTES_MAX + NAME_BYTES_MAX + 128;

frame_kinds! {
    0x0001 Hello          Control Client 16,  "Opens the connection: versions and features";
    0x0002 Authenticate   Control Client TOKEN_BYTES_MAX + TEXT,
        "Says who speaks, by token or development user id";
    0x0003 Heartbeat      Control Client 0,   "Keeps the session alive";
    0x0010 SendMessage    Durable Client MESSAGE, "A message for a conversation or a recipient";
    0x0011 MarkDelivered  Durable Client 24,  "This device has messages up to a sequence";
    0x0012 MarkRead       Durable Client 24,  "The user has read up to a sequence";
    0x0020 ReadHistory    Query   Client 32,  "A page of messages, newest first";
    0x0021 Sync           Query   Client FRAME_BODY_BYTES_MAX,
        "What was missed since the cursors given";
    0x0022 ListConversations Query Client 24, "The user's conversations with unread counts";
    0x0023 ReadGroup      Query   Client 24,  "A group's name and members";
    0x0030 CreateGroup    Durable Client FRAME_BODY_BYTES_MAX,
        "Makes a group; the sender becomes its admin";
    0x0031 ChangeMembers  Durable Client FRAME_BODY_BYTES_MAX,
        "Adds, removes, promotes, demotes; or leaves";
    0x0032 RenameGroup    Durable Client TEXT, "Gives a group another name";

    0x8001 Welcome        Control Server 24,  "Accepts the hello: version and features in force";
    0x8002 Authenticated  Control Server TEXT, "The session is live";
    0x8003 HeartbeatAck   Control Server 0,   "Answers a heartbeat";
    0x8010 MessageSent    Durable Server 64,  "The message is ordered and on disk";
    0x8011 Deliver        Durable Server MESSAGE,
        "A message of somebody, or of another device of one's own";
    0x8012 DeliveryReceipt Durable Server 128, "A user's devices have messages up to a sequence";
    0x8013 ReadReceipt    Durable Server 128, "A user has read up to a sequence";
    0x8014 UnreadUpdate   Durable Server 24,  "The unread count of a conversation";
    0x8015 GroupStatus    Durable Server 56,  "Counts of delivered and read in a large group";
    0x8020 HistoryPage    Query   Server FRAME_BODY_BYTES_MAX, "Messages, newest first";
    0x8021 SyncBatch      Query   Server FRAME_BODY_BYTES_MAX, "Missed messages, oldest first";
    0x8022 SyncDone       Query   Server 8,   "Nothing more was missed";
    0x8023 Gap            Query   Server 32,  "Messages that can no longer be brought";
    0x8024 Conversations  Query   Server FRAME_BODY_BYTES_MAX,
        "A slice of the user's conversations";
    0x8030 Group          Durable Server FRAME_BODY_BYTES_MAX, "A group's name and members";
    0x8031 MembersChanged Durable Server FRAME_BODY_BYTES_MAX, "Membership changed";
    0x8032 GroupUpdated   Durable Server TEXT, "A group has another name";
    0x80f0 GoAway         Control Server 128, "The server is about to close, and when to come back";
    0x80ff Error          Control Server TEXT, "What was refused, and why";
}

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident {
        $($number:literal $name:ident $text:literal, $about:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $type { $(#[doc = $about] $name = $number,)* }

        impl $type {
            /// Every one, in order of number.
            pub const ALL: &[$type] = &[$($type::$name,)*];
            /// The one numbered `number`, if there is one.
            pub fn from_number(number: u16) -> Option<$type> {
                match number { $($number => Some($type::$name),)* _ => None }
            }
            /// Its name in JSON, logs and metrics.
            pub fn name(self) -> &'static str { match self { $($type::$name => $text,)* } }
            /// What it means and what to do, for the reference.
            pub fn about(self) -> &'static str { match self { $($type::$name => $about,)* } }
        }
    };
}

codes! {
    /// Why something was refused. A closed list.
    ErrorCode {
        1 BadRequest "bad_request", "The frame is malformed: mend the client";
        2 UnknownType "unknown_type", "The server does not know this kind: go on without it";
        3 Unauthenticated "unauthenticated", "Authenticate first, or with a valid token";
        4 TokenExpired "token_expired", "Fetch a new token and authenticate again";
        5 Forbidden "forbidden", "The user may not do this: do not retry";
        6 NotFound "not_found", "There is no such thing: do not retry";
        7 NotAMember "not_a_member", "The user is not in the conversation: do not retry";
        8 TooLarge "too_large", "Over a limit: send less";
        9 RateLimited "rate_limited", "Too fast: retry after the time given";
        10 Busy "busy",
        "The server is full: retry after the time given, with the same client message id";
        11 Unsupported "unsupported", "This server or this conversation does not do that";
        12 Conflict "conflict", "The state does not allow it: read it again";
        13 Gone "gone", "It was there and is no longer";
        14 Internal "internal", "The server's fault: retry later";
    }
}

codes! {
    /// Why a connection ended. A closed list.
    CloseReason {
        1 Draining "draining", "The server is shutting down: come back at the time given";
        2 BadFrame "bad_frame", "The bytes were not a frame";
        3 TooLarge "too_large", "A frame over its limit";
        4 Unexpected "unexpected", "A frame the connection's state does not allow";
        5 Unauthenticated "unauthenticated", "The token or user was refused";
        6 AuthTimeout "auth_timeout", "Not authenticated in time";
        7 Idle "idle", "No heartbeat for two intervals";
        8 SlowConsumer "slow_consumer", "The client did not read its frames: come back and resume";
        9 Replaced "replaced", "The same device connected again";
        10 PeerClosed "peer_closed", "The client closed";
        11 PeerReset "peer_reset", "The client's socket failed";
        12 ServerFull "server_full", "No room for another connection: try later";
        13 Internal "internal", "The server's fault";
    }
}
