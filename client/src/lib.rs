//! THE SDK: the other end of the native protocol.
//!
//! [`Session`] is the whole of a client but its socket and its clock: bytes and times go in, bytes
//! and [`Event`]s come out, and it lives on through any number of connections. It keeps what was
//! not acknowledged and sends it again under the same id, remembers how far each conversation was
//! received, and says when to come back. [`blocking::Client`] is a thin shell that gives it a
//! `TcpStream`. It is not a store: history is the server's, and a restart of the process starts
//! from the cursors that the server keeps for the device.
#![forbid(unsafe_code)]

pub mod blocking;
mod cursors;
mod event;
mod ids;
mod inbound;
mod outbox;
mod session;

pub use event::{
    Conversation, Event, Group, GroupMember, MembersChange, Message, Receipt, Refusal, Renamed,
};
pub use ids::Ids;
pub use outbox::{OUTBOX_BYTES_MAX, OUTBOX_ENTRIES_MAX, Target};
pub use session::{
    Credential, Identity, ProtocolError, Reference, RequestError, SendError, Session, TimedOut,
};
