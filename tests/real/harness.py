"""Shared code of the scripts in this folder: a temporary folder, child processes that end with the script, the shim and its metrics.

This file is not executable, so that tests/run does not run it as a test.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

BROWSER_PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")

NGINX = """
daemon off;
pid {folder}/{name}.pid;
error_log {folder}/{name}.err warn;
worker_processes 1;
events {{ worker_connections {connections}; }}
http {{
  client_body_temp_path {folder}/{name}-body; proxy_temp_path {folder}/{name}-proxy; fastcgi_temp_path {folder}/{name}-fastcgi;
  uwsgi_temp_path {folder}/{name}-uwsgi; scgi_temp_path {folder}/{name}-scgi;
  keepalive_requests 1000000;
  {body}
}}
"""

# trafficserver uses only these folders and the system's program folders. It runs as the user that started it.
LAYOUT = """
prefix: {folder}
exec_prefix: {folder}
bindir: {BINDIR}
sbindir: {BINDIR}
sysconfdir: {folder}
datadir: {folder}
includedir: {folder}
libdir: {LIBDIR}
libexecdir: {PLUGINDIR}
localstatedir: {folder}
runtimedir: {folder}
logdir: {folder}
cachedir: {folder}
"""
RECORDS = """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.log.logging_enabled INT {logging}
CONFIG proxy.config.log.max_secs_per_buffer INT 1
CONFIG proxy.config.log.periodic_tasks_interval INT 1
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 2
CONFIG proxy.config.url_remap.pristine_host_hdr INT 1
CONFIG proxy.config.http.wait_for_cache INT 1
CONFIG proxy.config.http.normalize_ae INT 1
CONFIG proxy.config.diags.output.error STRING E
CONFIG proxy.config.diags.output.fatal STRING E
"""
IP_ALLOW = """
ip_allow:
  - {apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}
"""


class Failed(Exception):
    """A failed check. The text says what was expected and what was found."""


def expect(holds, words):
    if not holds:
        raise Failed(words)


def number_from(name, default):
    """Reads a number from the environment, for example a duration or a size."""
    text = os.environ.get(name, "")
    try:
        value = int(text or default)
    except ValueError:
        raise Failed(f"{name}={text!r} is not a whole number") from None
    expect(value > 0, f"{name}={value} is too small: it must be at least 1")
    return value


def edgeshim():
    """The path of the release binary: $EDGESHIM if it is set, otherwise the path to which cargo writes the binary."""
    given = os.environ.get("EDGESHIM")
    target = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
    path = pathlib.Path(given) if given else target / "release" / "edgeshim"
    expect(os.access(path, os.X_OK), f"{path} is missing or not executable: run cargo build --release, or set EDGESHIM to the binary")
    return str(path.resolve())


def program(name):
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    expect(found, f"{name} is missing: tests/run installs it")
    return found


def raise_open_files(needed):
    """Raises the limit of open files of this process and of its children to `needed`, if the limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        words = f"this script needs {needed} open files, but ulimit -Hn allows only {hard}: raise the hard limit"
        expect(hard == resource.RLIM_INFINITY or hard >= needed, words)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def free_port():
    """Returns a port that is free now, for programs that cannot choose a port and report it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def make_certificate(shop):
    """Writes a self-signed certificate for localhost, and its key, to cert.pem and key.pem in the folder. Replaces older files."""
    fresh = {name: shop.folder / f"{name}.new" for name in ("key.pem", "cert.pem")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-days", "60",
         "-keyout", fresh["key.pem"], "-out", fresh["cert.pem"]],
        check=True, capture_output=True, timeout=60,
    )
    for name, path in fresh.items():
        path.rename(shop.folder / name)


def listens(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def wait_until(what, done, limit=30.0, alive=None):
    """Polls done() until it returns a true value, and returns that value."""
    end = time.monotonic() + limit
    while True:
        found = done()
        if found:
            return found
        ended = alive is not None and alive.poll() is not None
        expect(not ended, f"waiting until {what}: the process ended with exit code {alive and alive.returncode}")
        expect(time.monotonic() < end, f"waiting until {what}: this did not happen within {limit:.0f} s")
        time.sleep(0.02)


def equal(what, **counts):
    """Prints all counts. Fails if they are not equal."""
    words = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    expect(len(set(map(str, counts.values()))) == 1, f"the counts of {what} differ: {words}")
    print(f"{what}: {words}")


def main(run, name=None):
    """Runs a script. The exit code is 0, or 1 after the message of the failed check. After a signal, the child processes still end."""

    def stop(number, _frame):
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    name = name or f"tests/real/{pathlib.Path(sys.argv[0]).name}"
    started = time.monotonic()
    try:
        with Workshop() as shop:
            run(shop)
    except Failed as why:
        print(f"{name}: FAILED: {why}", flush=True)
        sys.exit(1)
    print(f"{name}: passed in {time.monotonic() - started:.0f} s", flush=True)


class Workshop:
    """A temporary folder and child processes. At the end of the `with` block, the processes are ended and the folder is removed."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="edgeshim-real-"))
        # If root starts nginx, its workers run as another user.
        self.folder.chmod(0o755)
        self.children = []
        return self

    def __exit__(self, kind, _value, _trace):
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if kind is not None and kind is not SystemExit:
            for log in sorted(self.folder.glob("*.err")):
                text = log.read_text(errors="replace")[-2000:]
                if text:
                    print(f"--- the end of {log.name} ---\n{text}\n---")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, *command):
        """Starts a program. Its standard output goes to NAME.out and its standard error to NAME.err, both in the folder."""
        with open(self.folder / f"{name}.out", "wb") as out, open(self.folder / f"{name}.err", "wb") as err:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.folder)
        self.children.append(child)
        return child

    def text(self, name):
        return (self.folder / name).read_text(errors="replace")

    def shim(self, config, server="", also=(), admin=""):
        return Shim(self, config, server, also, admin)


