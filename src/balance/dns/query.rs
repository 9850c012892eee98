//! Lookups of a name, in the form in which a client's resolver makes them (RFC 1035), with a client subnet (RFC 7871).
//! A lookup uses UDP. If the answer is too large for UDP, the lookup uses TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// The flags QR and TC, in the third byte. An answer with both flags is incomplete, because it does not fit into a
/// packet.
const TRUNCATED: u8 = 0x82;
/// The option with the client's subnet (RFC 7871 §6).
const OPTION_SUBNET: u16 = 8;
/// The largest answer over UDP that the query allows, in bytes.
const MAX_ANSWER_BYTES: u16 = 1232;
/// The largest number of times that a query is sent. A query without an answer is sent again, because UDP loses
/// packets.
const TRIES: u32 = 2;
/// The longest wait for an answer over UDP, with all tries, and the longest wait over TCP.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The answer to a query for a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name that the CNAME points to, in lower case, without the final dot.
    Cname(String),
    NoCname,
    /// The server reports an error, for example SERVFAIL.
    Error(String),
}

/// Looks a name up at a server, with a random IPv4 address as the client's address.
pub(super) async fn cname(server: SocketAddr, name: &str, limit: Duration) -> io::Result<Answer> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let id = fastrand::u16(..);
    let client = [fastrand::u8(1..=223), fastrand::u8(..), fastrand::u8(..), fastrand::u8(1..)];
    let query = query(id, name, client);
    for _ in 0..TRIES {
        socket.send(&query).await?;
        let mut buffer = [0; MAX_ANSWER_BYTES as usize];
        let received = timeout(limit.min(LONGEST_WAIT) / TRIES, async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                let packet = buffer.get(..length).unwrap_or_default();
                if is_truncated(packet, id) {
                    return io::Result::Ok(None);
                }
                // A packet that is not the answer to this query is ignored.
                if let Some(answer) = answer(packet, id, name) {
                    return Ok(Some(answer));
                }
            }
        });
        match received.await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => {
                let received = timeout(limit.min(LONGEST_WAIT), over_tcp(server, &query, id, name)).await;
                return received.map_err(|_| timed_out("no answer over TCP, after a truncated answer over UDP"))?;
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Err(timed_out("no answer"))
}

fn timed_out(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Sends a query over TCP. Each message has its length in two bytes before it (RFC 1035 §4.2.2).
async fn over_tcp(server: SocketAddr, query: &[u8], id: u16, name: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    let answer = answer(&packet, id, name).filter(|_| !is_truncated(&packet, id));
    answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no valid answer over TCP"))
}

/// Whether a packet is an incomplete answer to the query `id`, because the answer does not fit (the flag TC).
fn is_truncated(packet: &[u8], id: u16) -> bool {
    packet.starts_with(&id.to_be_bytes()) && packet.get(2).is_some_and(|flags| flags & TRUNCATED == TRUNCATED)
}

fn query(id: u16, name: &str, client: [u8; 4]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64 + name.len());
    // The header: the id, no flags (so no recursion), one question, no answer, no authority, one additional record.
    for word in [id, 0, 1, 0, 0, 1] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    for word in [TYPE_A, CLASS_IN] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.push(0);
    // The OPT record (RFC 6891 §6.1): type, size of answers, extended code and flags (two words), length of the
    // options. Then the option with the client's subnet: code, length, address family.
    for word in [TYPE_OPT, MAX_ANSWER_BYTES, 0, 0, 12, OPTION_SUBNET, 8, 1] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(&[32, 0]);
    packet.extend_from_slice(&client);
    packet
}

/// Reads the answer to the query `id` for `name`. Returns `None` if the packet is incomplete, or is not this answer.
fn answer(packet: &[u8], id: u16, name: &str) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let flags = word(2)?;
    if word(0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let (questions, answers) = (word(4)?, word(6)?);
    let mut at = 12;
    for _ in 0..questions {
        let (asked, end) = read_name(packet, at)?;
        if asked != name.to_ascii_lowercase() {
            return None;
        }
        at = end + 4;
    }
    match flags & 0xF {
        0 | 3 => {}
        2 => return Some(Answer::Error("SERVFAIL".to_owned())),
        5 => return Some(Answer::Error("REFUSED".to_owned())),
        code => return Some(Answer::Error(format!("the error {code}"))),
    }
    for _ in 0..answers {
        let (owner, end) = read_name(packet, at)?;
        let (kind, length) = (word(end)?, usize::from(word(end + 8)?));
        let data = end + 10;
        if kind == TYPE_CNAME && owner == name.to_ascii_lowercase() {
            return Some(Answer::Cname(read_name(packet, data)?.0));
        }
        at = data + length;
    }
    Some(Answer::NoCname)
}

