//! Little-endian fields in and out of a record's body. Reading is total: any bytes give a value
//! or a typed error.

use crate::command::Speaker;
use crate::record::BadRecord;
use wire::{ConversationId, UserKey};

/// What is left of a body.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads the leading version byte and refuses all but `version`.
    pub(crate) fn version(&mut self, version: u8) -> Result<(), BadRecord> {
        if self.u8()? == version { Ok(()) } else { Err(BadRecord::Version) }
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BadRecord> {
        Ok(self.fixed::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BadRecord> {
        Ok(u16::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BadRecord> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BadRecord> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, BadRecord> {
        Ok(u128::from_le_bytes(self.fixed()?))
    }

    pub(crate) fn user(&mut self) -> Result<UserKey, BadRecord> {
        Ok(UserKey(self.u128()?))
    }

    pub(crate) fn conversation(&mut self) -> Result<ConversationId, BadRecord> {
        Ok(ConversationId(self.u128()?))
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadRecord> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(BadRecord::Length)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A user id behind its length in one byte.
    pub(crate) fn name(&mut self) -> Result<&'a str, BadRecord> {
        let count = self.u8()?;
        wire::body::name(self.bytes(usize::from(count))?).map_err(|_| BadRecord::Name)
    }

    /// A key and a name.
    pub(crate) fn speaker(&mut self) -> Result<Speaker<'a>, BadRecord> {
        Ok(Speaker { user: self.user()?, name: self.name()? })
    }

    /// A group's name behind its length in two bytes.
    pub(crate) fn text(&mut self) -> Result<&'a str, BadRecord> {
        let count = self.u16()?;
        str::from_utf8(self.bytes(usize::from(count))?).map_err(|_| BadRecord::Name)
    }

    /// All that is left.
    pub(crate) fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), BadRecord> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadRecord::Length) }
    }
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u128(out: &mut Vec<u8>, value: u128) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).expect("a user id is at most 64 bytes"));
    out.extend_from_slice(name.as_bytes());
}

pub(crate) fn put_speaker(out: &mut Vec<u8>, speaker: Speaker<'_>) {
    put_u128(out, speaker.user.0);
    put_name(out, speaker.name);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_u16(out, u16::try_from(text.len()).expect("a group's name is at most 256 bytes"));
    out.extend_from_slice(text.as_bytes());
}
