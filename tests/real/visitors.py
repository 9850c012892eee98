"""Visitors of a site of files, some of them replaced while they ask, through real caches: what they ask for and what is right.

For the scripts beside this file that have caches before edgeshim, and an nginx with the site behind it. What a cache does wrong by
itself is no failure where the script has named it in its faults; it is counted, and bounded.

Not executable, so that tests/run does not take it for a test.
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
# Kept connections of each process to each cache, all with a request in flight at the same time.
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
# What a visitor writes, and whether that asks for gzip.
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

# What caches do wrong by themselves.
BEYOND_GZIP = "416 for a range beyond its stored gzip copy"
CUT_GZIP = "206 cut out of its stored gzip copy"
LIST_AS_TAG = "a list in If-None-Match taken for one tag"
PLAIN_HEAD = "Content-Encoding taken off where HEAD passes through"
OWN_BEYOND_GZIP = "416 in its own words for a range beyond its stored gzip copy"
OFFSET = "200 with its stored gzip copy from the range's start on"
NO_TAG = "304 without the tag"
NO_CONDITION = "the whole for who has it, when it is not stored"
PLAIN_RANGE = "plain for who asked for gzip and a range that is passed on"
# Nobody is misled by these: they are counted, and need no bound.
HARMLESS = {NO_TAG, NO_CONDITION, PLAIN_RANGE}


class File:
    """A file of the site in all its versions; the origin makes tags of time and length, so each version's is known."""

    def __init__(self, name, size, versions):
        self.name = name
        self.size = size
        self.compresses = not name.endswith(".png") and size >= SMALLEST
        self.bodies = [body_of(name, size, version) for version in range(versions)]
        self.times = [BORN + 100 * version for version in range(versions)]
        self.tags = [f"{time:x}-{size:x}" for time in self.times]
        self.dates = [email.utils.formatdate(time, usegmt=True) for time in self.times]

    def put(self, site, version):
        """Replaces it in one step, as deployments do."""
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
    """What a visitor asks for, and what the answer has to be."""

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
    """What a tag holds between its quotes."""
    found = re.fullmatch(r'(?:W/)?"([^"]*)"', tag or "")
    expect(found, f"the tag {tag!r}")
    return found[1]


def check(files, faults, unvaried, request, answer):
    """Fails unless the answer is right; gives that one of the cache's own faults that it has, if any. `unvaried`: see Visitors."""
    status, coding, tag, words = answer.status, answer.field("content-encoding"), answer.field("etag"), None
    expect(coding is None or (coding == "gzip" and request.gzip), f"Content-Encoding {coding} for who did not ask for it")
    if request.path == MISSING:
        expect(status == 404, f"{status} for a missing file")
        if request.method == "GET":
            expect(decoded(answer) == files["/404.html"].bodies[0], "the body of a 404")
        return None
    file = files[request.path]
    if status == 416:
        if coding and BEYOND_GZIP in faults:
            return BEYOND_GZIP
        if tag is None and request.gzip and file.compresses and OWN_BEYOND_GZIP in faults:
            return OWN_BEYOND_GZIP
        starts = int(re.match(r"bytes=(\d+)-", request.fields.get("Range", "")).group(1))
        expect(starts >= file.size, f"416 for a range that begins within {file.size} bytes")
        return None
    if status == 304 and tag is None and NO_TAG in faults:
        named = re.findall(r'(?:W/)?"([^"]*)"', request.fields.get("If-None-Match", ""))
        dated = request.fields.get("If-Modified-Since") in file.dates
        expect(set(named) & set(file.tags) if named else dated, "304 for what is no version's")
        return NO_TAG
    expect(opaque(tag) in file.tags, f"the tag {tag} is no version's")
    version = file.tags.index(opaque(tag))
    expect(not coding or tag.startswith("W/"), f"gzip with the strong tag {tag}")
    if status == 304:
        return not_modified(file, version, request, tag)
    if file.compresses:
        vary = answer.fields.get("vary", [])
        if unvaried and coding is None:
            expect(not vary, f"Vary {vary} on a plain answer")
        else:
            expect(len(vary) == 1 and "accept-encoding" in vary[0].lower().split(", "), f"Vary {vary}")
    named = re.findall(r'(?:W/)?"[^"]*"', request.fields.get("If-None-Match", ""))
    if opaque(tag) in map(opaque, named):
        words = LIST_AS_TAG if len(named) > 1 and LIST_AS_TAG in faults else NO_CONDITION
        expect(words in faults, f"{status} with {tag}, which the visitor has")
    if not named and request.fields.get("If-Modified-Since") == file.dates[version]:
        expect(NO_CONDITION in faults, f"{status} for an unchanged file, by its date")
        words = NO_CONDITION
    if status == 206:
        return part(file, version, faults, request, answer)
    expect(status == 200, f"status {status}")
    if "Range" in request.fields and request.passed:
        expect(coding is None, "a request with Range, passed on, was answered in gzip")
    elif request.gzip and file.compresses and coding is None and not unvaried:
        words = PLAIN_HEAD if request.method == "HEAD" else PLAIN_RANGE if "Range" in request.fields else None
        expect(words in faults, "plain for who asked for gzip")
    if request.method == "HEAD":
        length = answer.field("content-length")
        expect(coding or length is None or int(length) == file.size, f"Content-Length {length} for HEAD")
    elif coding and "Range" in request.fields and OFFSET in faults and not answer.body.startswith(b"\x1f\x8b"):
        return OFFSET
    else:
        expect(decoded(answer) == file.bodies[version], f"the body is not the version of its tag {tag}")
    return words