def listeners(stderr):
    """The ports of the first listener and of the admin listener, from what edgeshim wrote to standard error; None before it listens."""
    front = re.search(r"listening on http://127\.0\.0\.1:(\d+)", stderr)
    admin = re.search(r"admin on http://127\.0\.0\.1:(\d+)", stderr)
    return (int(front[1]), int(admin[1])) if front and admin else None


class Shim:
    """edgeshim on free ports. `server` and `admin` have more lines for these blocks, and `also` has more listening
    addresses."""

    count = 0

    def __init__(self, shop, config, server, also, admin):
        Shim.count += 1
        self.name = f"edgeshim-{Shim.count}"
        path = shop.folder / f"{self.name}.toml"
        listen = json.dumps(["127.0.0.1:0", *also])
        path.write_text(f'[server]\nlisten = {listen}\n{server}\n[admin]\nlisten = "127.0.0.1:0"\n{admin}\n{config}')
        self.process = shop.start(self.name, edgeshim(), "run", "--config", str(path))
        self.pid = self.process.pid

        def listening():
            return listeners(shop.text(f"{self.name}.err"))

        self.port, self.admin = wait_until("edgeshim listens", listening, alive=self.process)

    def metrics_text(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=20) as response:
            return response.read().decode()

    def metrics(self):
        return Metrics(self.metrics_text())

    def rss_kib(self):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+) kB", text)[1])

    def cpu_seconds(self):
        """The CPU time of edgeshim since its start."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        """Ends edgeshim with SIGTERM, and checks that it exits with 0."""
        self.process.terminate()
        code = self.process.wait(60)
        expect(code == 0, f"edgeshim exited with {code} after SIGTERM, expected 0")


class Peak:
    """Records the peak of resident memory inside the `with` block, in KiB."""

    def __init__(self, shim):
        self.shim, self.done = shim, threading.Event()

    def __enter__(self):
        self.before = self.peak = self.shim.rss_kib()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.shim.rss_kib())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.peak = max(self.peak, self.shim.rss_kib())

    @property
    def grown_kib(self):
        return self.peak - self.before


class Metrics:
    """One scrape in the text format."""

    LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.series = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                found = self.LINE.fullmatch(line)
                expect(found, f"this line of /metrics is not in the text format: {line!r}")
                self.series.append((found[1], dict(self.LABEL.findall(found[2] or "")), float(found[3])))

    def sum(self, name, **labels):
        values = [
            value
            for have, series, value in self.series
            if have == name and all(series.get(label) == wanted for label, wanted in labels.items())
        ]
        expect(values or name == "edgeshim_whoopsies_total", f"/metrics has no series {name} with the labels {labels}")
        return round(sum(values))

    def by(self, name, *labels):
        """The sums of all series of the metric, by the values of these labels. Series with the value 0 are left out."""
        found = {}
        for have, series, value in self.series:
            if have == name and value:
                key = tuple(series[label] for label in labels)
                found[key] = found.get(key, 0) + round(value)
        return found


def start_nginx(shop, name, body, port=None, alone=False, connections=1024, **values):
    """Starts nginx with `body` in its http block. With `alone`, nginx is a single process, so that SIGKILL ends nginx completely."""
    port = port or free_port()
    values |= {"folder": shop.folder, "port": port}
    config = shop.folder / f"{name}.conf"
    config.write_text(NGINX.format(folder=shop.folder, name=name, connections=connections, body=body.format(**values)))
    one = ("-g", "master_process off;") if alone else ()
    process = shop.start(name, program("nginx"), "-p", str(shop.folder), "-c", str(config), *one)
    wait_until(f"{name} listens", lambda: listens(port), alive=process)
    return process, port


def start_varnish(shop, vcl, *parameters):
    """Starts varnish with this VCL. Each of the `parameters` has the form NAME=VALUE."""
    port = free_port()
    (shop.folder / "varnish.vcl").write_text(vcl)
    process = shop.start(
        "varnish", program("varnishd"), "-F", "-n", str(shop.folder / "varnish"), "-f", str(shop.folder / "varnish.vcl"),
        "-a", f"127.0.0.1:{port}", "-T", "none", "-s", "malloc,64m", "-j", "none",
        *(word for parameter in ("thread_pool_min=20", *parameters) for word in ("-p", parameter)),
    )
    wait_until("varnish listens", lambda: listens(port), alive=process)
    return process, port


def start_trafficserver(shop, edgeshim, rewrite="", logging=""):
    """Starts trafficserver in front of edgeshim. `rewrite` has the rules for the plugin header_rewrite, `logging` is logging.yaml."""
    port, folder = free_port(), shop.folder / "trafficserver"
    (folder / "store").mkdir(parents=True)
    known = subprocess.run([program("traffic_layout"), "info"], capture_output=True, text=True, check=True, timeout=30).stdout
    for name, text in {
        "runroot.yaml": LAYOUT.format(folder=folder, **dict(re.findall(r"(\w+): (.*)", known))),
        "records.config": RECORDS.format(port=port, logging=2 if logging else 0),
        "logging.yaml": logging,
        "remap.config": f"map / http://127.0.0.1:{edgeshim}/\n",
        "storage.config": "store 64M\n",
        "ip_allow.yaml": IP_ALLOW,
        "plugin.config": "header_rewrite.so rewrite.config\n" if rewrite else "",
        "rewrite.config": rewrite,
    }.items():
        (folder / name).write_text(text)
    process = shop.start("trafficserver", program("traffic_server"), f"--run-root={folder / 'runroot.yaml'}")
    wait_until("trafficserver listens", lambda: listens(port), alive=process)
    return process, port


def start_squid(shop, config, **values):
    port, folder = free_port(), shop.folder / "squid"
    folder.mkdir()
    # If root starts squid, it changes to another user and writes its log here.
    folder.chmod(0o777)
    path = shop.folder / "squid.conf"
    path.write_text(config.format(port=port, folder=folder, **values))
    process = shop.start("squid", program("squid"), "-N", "-f", str(path))
    wait_until("squid listens", lambda: listens(port), alive=process)
    return process, port


def start_prometheus(shop, name, config, *flags):
    """Starts Prometheus with this configuration. Its data are in the folder NAME.data. It finds its targets some seconds later."""
    (shop.folder / f"{name}.yml").write_text(config)
    for _ in range(5):
        port = free_port()
        process = shop.start(
            name, program("prometheus"), f"--config.file={shop.folder}/{name}.yml",
            f"--storage.tsdb.path={shop.folder}/{name}.data", f"--web.listen-address=127.0.0.1:{port}", *flags,
        )

        def ready():
            if process.poll() is not None:
                return True
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5) as response:
                    return response.status == 200
            except OSError:
                return False

        wait_until("prometheus is ready", ready, 60)
        if process.poll() is None:
            return process, port
    raise Failed(f"prometheus did not start: {shop.text(name + '.err')[-1000:]}")


def prometheus_api(port, path, **query):
    """The data of a response of Prometheus' API."""
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            said = json.load(response)
    except urllib.error.HTTPError as why:
        raise Failed(f"{path} {query}: {why.code}: {why.read().decode()}") from None
    expect(said["status"] == "success", f"{url}: {said}")
    return said["data"]


