//! Frames between zos processes: `docs/spec/frame.md`, and the blocking client of hold: `docs/spec/hold.md`.
//!
//! A frame is one SEQPACKET datagram: `u16 version`, `u32 length`, a msgpack map, and descriptors. [`Channel`] moves
//! frames, [`head`] and [`body`] read a map in two passes (first who it is for, then its typed body), [`request`],
//! [`reply`], [`error`] and [`event`] write one. Nothing here panics on bytes from a peer.
#![forbid(unsafe_code)]

mod channel;
mod codec;
mod error;
pub mod hold;
pub mod scarce;

pub use channel::{Channel, Received, DESCRIPTORS_MAX, INLINE_MAX, MAP_MAX};
pub use codec::{
    body, decode, encode, error, event, head, reply, request, Empty, Head, HEADER_LEN, REFUSED,
    VERSION,
};
pub use error::{Error, WireError};
pub use hold::HoldClient;
pub use scarce::Door;