/// Reads a name from a packet. The end of a name can be a pointer to an earlier name (RFC 1035 §4.1.4). Returns the
/// name, and the position after the name or after its first pointer.
fn read_name(packet: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut end) = (start, None);
    // A name has at most 127 labels. The limit also stops pointers that form a circle.
    for _ in 0..256 {
        let length = usize::from(*packet.get(at)?);
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = packet.get(at + 1..at + 1 + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                let plain =
                    |&byte: &u8| if byte.is_ascii_graphic() { char::from(byte.to_ascii_lowercase()) } else { '?' };
                name.extend(label.iter().map(plain));
                at += 1 + length;
            }
            0xC0..=0xFF => {
                end = end.or(Some(at + 2));
                at = (length & 0x3F) << 8 | usize::from(*packet.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    /// An answer to a query for `img.example.com`, with this code and at most one record.
    fn packet(code: u8, records: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 0x84, code, 0, 1, 0, u8::from(!records.is_empty()), 0, 0, 0, 0];
        packet.extend_from_slice(b"\x03IMG\x07example\x03com\x00\x00\x01\x00\x01");
        packet.extend_from_slice(records);
        packet
    }

    const CNAME: &[u8] = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01a\xc0\x10";

    #[test]
    fn answer_when_complete_then_is_read_as_cname_or_as_no_cname_or_as_error() {
        let read = |packet: &[u8]| answer(packet, 0x1234, "img.example.com");
        assert_eq!(read(&packet(0, CNAME)), Some(Answer::Cname("a.example.com".to_owned())));
        assert_eq!(read(&packet(0, b"")), Some(Answer::NoCname));
        assert_eq!(read(&packet(2, b"")), Some(Answer::Error("SERVFAIL".to_owned())));
        assert_eq!(read(&packet(5, b"")), Some(Answer::Error("REFUSED".to_owned())));
    }

    #[test]
    fn answer_when_cut_circular_or_to_another_query_then_is_ignored() {
        let whole = packet(0, CNAME);
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], 0x1234, "img.example.com"), None, "{length} bytes");
        }
        assert_eq!(answer(&whole, 0x1235, "img.example.com"), None);
        assert_eq!(answer(&whole, 0x1234, "other.example.com"), None);
        let circle = packet(0, b"\xc0\x26\x00\x05");
        assert_eq!(answer(&circle, 0x1234, "img.example.com"), None);
    }

    /// Looks a name up at a server that answers over UDP with `udp`, and over TCP with `tcp`.
    async fn asked(udp: Vec<u8>, tcp: Option<Vec<u8>>) -> io::Result<Answer> {
        let with_id = |packet: &[u8], id: &[u8]| [&id[..2], &packet[2..]].concat();
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            // The UDP port with this number can be in use.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr()?).await {
                break (listener, socket);
            }
        };
        let server = listener.local_addr()?;
        let over_udp = async {
            let mut query = [0; 512];
            let (_, peer) = socket.recv_from(&mut query).await?;
            socket.send_to(&with_id(&udp, &query), peer).await
        };
        let over_tcp = async {
            let Some(tcp) = tcp else { return io::Result::Ok(()) };
            let (mut stream, _) = listener.accept().await?;
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await?;
            let reply = with_id(&tcp, &query);
            stream.write_u16(u16::try_from(reply.len()).expect("a short reply")).await?;
            stream.write_all(&reply).await
        };
        let (answer, udp, tcp) =
            tokio::join!(cname(server, "img.example.com", Duration::from_mins(1)), over_udp, over_tcp);
        udp.and(tcp).and(answer)
    }

    fn truncated(mut packet: Vec<u8>) -> Vec<u8> {
        packet[2] |= 2;
        packet
    }

    #[tokio::test]
    async fn answer_over_udp_when_truncated_then_query_is_repeated_over_tcp() {
        let (short, whole) = (packet(0, b""), packet(0, CNAME));
        assert_eq!(asked(short.clone(), None).await.expect("an answer"), Answer::NoCname);
        let answer = asked(truncated(short.clone()), Some(whole)).await;
        assert_eq!(answer.expect("an answer"), Answer::Cname("a.example.com".to_owned()));
        for wrong in [truncated(short.clone()), vec![0; 12]] {
            let error = asked(truncated(short.clone()), Some(wrong)).await.expect_err("no valid answer");
            assert_eq!(error.to_string(), "no valid answer over TCP");
        }
    }

    #[test]
    fn query_when_written_then_has_the_name_and_the_subnet() {
        let query = query(0x1234, "img.example.com", [192, 0, 2, 1]);
        assert_eq!(read_name(&query, 12), Some(("img.example.com".to_owned(), 29)));
        assert!(query.ends_with(b"\x00\x08\x00\x08\x00\x01\x20\x00\xc0\x00\x02\x01"), "{query:x?}");
    }

    proptest! {
        #[test]
        fn answer_when_bytes_are_arbitrary_then_read_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = answer(&bytes, 0, "a");
            let mut packet = packet(0, b"");
            packet[7] = 9;
            packet.extend(bytes);
            let _ = answer(&packet, 0x1234, "img.example.com");
        }
    }
}
