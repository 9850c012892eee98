"""A real PowerDNS with its HTTP API, and clients that look names up, for the scripts beside this file."""

import json
import random
import socket
import sqlite3
import struct
import urllib.request

import harness
from harness import expect, free_port, program, wait_until

KEY = "a-test-key"
PDNS = """
daemon=no
guardian=no
launch=gsqlite3
gsqlite3-database={folder}/pdns.db
socket-dir={folder}
local-address=127.0.0.1
local-port={dns}
api=yes
api-key={key}
webserver=yes
webserver-address=127.0.0.1
webserver-port={api}
enable-lua-records={lua}
edns-subnet-processing=yes
loglevel=4
"""
SCHEMA = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql"


class PowerDns:
    def __init__(self, shop, lua="yes"):
        self.shop, self.api, self.dns = shop, free_port(), free_port()
        name = f"pdns-{self.api}"
        folder = shop.folder / name
        folder.mkdir()
        with open(SCHEMA, encoding="utf-8") as schema, sqlite3.connect(folder / "pdns.db") as database:
            database.executescript(schema.read())
        (folder / "pdns.conf").write_text(PDNS.format(folder=folder, dns=self.dns, api=self.api, key=KEY, lua=lua))
        self.process = shop.start(name, program("pdns_server"), f"--config-dir={folder}")
        wait_until("the API of PowerDNS listens", lambda: harness.listens(self.api), alive=self.process)

    def call(self, method, path, body=None):
        url = f"http://127.0.0.1:{self.api}/api/v1/servers/localhost/zones{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"X-API-Key": KEY}, method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read() or b"null")

    def add_zone(self, zone):
        self.call("POST", "", {"name": f"{zone}.", "kind": "Native", "nameservers": [f"ns.{zone}."]})

    def replace(self, zone, name, kind, content):
        records = [{"content": content, "disabled": False}]
        rrset = {"name": f"{name}.", "type": kind, "ttl": 60, "changetype": "REPLACE", "records": records}
        self.call("PATCH", f"/{zone}.", {"rrsets": [rrset]})

    def serial(self, zone):
        return self.call("GET", f"/{zone}.")["edited_serial"]


def read_name(packet, at):
    labels, end = [], None
    while packet[at]:
        if packet[at] >= 0xC0:
            end = end or at + 2
            at = struct.unpack_from("!H", packet, at)[0] & 0x3FFF
        else:
            labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
            at += 1 + packet[at]
    return ".".join(labels), end or at + 1


class Clients:
    """Clients with different addresses, whose lookups have their addresses as client subnet (RFC 7871)."""

    def __init__(self, port, count):
        picked = random.Random(16)
        self.port = port
        self.addresses = [bytes([picked.randint(1, 223), *(picked.randrange(256) for _ in range(3))]) for _ in range(count)]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.connect(("127.0.0.1", port))

    def ask(self, name, count=None):
        """The CNAME that each client gets, or each of the first `count` clients."""
        return list(self.ask_some(name, range(count or len(self.addresses))).values())

    def ask_some(self, name, clients):
        """The CNAME that each of these clients gets. At most 50 queries wait for their answers, so that no packet is lost."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
        answers = dict.fromkeys(clients)
        waiting = list(answers)
        for start in range(0, len(waiting), 50):
            numbers = waiting[start : start + 50]
            for number in numbers:
                option = struct.pack("!HHHBB", 8, 8, 1, 32, 0) + self.addresses[number]
                extension = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(option)) + option
                self.socket.send(struct.pack("!6H", number, 0, 1, 0, 0, 1) + labels + struct.pack("!HH", 1, 1) + extension)
            for _ in numbers:
                packet = self.socket.recv(4096)
                number, flags, _, count = struct.unpack_from("!4H", packet)
                expect(flags & 0xF == 0 and count > 0, f"client {number}: the flags of the answer are {flags:#x}, with {count} records")
                _, at = read_name(packet, 12)
                _, at = read_name(packet, at + 4)
                kind = struct.unpack_from("!H", packet, at)[0]
                expect(kind == 5, f"the first record of the answer has the type {kind}, and not CNAME")
                answers[number] = read_name(packet, at + 10)[0]
        return answers
