//! The first two frames: the client's `Hello`, the server's `Welcome`.
//!
//! Their layout is fixed for ever, since they are read before a version is agreed on.

use crate::body::{BodyError, exact};
use crate::generated as schema;
use crate::kind::{CloseReason, ErrorCode};
use crate::limits::FRAME_BYTES_MAX;

/// "RING" as little-endian bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RING");
/// The one version there is.
pub const VERSION: u16 = 1;
/// Features this end knows, a bit each. Version 1 has none.
pub const FEATURES: u64 = 0;

/// `Hello`: what the client can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`MAGIC`], or this is not a client of ours.
    pub magic: u32,
    /// The oldest version it speaks.
    pub version_min: u16,
    /// The newest version it speaks.
    pub version_max: u16,
    /// Features it knows.
    pub features: u64,
}

impl Hello {
    /// What this crate's client says.
    pub const OURS: Self =
        Self { magic: MAGIC, version_min: VERSION, version_max: VERSION, features: FEATURES };

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = schema::Hello(exact(body)?);
        Ok(Self {
            magic: head.magic(),
            version_min: head.version_min(),
            version_max: head.version_max(),
            features: head.features(),
        })
    }

    /// The whole body.
    pub fn head(&self) -> schema::Hello {
        schema::Hello::new(self.magic, self.version_min, self.version_max, self.features)
    }
}

/// `Welcome`: what both ends will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version in force.
    pub version: u16,
    /// The features in force: those that both ends know.
    pub features: u64,
    /// The longest frame the server takes.
    pub frame_bytes_max: u32,
    /// How long the client has to authenticate.
    pub auth_timeout_ms: u32,
}

impl Welcome {
    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let head = schema::Welcome(exact(body)?);
        if head.magic() != MAGIC {
            return Err(BodyError::Field);
        }
        Ok(Self {
            version: head.version(),
            features: head.features(),
            frame_bytes_max: head.frame_bytes_max(),
            auth_timeout_ms: head.auth_timeout_ms(),
        })
    }

    /// The whole body.
    pub fn head(&self) -> schema::Welcome {
        schema::Welcome::new(
            MAGIC,
            self.version,
            0,
            self.features,
            self.frame_bytes_max,
            self.auth_timeout_ms,
        )
    }
}

/// Why a hello was refused. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// Another protocol's client.
    Magic,
    /// No version that both ends speak.
    Version,
}

impl HelloError {
    /// What the error frame says before the connection closes.
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::Magic => ErrorCode::BadRequest,
            Self::Version => ErrorCode::Unsupported,
        }
    }

    /// Why the connection closes.
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::Magic => CloseReason::BadFrame,
            Self::Version => CloseReason::Unexpected,
        }
    }
}

/// Agrees on a version and features, or says why not.
pub fn negotiate(hello: &Hello, auth_timeout_ms: u32) -> Result<Welcome, HelloError> {
    if hello.magic != MAGIC {
        return Err(HelloError::Magic);
    }
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return Err(HelloError::Version);
    }
    let frame_bytes_max = u32::try_from(FRAME_BYTES_MAX).expect("a frame is far below 4 GiB");
    let features = hello.features & FEATURES;
    Ok(Welcome { version: VERSION, features, frame_bytes_max, auth_timeout_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_both_speak_is_taken_and_unknown_features_are_dropped() {
        let hello = Hello { version_max: 9, features: u64::MAX, ..Hello::OURS };
        let welcome = negotiate(&hello, 10_000).expect("version 1 is among 1 to 9");
        assert_eq!((welcome.version, welcome.features), (1, FEATURES));
        assert_eq!(Welcome::decode(&welcome.head().0), Ok(welcome));
        assert_eq!(Hello::decode(&hello.head().0), Ok(hello));
    }

    #[test]
    fn a_hello_without_a_common_version_or_the_magic_is_refused() {
        let newer = Hello { version_min: 2, version_max: 3, ..Hello::OURS };
        let upside_down = Hello { version_min: 2, version_max: 1, ..Hello::OURS };
        let stranger = Hello { magic: u32::from_le_bytes(*b"GET "), ..Hello::OURS };
        assert_eq!(negotiate(&newer, 0), Err(HelloError::Version));
        assert_eq!(negotiate(&upside_down, 0), Err(HelloError::Version));
        assert_eq!(negotiate(&stranger, 0), Err(HelloError::Magic));
    }

    #[test]
    fn a_welcome_without_the_magic_is_refused() {
        let mut body = negotiate(&Hello::OURS, 1).expect("ours").head().0;
        body[0] ^= 1;
        assert_eq!(Welcome::decode(&body), Err(BodyError::Field));
    }
}