def not_modified(file, version, request, tag):
    named = re.findall(r'(?:W/)?"[^"]*"', request.fields.get("If-None-Match", ""))
    if named:
        expect(file.tags[version] in map(opaque, named), f"304 with {tag}, which was not named")
        # To Akamai the form that was named, else that of the 200 to the same request.
        if request.passed and len(named) == 1:
            expect(tag == named[0] or tag in tags_of_304(file, version, request), f"304 says {tag}")
    else:
        # A cache may still hold the version before the one whose date the visitor has.
        since = request.fields.get("If-Modified-Since")
        expect(since in file.dates[version:], "304 for an earlier date, or unasked")
    return None


def tags_of_304(file, version, request):
    """Those that edgeshim's 304 may have: that of its 200. That a text is too short for gzip it knows only when it has sent one."""
    strong = f'"{file.tags[version]}"'
    weak = f"W/{strong}"
    if not request.gzip or file.name.endswith(".png"):
        return {strong}
    return {weak} if file.compresses else {strong, weak}


def part(file, version, faults, request, answer):
    """A 206: the slice of the version that its tag names, which must be the one that If-Range named."""
    wanted = request.fields.get("Range")
    expect(wanted, "206, and no range was asked for")
    condition = request.fields.get("If-Range")
    if condition:
        expect(
            condition in (answer.field("etag"), file.dates[version]) and not condition.startswith("W/"),
            f"206 with {answer.field('etag')} against If-Range",
        )
    first, last = wanted.removeprefix("bytes=").split("-")
    if answer.field("content-encoding"):
        # Only a cut at its start can be looked into.
        expect(CUT_GZIP in faults, "206 in gzip")
        if first == "0":
            start = zlib.decompressobj(31).decompress(answer.body)
            expect(file.bodies[version].startswith(start), "the start of a gzip copy")
        return CUT_GZIP
    start = int(first) if first else max(file.size - int(last), 0)
    end = min(int(last), file.size - 1) if first and last else file.size - 1
    place = answer.field("content-range")
    expect(place == f"bytes {start}-{end}/{file.size}", f"Content-Range {place} for {wanted}")
    expect(answer.body == file.bodies[version][start : end + 1], f"206 is not the slice {start}-{end} of the version of its tag")
    return None


