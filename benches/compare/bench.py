"""The servers that are compared, and the clients that load them."""

import contextlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import time

from machine import CORES, Process, pinned

HERE = pathlib.Path(__file__).resolve().parent
AUTHORIZATION = "Bearer sk-bench-0123456789abcdef"
UNIFIED = "/v1/video/generations/"
# Envoy's cache leaves requests with Authorization alone: the header is taken off before it.
ENVOY_CACHE = """{
  "name": "envoy.filters.http.header_mutation",
  "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "mutations": {"request_mutations": [{"remove": "authorization"}]}
  }
},
{
  "name": "envoy.filters.http.cache",
  "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"}
  }
},"""


class Bench:
    """The machine's parts, and how servers are started on them."""

    def __init__(self, pollgate, quick, scratch):
        self.quick = quick
        self.scratch = pathlib.Path(scratch)
        self.seconds = 1 if quick else 3
        self.rounds = 2 if quick else 5
        self.server_cores = CORES[:1]
        self.load_cores = CORES[1:] or CORES
        self.workers = "1"
        self.pollgate = pollgate
        self.tool = self.scratch / "compare"
        self.template = None

    @contextlib.contextmanager
    def as_people_run_it(self):
        """Every server at its default number of workers, and nothing pinned."""
        pinned = self.server_cores, self.load_cores, self.workers
        self.server_cores = self.load_cores = CORES
        self.workers = None
        yield
        self.server_cores, self.load_cores, self.workers = pinned

    def certificate(self):
        """A folder with one for 127.0.0.1."""
        if not (self.scratch / "cert.pem").exists():
            subprocess.run([self.tool, "certificate", self.scratch], check=True)
        return self.scratch

    def upstream(self, state="succeeded", delay=0, tls=False):
        command = [self.tool, "upstream", state, delay] + ([self.certificate()] if tls else [])
        process = Process(command, self.load_cores, speaks=True)
        process.scheme = "https" if tls else "http"
        return process

    def hyper(self, upstream, delay):
        """Answers with pollgate's own headers and body."""
        if self.template is None:
            with self.start("pollgate", upstream) as gateway:
                get(gateway.port, "task")
                self.template = get(gateway.port, "task")
        how = "hyper" if self.workers else "hyper-on-all-cores"
        server = Process([self.tool, how, delay], self.server_cores, stdin=self.template, speaks=True)
        server.scheme = "http"
        return server

    def start(self, name, upstream, caches=True, cores=None, delay=0, tls=False, **environment):
        """A server by name, ready for requests, of clients with `tls` where that is said."""
        cores = cores or self.server_cores
        if name == "hyper":
            return self.hyper(upstream, delay)
        port, scratch = free_port(), pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        fill = {
            "PORT": port,
            "UPSTREAM": f"127.0.0.1:{upstream.port}",
            "UPSTREAM_PORT": upstream.port,
            "DIR": scratch,
            "USER": "user root;" if os.geteuid() == 0 else "",
            "VERB": "hash" if caches else "pass",
            "WORKERS": self.workers or "auto",
            "SCHEME": upstream.scheme,
            "TLS": "ssl http2" if tls else "",
            "CERTIFICATE": "",
        }
        if tls:
            cert, key = self.certificate() / "cert.pem", self.certificate() / "key.pem"
            fill["CERTIFICATE"] = f"ssl_certificate {cert}; ssl_certificate_key {key};"
        if name == "pollgate":
            command = [self.pollgate, "--listen", f"127.0.0.1:{port}", "--admin", "off"]
            command += ["--upstream", f"{upstream.scheme}://127.0.0.1:{upstream.port}"]
            if self.workers:
                environment.setdefault("POLLGATE_LIMITS__WORKERS", self.workers)
            if upstream.scheme == "https":
                environment["POLLGATE_UPSTREAM__CA_FILE"] = str(self.certificate() / "cert.pem")
            if tls:
                environment["POLLGATE_LISTEN__TLS__CERT"] = str(cert)
                environment["POLLGATE_LISTEN__TLS__KEY"] = str(key)
        elif name == "nginx":
            config = written("nginx.conf", scratch, fill | {"CACHE": "answers" if caches else "off"})
            command = ["nginx", "-e", scratch / "error.log", "-c", config]
        elif name == "varnish":
            config = written("varnish.vcl", scratch, fill)
            command = ["varnishd", "-F", "-j", "none", "-n", scratch / "varnish", "-a", f"127.0.0.1:{port}"]
            command += ["-f", config, "-s", "malloc,256m", "-p", "thread_pools=1"]
        elif name == "envoy":
            config = written("envoy.json", scratch, fill | {"CACHE": ENVOY_CACHE if caches else ""})
            command = ["envoy", "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "off"]
        server = Process(command, cores, **environment)
        server.port, server.scheme = port, "https" if tls else "http"
        try:
            server.answered = wait_for(server)
        except BaseException:
            server.__exit__()
            raise
        return server

    def wrk(self, server, seconds=None, clients=64, path=UNIFIED + "task", prefix=None, among=None, known=None):
        """Runs wrk, and tells what the server took. `known` of a hundred requests are for one remembered task."""
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds or self.seconds}s", "--latency"]
        for header in (
            f"Authorization: {AUTHORIZATION}",
            "Accept: application/json",
            "User-Agent: OpenAI/Python 2.8.0",
        ):
            command += ["-H", header]
        if prefix:
            command += ["-s", HERE / "tasks.lua"]
        command += [f"{server.scheme}://127.0.0.1:{server.port}{path}"]
        if prefix:
            command += ["--", prefix, among or 0, known or 0]
        before = server.cpu()
        told = self.run(command)
        cpu = server.cpu() - before
        requests = int(re.search(r"(\d+) requests in", told)[1])
        if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", told):
            raise RuntimeError(f"{refused[1]} of {requests} answers were no 200")
        return {
            "cpu": cpu / requests * 1e6,
            "requests": requests,
            "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]),
            "p50": micros(re.search(r"^ +50% +(\S+)", told, re.M)[1]),
            "p99": micros(re.search(r"^ +99% +(\S+)", told, re.M)[1]),
            "memory": server.memory(),
        }

    def h2load(self, server, seconds=None, clients=16, streams=4, path=UNIFIED + "task"):
        """Runs h2load, over HTTP/2 and TLS, and tells what the server took."""
        command = ["h2load", "-t1", f"-c{clients}", f"-m{streams}", "-D", seconds or self.seconds]
        command += ["-H", f"authorization: {AUTHORIZATION}", "-H", "accept: application/json"]
        command += [f"{server.scheme}://127.0.0.1:{server.port}{path}"]
        before = server.cpu()
        told = self.run(command)
        cpu = server.cpu() - before
        requests = int(re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", told)[1])
        return {"cpu": cpu / requests * 1e6, "rate": requests / (seconds or self.seconds)}

    def ask(self, what, server, *arguments):
        """Runs one of the clients of the Rust part to its end."""
        return self.run([self.tool, what, f"127.0.0.1:{server.port}", *arguments])

    def run(self, command):
        return subprocess.run(pinned(command, self.load_cores), capture_output=True, text=True, check=True).stdout

    def growth(self, server, what, path, count):
        """By how many bytes a server grows for each of so many clients that stay."""
        command = [self.tool, what, f"127.0.0.1:{server.port}", path]
        # As many first as there are tasks to wait for: what stands between a server and its upstream is not a client's.
        with Process([*command, 100], self.load_cores, speaks=True):
            time.sleep(1)
        before = server.memory()
        with Process([*command, count], self.load_cores, speaks=True):
            # All are answered, or told to wait; the server comes to rest.
            time.sleep(3)
            return (server.memory() - before) / count


def written(name, scratch, fill):
    text = (HERE / name).read_text()
    for key, value in fill.items():
        text = text.replace(f"@{key}@", str(value))
    path = scratch / name
    path.write_text(text)
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, scheme):
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    if scheme == "http":
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


def get(port, task, scheme="http"):
    """One answer, as it came."""
    request = (
        f"GET {UNIFIED}{task} HTTP/1.1\r\nhost: bench\r\nauthorization: {AUTHORIZATION}\r\nconnection: close\r\n\r\n"
    )
    with connect(port, scheme) as client:
        client.sendall(request.encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer.replace(b"connection: close\r\n", b"")


def wait_for(server, task="first"):
    """Until it answers; tells how long after its start that was, in seconds."""
    while time.perf_counter() - server.started < 20:
        with contextlib.suppress(OSError):
            if get(server.port, task, server.scheme).startswith(b"HTTP/1.1 200"):
                return time.perf_counter() - server.started
        if server.process.poll() is not None:
            break
        time.sleep(0.0005)
    raise RuntimeError("does not answer")


def micros(text):
    """wrk's way to write a time."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not found:
        raise RuntimeError(f"wrk says {text} for a time")
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}[found[2]]
