//! TLS on a client connection. The stream with the decrypted bytes (`secured.rs`) is below `watched.rs`, so timeouts,
//! the framing check and parking work as without TLS.

mod handshake;
mod secured;

pub(super) use self::handshake::{Begun, begin};
