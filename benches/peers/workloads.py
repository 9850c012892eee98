"""The workloads. Each returns the number of requests, the number of bad results, and further figures."""

import collections
import gc
import os
import random
import re
import select
import socket
import subprocess
import time

import harness
from harness import expect

PROVIDER = ("X-CDN-Provider: fastly",)
REQUEST = b"GET /small.html HTTP/1.1\r\nHost: localhost\r\n\r\n"
# The longest time of a single wait, in seconds.
LIMIT = 20


class Workload:
    """`mode` is the mode of the proxy. `unit` is the unit of a result's `value`, which is the CPU time of a request if run() has no other
    value."""

    def __init__(self, title, mode, run, *, tls=False, unit="µs"):
        self.title, self.mode, self.run, self.tls, self.unit = title, mode, run, tls, unit


def load(words, seconds):
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + LIMIT)
    expect(done.returncode == 0, f"{' '.join(words)} failed: {done.stderr or done.stdout}")
    return done.stdout


def wrk(path, fields=(), tls=False, status=200):
    def run(proxy, options):
        seconds, connections = max(1, round(options.seconds)), options.connections
        url = f"https://127.0.0.1:{proxy.tls_port}{path}" if tls else f"http://127.0.0.1:{proxy.port}{path}"
        headers = [word for field in fields for word in ("-H", field)]
        command = [harness.program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", *headers, url]
        text = load(command, seconds)
        found = re.search(r"(\d+) requests in ", text)
        expect(found, f"the output of wrk has no number of requests: {text}")
        requests = int(found[1])
        sockets = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        others = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        failed = int(others[1]) if others else 0
        bad = failed if status == 200 else requests - failed
        # wrk ends while a request is in flight on each connection.
        return {"requests": requests, "bad": bad + (sum(map(int, sockets.groups())) if sockets else 0), "in_flight": connections}

    return run


def h2load(path, connections, streams):
    def run(proxy, options):
        seconds = max(1, round(options.seconds))
        url = f"https://127.0.0.1:{proxy.tls_port}{path}"
        text = load([harness.program("h2load"), "-t1", f"-c{connections}", f"-m{streams}", "-D", str(seconds), url], seconds)
        found = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", text)
        expect(found, f"the output of h2load has no number of requests: {text}")
        return {"requests": int(found[2]), "bad": int(found[3]), "in_flight": connections * streams}

    return run


def one_request(connection):
    """Sends a request, and reads the complete response."""
    connection.sendall(REQUEST)
    data = b""
    while not is_complete(data):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the proxy closed the connection")
        data += piece
    return is_small_page(data)


def is_small_page(data):
    """Whether a response is the page of 1 KiB, and not an empty response of the proxy."""
    return data.startswith(b"HTTP/1.1 200") and len(data) > 1024


def is_complete(data):
    """Whether a response is complete. A proxy can send chunks if it may change the body."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def is_open(connection):
    try:
        return one_request(connection)
    except OSError:
        return False


def handshakes(resumed):
    """New connections with one request each. If `resumed` is true, each connection resumes the session of the previous connection."""

    def run(proxy, options):
        context, session, requests, bad = proxy.bench.tls(), None, 0, 0
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            raw = socket.create_connection(("127.0.0.1", proxy.tls_port), LIMIT)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, session=session) as connection:
                requests += 1
                # The first connection has no session yet.
                bad += not one_request(connection) or connection.session_reused != (session is not None)
                session = connection.session if resumed else None
        return {"requests": requests, "bad": bad, "in_flight": 0}

    return run


def idle_memory(tls):
    """The growth of the proxy's memory by one idle connection, on which one request was made."""

    def run(proxy, options):
        proxy.restart()
        for _ in range(100):
            proxy.get("/small.html", tls=tls)
        time.sleep(options.settle)
        before, connections, context = proxy.memory_kib(), [], proxy.bench.tls()
        try:
            for _ in range(options.idle):
                connection = socket.create_connection(("127.0.0.1", proxy.tls_port if tls else proxy.port), LIMIT)
                connection = context.wrap_socket(connection) if tls else connection
                connections.append(connection)
                expect(one_request(connection), f"{proxy.name}: a response is not the page of 1 KiB")
            time.sleep(options.settle)
            grown = proxy.memory_kib() - before
            # The memory of a connection that the proxy has closed would not count.
            bad = sum(not is_open(connection) for connection in connections)
            return {"requests": len(connections), "bad": bad, "value": grown / len(connections), "base_kib": before}
        finally:
            for connection in connections:
                connection.close()

    return run


def fixed_rate(proxy, options, connections=50):
    """Requests at random moments with a fixed average rate. The latency of a request is counted from the planned moment, so that a proxy
    that stops for a moment delays all requests of this moment."""
    chance, moments = random.Random(7), [0.0]
    while moments[-1] < options.seconds:
        moments.append(moments[-1] + chance.expovariate(options.rate))
    del moments[-1]
    planned, idle, open_since, latencies = collections.deque(moments), collections.deque(), {}, []
    poll = select.epoll()
    sockets = {}
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", proxy.port), LIMIT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        sockets[connection.fileno()] = connection
        poll.register(connection, select.EPOLLIN)
        idle.append(connection)
    data, bad, begin = {}, 0, time.perf_counter() + 0.01
    gc.disable()
    try:
        with at_once():
            while len(latencies) < len(moments):
                now = time.perf_counter() - begin
                expect(now < options.seconds + LIMIT, f"{proxy.name}: {len(moments) - len(latencies)} requests have no response")
                while planned and idle and planned[0] <= now:
                    connection = idle.popleft()
                    open_since[connection.fileno()] = planned.popleft()
                    data[connection.fileno()] = b""
                    connection.send(REQUEST)
                wait = max(planned[0] - (time.perf_counter() - begin), 0) if planned and idle else 1.0
                # epoll waits for full milliseconds, select for microseconds.
                select.select([poll], [], [], wait)
                for number, _ in poll.poll(0):
                    piece = sockets[number].recv(65536)
                    if not piece:
                        raise harness.Failed(f"{proxy.name} closed a connection")
                    data[number] += piece
                    if is_complete(data[number]):
                        latencies.append(time.perf_counter() - begin - open_since.pop(number))
                        bad += not is_small_page(data[number])
                        idle.append(sockets[number])
    finally:
        gc.enable()
        poll.close()
        for connection in sockets.values():
            connection.close()
    latencies.sort()
    at = lambda part: 1e6 * latencies[min(int(part * len(latencies)), len(latencies) - 1)]
    return {"requests": len(latencies), "bad": bad, "in_flight": 0, "p50": at(0.5), "value": at(0.99)}


class at_once:
    """Gives this process priority over the origin on the same CPU, so that requests are sent on time. Needs root."""

    def __enter__(self):
        self.before = os.sched_getscheduler(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            self.before = None

    def __exit__(self, *_):
        if self.before is not None:
            os.sched_setscheduler(0, self.before, os.sched_param(0))


HTML, GZIP, CLOSE = ("Accept: text/html",), ("Accept-Encoding: gzip",), ("Connection: close",)
WORKLOADS = {
    "w1": Workload("1 KiB, persistent connections", "plain", wrk("/small.html")),
    "w1f": Workload("w1 with all functions", "full", wrk("/small.html", PROVIDER)),
    "w2": Workload("64 KiB image", "plain", wrk("/photo.jpg")),
    "w3": Workload("100 KiB HTML, compressed", "full", wrk("/page.html", GZIP + PROVIDER)),
    "w3r": Workload("w3, pulled again", "twins", wrk("/page.html", GZIP + PROVIDER)),
    "w4": Workload("503, sent as the error page", "full", wrk("/fail", HTML + PROVIDER, status=503)),
    "w5": Workload("w1 over TLS 1.3", "plain", wrk("/small.html", tls=True), tls=True),
    "w6": Workload("full TLS 1.3 handshake", "plain", handshakes(False), tls=True),
    "w6r": Workload("resumed TLS 1.3 handshake", "plain", handshakes(True), tls=True),
    "w7": Workload("1 KiB, HTTP/2 over TLS", "plain", h2load("/small.html", 16, 8), tls=True),
    "w8": Workload("1 KiB, new connection each", "plain", wrk("/small.html", CLOSE)),
    "w9": Workload("memory of an idle connection", "full", idle_memory(False), unit="KiB"),
    "w9t": Workload("memory of an idle TLS connection", "full", idle_memory(True), tls=True, unit="KiB"),
    "w10": Workload("99th percentile at a fixed rate", "plain", fixed_rate, unit="µs latency"),
}