class Visitors:
    """All of them, at the caches in `ports`.

    `faults`: a cache's own, where it stores and where it passes on; `passed`: the share of requests that are passed on; `unvaried`: the
    caches whose plain answers serve everybody and say no Vary.
    """

    def __init__(self, folder, ports, faults, passed=0.0, unvaried=()):
        self.site, self.files = build_site(folder)
        self.ports, self.faults, self.passed, self.unvaried = ports, faults, passed, unvaried
        self.targets = [target for target in self.files if target != "/404.html"] + [MISSING]
        self.weights = [1 / (1 + self.files[target].size / 10_000) if target in self.files else 0.5 for target in self.targets]

    def drawn(self, chance, seen):
        """A request like a visitor's: plain, HEAD, conditional or for a part."""
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
                # Strong or weak, as it came or the other way round: visitors and caches compare weakly here.
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
        """One process of visitors: all its connections have a request in flight at once. Gives its counts, tags and failures."""
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
                    answer = connection.answer(request)
                except (OSError, ValueError, harness.Failed) as why:
                    failures.append(f"{connection.peer}: {request}: {why}")
                    connection.socket.close()
                    connection.open()
                    continue
                peer = connection.peer
                try:
                    faults = self.faults.get((peer, request.passed), ())
                    words = check(self.files, faults, peer in self.unvaried, request, answer)
                except harness.Failed as why:
                    failures.append(f"{peer}: {request}: {why}; {answer.status} {answer.fields}")
                    continue
                kind = next((name for name in ("Range", "If-None-Match", "If-Modified-Since") if name in request.fields), request.method)
                counts[peer, request.passed, kind, answer.status, answer.field("content-encoding") or "plain"] += 1
                if words:
                    own[peer, words] += 1
                tag = answer.field("etag")
                if tag and request.path in self.files:
                    if not seen[request.path] or seen[request.path][-1][0] != tag:
                        file = self.files[request.path]
                        seen[request.path].append((tag, file.dates[file.tags.index(opaque(tag))]))
                    if answer.status == 200:
                        tags[peer, request.target, tag, request.gzip] = True
            requests -= len(batch)
        return counts, own, list(tags), failures

    def ask(self, seed, requests):
        """Runs all of them, deploys while they ask, prints their sums; gives counts, tags and each changed file's last version."""
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
                expect(all(process.exitcode in (None, 0) for process in crew), "a process of visitors broke down")
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
        expect(not failures, f"{len(failures)} wrong answers (SEED={seed}):\n" + "\n".join(failures[:20]))
        equal("answers", wanted=requests, right=counts.total())
        harmful = sum(count for (_, words), count in own.items() if words not in HARMLESS)
        expect(harmful * 20 < requests, "the caches' own faults are too many to look past")
        statuses = {key[3] for key in counts}
        expect(statuses == {200, 206, 304, 404, 416}, f"statuses {statuses}")
        print(f"{requests} requests in {seconds:.0f} s, {requests / seconds:.0f} a second; {deployments} deployments; seed {seed}")
        return counts, sorted(tags), current

    def replay(self, seed, tags, current, edgeshim):
        """Tags that went out come back: each is answered 304, by the cache and by edgeshim itself."""
        chance = random.Random(f"{seed} replay")
        fresh = [(peer, target, tag, gzip) for peer, target, tag, gzip in tags
                 if opaque(tag) == self.files[target.removeprefix("/pass")].tags[current.get(target.removeprefix("/pass"), 0)]]
        sample = chance.sample(fresh, min(400, len(fresh)))
        expect(len(sample) >= 100, f"only {len(sample)} tags to replay")
        connections = {peer: Connection(peer, port) for peer, port in {**self.ports, "edgeshim": edgeshim}.items()}
        weak = 0
        for peer, target, tag, gzip in sample:
            request = Request(target, coding="gzip" if gzip else None, gzip=gzip, fields={"If-None-Match": tag})
            weak += tag.startswith("W/")
            file = self.files[request.path]
            # The cache may hold the version before for as long as it lives.
            def answered():
                answer = connections[peer].ask(request)
                if answer.status == 200 and NO_CONDITION in self.faults.get((peer, request.passed), ()):
                    return False
                return answer.status == 304 or opaque(answer.field("etag")) == opaque(tag) and answer
            found = harness.wait_until(f"{peer} has the last version of {target}", answered)
            expect(found is True, f"{peer}: {request}: {found is True or found.status}, though the tag is its copy's")
            answer = connections["edgeshim"].ask(request)
            words = f"edgeshim: {request}: {answer.status} {answer.fields}"
            expect(answer.status == 304 and answer.field("etag") in tags_of_304(file, file.tags.index(opaque(tag)), request), words)
            if file.compresses:
                expect(answer.fields.get("vary") == ["Accept-Encoding"], words)
        print(f"replayed: {len(sample)} tags, {weak} of them weak, each 304 at its cache and at edgeshim")
