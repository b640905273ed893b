//! THE PROTOCOL: bytes to frames and back, and the words every crate shares.
#![forbid(unsafe_code)]
pub mod id;
pub use id::*;
