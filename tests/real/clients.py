"""Clients that request the files of a site through real caches, while some of the files are replaced. This module makes the requests and
checks the responses.

Scripts in this folder use this module if they run caches in front of edgeshim and an nginx with the site behind edgeshim. If a script lists
a known error of a cache in its `faults`, this error does not fail the test. The error is counted, and the number of errors is limited.

This file is not executable, so that tests/run does not run it as a test.
"""

import collections
import email.utils
import multiprocessing
import os
import random
import re
import time
import zlib

import harness
from harness import Connection, decoded, equal, expect

PROCESSES = 4
# The number of persistent connections of each process to each cache. All connections have a request in flight at the same time.
CONNECTIONS = 3
SIZES = (10, 100, 255, 256, 257, 1000, 4096, 16_384, 65_536, 300_000, 2 << 20)
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "application/javascript",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "png": "image/png",
}
SMALLEST = 256
VERSIONS = 4
BORN = 1_700_000_000
MISSING = "/missing.html"
WORDS = [f"{word}-{number}" for word in ("cdn", "origin", "pull", "edge", "offload") for number in range(1000)]
# Values of Accept-Encoding, and whether they accept gzip.
CODINGS = (
    ("gzip", True),
    ("gzip, deflate, br", True),
    ("br;q=0.9, gzip;q=0.8, *;q=0.1", True),
    (None, False),
    ("identity", False),
    ("gzip;q=0", False),
    ("br", False),
)
CODING_WEIGHTS = (35, 15, 5, 25, 8, 7, 5)

# Known errors of caches.
BEYOND_GZIP = "416 for a range beyond its stored gzip copy"
CUT_GZIP = "206 with a slice of its stored gzip copy"
LIST_AS_TAG = "the list in If-None-Match was read as one tag"
PLAIN_HEAD = "Content-Encoding was removed from the response to HEAD, which the cache only forwards"
OWN_BEYOND_GZIP = "416, made by the cache, for a range beyond its stored gzip copy"
OFFSET = "200 with a part of its stored gzip copy, from the start of the range"
NO_TAG = "304 without an entity tag"
NO_CONDITION = "200 instead of 304, because the cache had no copy of the file"
PLAIN_RANGE = "identity for a request with gzip and a range, which the cache only forwards"
# These errors are harmless, so their number has no limit.
HARMLESS = {NO_TAG, NO_CONDITION, PLAIN_RANGE}


class File:
    """A file of the site in all its versions. nginx makes a tag from time and length, so the tag of each version is known."""

    def __init__(self, name, size, versions):
        self.name = name
        self.size = size
        self.compresses = not name.endswith(".png") and size >= SMALLEST
        self.bodies = [body_of(name, size, version) for version in range(versions)]
        self.times = [BORN + 100 * version for version in range(versions)]
        self.tags = [f"{time:x}-{size:x}" for time in self.times]
        self.dates = [email.utils.formatdate(time, usegmt=True) for time in self.times]

    def put(self, site, version):
        """Replaces the file atomically, as a deployment does."""
        fresh = site / f".{self.name}.new"
        fresh.write_bytes(self.bodies[version])
        os.utime(fresh, (self.times[version], self.times[version]))
        fresh.rename(site / self.name)


