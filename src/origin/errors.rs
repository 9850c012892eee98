//! Turns errors of hyper's client into faults.

use std::error::Error;
use std::io;

use super::tls_stream::TlsEnd;
use crate::fault::{Cause, Fault, cause_in};

/// Returns the h2 error inside an error of hyper, if there is one.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// Returns whether the origin reports that it has not processed the request (RFC 9113 §8.7).
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let going_away = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        error.is_remote() && (refused || going_away)
    })
}

/// Returns whether the whole connection has ended, not only one stream.
pub(super) fn is_dead(error: &hyper::Error) -> bool {
    h2_error(error).is_none_or(|error| error.is_io() || error.is_go_away())
}

/// Returns the fault for an error of hyper's client. If the connection uses TLS, `tls` stores why TLS failed.
pub(super) fn fault_of(error: hyper::Error, tls: Option<&TlsEnd>) -> Fault {
    let cause = if let Some(cause) = cause_in(&error) {
        cause
    } else if let Some(fault) = tls.and_then(TlsEnd::fault) {
        // In TLS 1.3 edgeshim's part of the handshake is complete before the origin checks edgeshim's certificate. So
        // an alert about this certificate arrives in place of the response.
        return fault;
    } else if error.is_parse_too_large() {
        return Fault::head_too_large(error);
    } else if error.is_parse() {
        Cause::BrokenHead
    } else if let Some(cause) = h2_error(&error).and_then(h2_cause) {
        cause
    } else if let Some(cause) = io_cause(&error) {
        cause
    } else {
        Cause::Closed
    };
    Fault::from_error(cause, error)
}

/// Returns the cause for an h2 error, or `None` if the h2 error shows no cause. A remote error means that the origin
/// sent a reset or a GOAWAY. A local error with a reason means that h2 found the origin's frames malformed.
fn h2_cause(error: &h2::Error) -> Option<Cause> {
    if error.is_io() {
        return error.get_io().map(cause_of_io);
    }
    if !error.is_remote() && error.reason().is_some() {
        return Some(Cause::BrokenHead);
    }
    error.is_reset().then_some(Cause::Reset)
}

pub(super) fn cause_of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Reset,
        _ => Cause::Closed,
    }
}

fn io_cause(error: &hyper::Error) -> Option<Cause> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(cause_of_io(error));
        }
        next = error.source();
    }
    None
}