def prometheus_value(port, query):
    """The single value of a query; None if there is none."""
    result = prometheus_api(port, "query", query=query)["result"]
    return float(result[0]["value"][1]) if len(result) == 1 else None


@contextlib.contextmanager
def install_lock(folder):
    """Lets one script at a time install packages. `folder` is cargo's target folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def npm_packages(folder, packages):
    """Installs npm packages of the form NAME@VERSION into a folder below cargo's target folder, if they are missing. Returns the folder."""
    target = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
    folder = target / folder
    wanted = dict(package.rsplit("@", 1) for package in packages)

    def there(name):
        file = folder / "node_modules" / name / "package.json"
        return file.exists() and json.loads(file.read_text())["version"] == wanted[name]

    with install_lock(target):
        if not all(map(there, wanted)):
            folder.mkdir(parents=True, exist_ok=True)
            command = [program("npm"), "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, *packages]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            expect(done.returncode == 0, f"npm cannot install the packages: {done.stderr}")
    return folder


def browser_modules():
    """Installs the npm packages that control and check a browser, if they are missing. Returns their folder, <target>/pages."""
    return npm_packages("pages", BROWSER_PACKAGES)


def python_package(name, version):
    """Installs a package into cargo's target folder, not into the system's Python, and lets this script import the package."""
    target = REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target")
    folder = target.resolve() / "checks" / f"{name}-{version}"
    with install_lock(target):
        if not folder.exists():
            # The folder gets its final name when the installation is complete, so that an interrupted installation is not used.
            partial = folder.with_name(f"{folder.name}.{os.getpid()}")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            done = subprocess.run([*pip, "--target", str(partial), f"{name}=={version}"], check=False)
            expect(done.returncode == 0, f"pip cannot install {name} {version}")
            partial.rename(folder)
    sys.path.insert(0, str(folder))


class Response:
    """One complete response."""

    def __init__(self, reader, is_head):
        line = reader.readline()
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", line)
        expect(found, f"the response does not begin with a status line: {line!r}")
        self.status = int(found[1])
        self.fields = {}
        while (line := reader.readline()) != b"\r\n":
            expect(line, "the head is truncated")
            name, _, value = line.decode("latin-1").partition(":")
            self.fields.setdefault(name.lower(), []).append(value.strip())
        self.body = b""
        if is_head or self.status in (204, 304):
            return
        if self.field("transfer-encoding") == "chunked":
            pieces = []
            while size := int(reader.readline(), 16):
                pieces.append(reader.read(size))
                expect(len(pieces[-1]) == size and reader.read(2) == b"\r\n", "a chunk is truncated")
            expect(reader.readline() == b"\r\n", "the last chunk is not followed by an empty line")
            self.body = b"".join(pieces)
        else:
            length = int(self.field("content-length") or -1)
            expect(length >= 0, "the response has neither Content-Length nor chunks")
            self.body = reader.read(length)
            expect(len(self.body) == length, f"only {len(self.body)} of {length} bytes of the body arrived")

    def field(self, name):
        return ", ".join(self.fields[name]) if name in self.fields else None


class Connection:
    """A persistent connection. It reconnects if the peer sends `Connection: close`."""

    def __init__(self, peer, port):
        self.peer, self.port = peer, port
        self.open()

    def open(self):
        self.socket = socket.create_connection(("127.0.0.1", self.port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.socket.makefile("rb", 1 << 18)

    def send(self, request):
        self.socket.sendall(request.head())

    def response(self, request):
        response = Response(self.reader, request.method == "HEAD")
        if response.field("connection") == "close":
            self.socket.close()
            self.open()
        return response

    def ask(self, request):
        self.send(request)
        return self.response(request)


def decoded(response):
    """The body without its coding. Fails if the gzip data is not complete."""
    if response.field("content-encoding") is None:
        return response.body
    inflate = zlib.decompressobj(31)
    try:
        body = inflate.decompress(response.body)
    except zlib.error as why:
        raise Failed(f"the gzip data is broken: {why}") from None
    expect(inflate.eof and not inflate.unused_data, "the gzip data is truncated, or other data follows it")
    return body