def body_of(name, size, version):
    chance = random.Random(f"{name} {version}")
    if name.endswith(".png"):
        return chance.randbytes(size)
    words = chance.choices(WORDS, k=min(size, 1 << 17) // 8 + 1)
    text = " ".join(words)
    return "".join(f"{turn}: {text}\n" for turn in range(size // len(text) + 1)).encode()[:size].ljust(size, b".")


def build_site(folder):
    site = folder / "site"
    site.mkdir()
    files = {}
    for kind in TYPES:
        for size in SIZES:
            name = f"{size}.{kind}"
            files["/" + name] = File(name, size, VERSIONS if size <= 65_536 and kind != "png" else 1)
    for file in files.values():
        file.put(site, 0)
    files["/404.html"] = File("404.html", 2000, 1)
    files["/404.html"].put(site, 0)
    return site, files


class Request:
    """One request of a client."""

    def __init__(self, target, method="GET", coding=None, gzip=False, fields=()):
        self.target, self.method, self.gzip = target, method, gzip
        self.fields = dict(fields)
        if coding is not None:
            self.fields["Accept-Encoding"] = coding
        self.passed = target.startswith("/pass/")
        self.path = target.removeprefix("/pass")

    def head(self):
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.fields.items())
        return f"{self.method} {self.target} HTTP/1.1\r\nHost: www.caches.test\r\n{lines}\r\n".encode()

    def __str__(self):
        return f"{self.method} {self.target} {self.fields}"


def opaque(tag):
    """The part of a tag between its quotes."""
    found = re.fullmatch(r'(?:W/)?"([^"]*)"', tag or "")
    expect(found, f"{tag!r} is not a valid entity tag")
    return found[1]


def check(files, faults, unvaried, request, response):
    """Fails if the response is wrong. Returns the known error of the cache that the response shows, or None. `unvaried`: see Clients."""
    status, coding, tag, words = response.status, response.field("content-encoding"), response.field("etag"), None
    expect(coding is None or (coding == "gzip" and request.gzip), f"Content-Encoding {coding}, which the client does not accept")
    if request.path == MISSING:
        expect(status == 404, f"a missing file got the status {status} instead of 404")
        if request.method == "GET":
            expect(decoded(response) == files["/404.html"].bodies[0], "the 404 has a wrong body")
        return None
    file = files[request.path]
    if status == 416:
        if coding and BEYOND_GZIP in faults:
            return BEYOND_GZIP
        if tag is None and request.gzip and file.compresses and OWN_BEYOND_GZIP in faults:
            return OWN_BEYOND_GZIP
        starts = int(re.match(r"bytes=(\d+)-", request.fields.get("Range", "")).group(1))
        expect(starts >= file.size, f"416 for a range that begins within the {file.size} bytes of the file")
        return None
    if status == 304 and tag is None and NO_TAG in faults:
        named = re.findall(r'(?:W/)?"([^"]*)"', request.fields.get("If-None-Match", ""))
        dated = request.fields.get("If-Modified-Since") in file.dates
        expect(set(named) & set(file.tags) if named else dated, "304 for a condition that matches no version")
        return NO_TAG
    expect(opaque(tag) in file.tags, f"the tag {tag} belongs to no version of the file")
    version = file.tags.index(opaque(tag))
    expect(not coding or tag.startswith("W/"), f"a gzip response has the strong tag {tag}")
    if status == 304:
        return not_modified(file, version, request, tag)
    if file.compresses:
        vary = response.fields.get("vary", [])
        if unvaried and coding is None:
            expect(not vary, f"an identity response has Vary {vary}")
        else:
            expect(len(vary) == 1 and "accept-encoding" in vary[0].lower().split(", "), f"Vary does not contain Accept-Encoding: {vary}")
    named = re.findall(r'(?:W/)?"[^"]*"', request.fields.get("If-None-Match", ""))
    if opaque(tag) in map(opaque, named):
        words = LIST_AS_TAG if len(named) > 1 and LIST_AS_TAG in faults else NO_CONDITION
        expect(words in faults, f"{status} instead of 304 with {tag}, the tag that the client sent")
    if not named and request.fields.get("If-Modified-Since") == file.dates[version]:
        expect(NO_CONDITION in faults, f"{status} instead of 304 for If-Modified-Since, although the file is unchanged")
        words = NO_CONDITION
    if status == 206:
        return part(file, version, faults, request, response)
    expect(status == 200, f"unexpected status {status}")
    if "Range" in request.fields and request.passed:
        expect(coding is None, "a request with Range below /pass/ got gzip")
    elif request.gzip and file.compresses and coding is None and not unvaried:
        words = PLAIN_HEAD if request.method == "HEAD" else PLAIN_RANGE if "Range" in request.fields else None
        expect(words in faults, "a request with gzip got an identity response")
    if request.method == "HEAD":
        length = response.field("content-length")
        expect(coding or length is None or int(length) == file.size, f"the response to HEAD has a wrong Content-Length: {length}")
    elif coding and "Range" in request.fields and OFFSET in faults and not response.body.startswith(b"\x1f\x8b"):
        return OFFSET
    else:
        expect(decoded(response) == file.bodies[version], f"the body is not the version that the tag {tag} identifies")
    return words


def not_modified(file, version, request, tag):
    named = re.findall(r'(?:W/)?"[^"]*"', request.fields.get("If-None-Match", ""))
    if named:
        expect(file.tags[version] in map(opaque, named), f"304 with the tag {tag}, which the client did not send")
        # For Akamai, a 304 has the tag in the form that the client sent. For other CDNs, it has the tag of the 200 to the same request.
        if request.passed and len(named) == 1:
            expect(tag == named[0] or tag in tags_of_304(file, version, request), f"304 with the tag {tag} in the wrong form")
    else:
        # A cache may still store an older version than the version whose date the client sent.
        since = request.fields.get("If-Modified-Since")
        expect(since in file.dates[version:], "304 although the client sent an earlier date than the file's, or sent no condition")
    return None


def tags_of_304(file, version, request):
    """The tags that edgeshim's 304 may have. The tag must be the tag of the 200. If a text is too short for gzip, edgeshim knows this only after
    the first 200, so before that both forms are allowed."""
    strong = f'"{file.tags[version]}"'
    weak = f"W/{strong}"
    if not request.gzip or file.name.endswith(".png"):
        return {strong}
    return {weak} if file.compresses else {strong, weak}


def part(file, version, faults, request, response):
    """Checks a 206. It must be the slice of the version that its tag identifies, and it must match If-Range."""
    wanted = request.fields.get("Range")
    expect(wanted, "206 for a request without Range")
    condition = request.fields.get("If-Range")
    if condition:
        expect(
            condition in (response.field("etag"), file.dates[version]) and not condition.startswith("W/"),
            f"the 206 with the tag {response.field('etag')} does not match If-Range",
        )
    first, last = wanted.removeprefix("bytes=").split("-")
    if response.field("content-encoding"):
        # Only a slice from the start can be inflated.
        expect(CUT_GZIP in faults, "the 206 has gzip")
        if first == "0":
            start = zlib.decompressobj(31).decompress(response.body)
            expect(file.bodies[version].startswith(start), "the slice of the gzip copy does not inflate to the start of the file")
        return CUT_GZIP
    start = int(first) if first else max(file.size - int(last), 0)
    end = min(int(last), file.size - 1) if first and last else file.size - 1
    place = response.field("content-range")
    expect(place == f"bytes {start}-{end}/{file.size}", f"Content-Range {place} for {wanted}")
    expect(
        response.body == file.bodies[version][start : end + 1],
        f"the 206 is not the slice {start}-{end} of the version that its tag identifies",
    )
    return None


class Clients:
    """All clients of the caches in `ports`.

    `faults`: the known errors of each cache, for requests whose responses it stores and for requests below /pass/, which it only forwards.
    `passed`: the share of requests below /pass/. `unvaried`: the caches that get identity responses without Vary.
    """

    def __init__(self, folder, ports, faults, passed=0.0, unvaried=()):
        self.site, self.files = build_site(folder)
        self.ports, self.faults, self.passed, self.unvaried = ports, faults, passed, unvaried
        self.targets = [target for target in self.files if target != "/404.html"] + [MISSING]
        self.weights = [1 / (1 + self.files[target].size / 10_000) if target in self.files else 0.5 for target in self.targets]

    def drawn(self, chance, seen):
        """A random request: GET, HEAD, with a condition or with a range."""
        target = chance.choices(self.targets, self.weights)[0]
        file = self.files.get(target)
        passed = chance.random() < self.passed
        coding, gzip = chance.choices(CODINGS, CODING_WEIGHTS)[0]
        known = seen[target][-1 - int(chance.random() * min(3, len(seen[target])))] if file and seen[target] else None
        kind = chance.random()
        method, fields = "GET", {}
        if kind < 0.05:
            method = "HEAD"
        elif file and kind < 0.25:
            tag, date = known or (f'"{file.tags[0]}"', file.dates[0])
            if kind < 0.09:
                fields["If-Modified-Since"] = date
            else:
                # The tag in either form: If-None-Match compares weakly.
                name = opaque(tag)
                shape = chance.choice(("{}", '"{}"', 'W/"{}"', '"other", W/"{}"', '"{}", W/"other"', '"other"'))
                fields["If-None-Match"] = tag if shape == "{}" else shape.format(name)
        elif file and kind < 0.4:
            first = chance.randrange(file.size)
            last = chance.randrange(first, file.size)
            fields["Range"] = "bytes=" + chance.choice((f"{first}-{last}", f"0-{last}", f"{first}-", f"-{last + 1}", f"{file.size}-"))
            if known and chance.random() < 0.5:
                tag, date = known
                fields["If-Range"] = chance.choice((tag, tag, f'"{opaque(tag)}"', f'W/"{opaque(tag)}"', '"other"', date))
        return Request(("/pass" if passed else "") + target, method, coding, gzip, fields)

    def work(self, number, seed, requests):
        """Runs one process of clients. All connections of the process have a request in flight at the same time. Returns counts, known
        errors, tags and failures."""
        chance = random.Random(f"{seed} {number}")
        seen = collections.defaultdict(list)
        counts, own, tags, failures = collections.Counter(), collections.Counter(), {}, []
        pool = [Connection(peer, port) for _ in range(CONNECTIONS) for peer, port in self.ports.items()]
        while requests > 0 and len(failures) < 10:
            batch = [(connection, self.drawn(chance, seen)) for connection in pool[:requests]]
            for connection, request in batch:
                connection.send(request)
            for connection, request in batch:
                try:
                    response = connection.response(request)
                except (OSError, ValueError, harness.Failed) as why:
                    failures.append(f"{connection.peer}: {request}: {why}")
                    connection.socket.close()
                    connection.open()
                    continue
                peer = connection.peer
                try:
                    faults = self.faults.get((peer, request.passed), ())
                    words = check(self.files, faults, peer in self.unvaried, request, response)
                except harness.Failed as why:
                    failures.append(f"{peer}: {request}: {why}; {response.status} {response.fields}")
                    continue
                kind = next((name for name in ("Range", "If-None-Match", "If-Modified-Since") if name in request.fields), request.method)
                counts[peer, request.passed, kind, response.status, response.field("content-encoding") or "identity"] += 1
                if words:
                    own[peer, words] += 1
                tag = response.field("etag")
                if tag and request.path in self.files:
                    if not seen[request.path] or seen[request.path][-1][0] != tag:
                        file = self.files[request.path]
                        seen[request.path].append((tag, file.dates[file.tags.index(opaque(tag))]))
                    if response.status == 200:
                        tags[peer, request.target, tag, request.gzip] = True
            requests -= len(batch)
        return counts, own, list(tags), failures

    def ask(self, seed, requests):
        """Runs all clients, and replaces files while they run. Prints the sums. Returns counts, tags and the versions of changed files."""
        started = time.monotonic()
        fork = multiprocessing.get_context("fork")
        results = fork.Queue()
        share = requests // PROCESSES
        shares = [share + (number < requests % PROCESSES) for number in range(PROCESSES)]
        work = lambda number: results.put(self.work(number, seed, shares[number]))
        crew = [fork.Process(target=work, args=(number,), daemon=True) for number in range(PROCESSES)]
        for process in crew:
            process.start()
        chance, current = random.Random(f"{seed} deployments"), {}
        changing = [target for target, file in self.files.items() if len(file.bodies) > 1]
        counts, own, tags, failures, deployments = collections.Counter(), collections.Counter(), set(), [], 0
        for _ in crew:
            while results.empty():
                expect(all(process.exitcode in (None, 0) for process in crew), "a process of clients failed")
                target = chance.choice(changing)
                current[target] = (current.get(target, 0) + 1) % VERSIONS
                self.files[target].put(self.site, current[target])
                deployments += 1
                time.sleep(0.1)
            one = results.get()
            counts += one[0]
            own += one[1]
            tags.update(one[2])
            failures += one[3]
        for process in crew:
            process.join()
        seconds = time.monotonic() - started
        kinds = collections.Counter()
        for (peer, passed, kind, status, coding), count in counts.items():
            kinds[f"{peer}, {'passed on' if passed else 'cached'}: {kind} {status} {coding}"] += count
        for words, count in sorted(kinds.items()):
            print(f"{count:7} {words}")
        for (peer, words), count in sorted(own.items()):
            print(f"{count:7} {peer}'s own: {words}")
        expect(not failures, f"{len(failures)} responses are wrong (to repeat the run: SEED={seed}):\n" + "\n".join(failures[:20]))
        equal("responses", wanted=requests, right=counts.total())
        harmful = sum(count for (_, words), count in own.items() if words not in HARMLESS)
        expect(harmful * 20 < requests, f"the caches made {harmful} known errors, which is more than 1 in 20 requests")
        statuses = {key[3] for key in counts}
        expect(statuses == {200, 206, 304, 404, 416}, f"the statuses are {statuses}, expected 200, 206, 304, 404 and 416")
        print(f"{requests} requests in {seconds:.0f} s, {requests / seconds:.0f} a second; {deployments} deployments; seed {seed}")
        return counts, sorted(tags), current

    def replay(self, seed, tags, current, edgeshim):
        """Sends tags of earlier responses in If-None-Match. Each request must get a 304 from the cache and from edgeshim."""
        chance = random.Random(f"{seed} replay")
        fresh = [(peer, target, tag, gzip) for peer, target, tag, gzip in tags
                 if opaque(tag) == self.files[target.removeprefix("/pass")].tags[current.get(target.removeprefix("/pass"), 0)]]
        sample = chance.sample(fresh, min(400, len(fresh)))
        expect(len(sample) >= 100, f"only {len(sample)} tags can be replayed, at least 100 are needed")
        connections = {peer: Connection(peer, port) for peer, port in {**self.ports, "edgeshim": edgeshim}.items()}
        weak = 0
        for peer, target, tag, gzip in sample:
            request = Request(target, coding="gzip" if gzip else None, gzip=gzip, fields={"If-None-Match": tag})
            weak += tag.startswith("W/")
            file = self.files[request.path]
            # The cache may store the previous version until it expires.
            def current_version():
                response = connections[peer].ask(request)
                if response.status == 200 and NO_CONDITION in self.faults.get((peer, request.passed), ()):
                    return False
                return response.status == 304 or opaque(response.field("etag")) == opaque(tag) and response
            found = harness.wait_until(f"{peer} has the last version of {target}", current_version)
            words = f"{peer}: {request}: {found is True or found.status} instead of 304, although the client sent the tag of the copy"
            expect(found is True, words)
            response = connections["edgeshim"].ask(request)
            words = f"edgeshim: {request}: not the expected 304: {response.status} {response.fields}"
            expect(response.status == 304 and response.field("etag") in tags_of_304(file, file.tags.index(opaque(tag)), request), words)
            if file.compresses:
                expect(response.fields.get("vary") == ["Accept-Encoding"], words)
        print(f"replayed {len(sample)} tags, {weak} of them weak: each request got a 304 from the cache and from edgeshim")
