//! Frames: a 16-byte header, then a body. The bytes are drawn in `docs/wire.md`.
//!
//! ```text
//! 0         4       6       7       8                16
//! | length  | kind  | flags | spare | reference      | body: `length` bytes ...
//! ```
//!
//! Integers are little-endian; flags and spare are zero in version 1. `reference` is the sender's
//! own: a reply or an error carries the one of the frame it answers.

use crate::kind::Kind;
use crate::limits::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES};

/// One frame, borrowed from the bytes it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// The sender's own number for it, echoed on a reply.
    pub reference: u64,
    /// At most `kind.body_bytes_max()` bytes.
    pub body: &'a [u8],
}

/// What stands at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame, and how many bytes it took.
    Frame(Frame<'a>, usize),
    /// A well-formed frame of a kind this version does not know: to be answered and stepped over.
    Unknown {
        /// The number in place of a kind.
        number: u16,
        /// The sender's reference.
        reference: u64,
        /// How many bytes it took.
        bytes: usize,
    },
    /// The front of a frame; the whole of it needs this many bytes.
    Incomplete {
        /// Bytes of the whole frame, or of its header where that is not complete yet.
        bytes_needed: usize,
    },
}

/// Why bytes are not a frame. There is no way back to a frame border after either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The body is longer than its kind, or any kind, allows.
    TooLarge {
        /// The sender's reference, for the error frame.
        reference: u64,
        /// The length it announced.
        bytes: u32,
    },
    /// Flag or spare bits are set that version 1 does not define.
    Malformed,
}

/// Reads the frame at the front of `bytes`. Total: any bytes give an answer, none a panic.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(Decoded::Incomplete { bytes_needed: FRAME_HEADER_BYTES });
    };
    let [l0, l1, l2, l3, k0, k1, flags, spare, r @ ..] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let number = u16::from_le_bytes([k0, k1]);
    let reference = u64::from_le_bytes(r);
    if flags != 0 || spare != 0 {
        return Err(FrameError::Malformed);
    }
    let kind = Kind::from_number(number);
    let body_bytes_max = kind.map_or(FRAME_BODY_BYTES_MAX, Kind::body_bytes_max);
    let body_bytes = length as usize;
    if body_bytes > body_bytes_max {
        return Err(FrameError::TooLarge { reference, bytes: length });
    }
    let Some(body) = rest.get(..body_bytes) else {
        return Ok(Decoded::Incomplete { bytes_needed: FRAME_HEADER_BYTES + body_bytes });
    };
    let bytes = FRAME_HEADER_BYTES + body_bytes;
    Ok(match kind {
        Some(kind) => Decoded::Frame(Frame { kind, reference, body }, bytes),
        None => Decoded::Unknown { number, reference, bytes },
    })
}

/// The header of a frame of `kind` with a body of `body_bytes`.
///
/// A body is often gathered from several places, so the caller puts the parts behind this one.
pub fn header(kind: Kind, reference: u64, body_bytes: usize) -> [u8; FRAME_HEADER_BYTES] {
    assert!(body_bytes <= kind.body_bytes_max(), "{kind:?}: a body of {body_bytes} bytes");
    let length = u32::try_from(body_bytes).expect("bounded by the kind");
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..6].copy_from_slice(&(kind as u16).to_le_bytes());
    header[8..].copy_from_slice(&reference.to_le_bytes());
    header
}

/// Appends a whole frame, its body gathered from `parts`.
pub fn encode(out: &mut Vec<u8>, kind: Kind, reference: u64, parts: &[&[u8]]) {
    let body_bytes = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&header(kind, reference, body_bytes));
    for part in parts {
        out.extend_from_slice(part);
    }
}
