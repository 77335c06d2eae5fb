"""A simulator, an upstream that deletes, and gateways of a test's own, to switch faults on and off and to count."""

import json
import os
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROGRAM = os.environ["PROGRAM"]
QUIET = {"POLLGATE_LOG__REQUESTS": "off", "POLLGATE_LOG__SNAPSHOT": "off"}


@contextmanager
def pollgate(*arguments: str, **settings: str) -> Iterator[str]:
    """Runs pollgate for a while; where it listens."""
    environment = os.environ | settings
    with subprocess.Popen([PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r" listening on ([0-9.]+:\d+)", line):
                    break
            else:
                raise RuntimeError(f"pollgate {arguments} said only: {said}")
            # Nobody reads on, and it must not be held up.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://{found[1]}"
        finally:
            process.kill()


@contextmanager
def gateway(upstream: str, **settings: str) -> Iterator[str]:
    at = ("--listen", "127.0.0.1:0", "--admin", "off", "--upstream", upstream)
    with pollgate("serve", *at, **QUIET, **settings) as url:
        yield url


class Simulator:
    """A simulator, and its controls."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str = "", method: str = "GET", body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/simulator{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def faults(self, *rules: dict[str, Any]) -> None:
        """These, in the place of all others."""
        self.ask("/faults", "POST", {"rules": rules})

    def force(self, task: str, status: str) -> None:
        self.ask(f"/tasks/{task}", "POST", {"status": status})

    @property
    def counts(self) -> dict[str, Any]:
        return self.ask()["counts"]

    def struck(self) -> int:
        return sum(self.counts["faults"].values())


@contextmanager
def simulator() -> Iterator[Simulator]:
    with pollgate("simulate", "--listen", "127.0.0.1:0") as url:
        yield Simulator(url)


class Deleting(BaseHTTPRequestHandler):
    """An upstream that deletes, as OpenAI's does and OctopusX does not; it knows one video at a time."""

    protocol_version = "HTTP/1.1"
    video: str | None = None
    VIDEO = {
        "id": "video_1", "object": "video", "model": "sora-2", "status": "completed", "progress": 100,
        "created_at": 1_784_517_678, "completed_at": 1_784_517_969, "expires_at": None, "seconds": "4",
        "size": "1280x720", "prompt": "a cat", "remixed_from_video_id": None, "error": None,
    }

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        error = {"message": "no such video", "type": "invalid_request_error", "param": None, "code": "not_found"}
        self.answer(404, {"error": error})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).video = self.VIDEO["id"]
        self.answer(200, self.VIDEO)

    def do_GET(self) -> None:
        if self.path == f"/v1/videos/{self.video}":
            self.answer(200, self.VIDEO)
        else:
            self.missing()

    def do_DELETE(self) -> None:
        if self.path == f"/v1/videos/{self.video}":
            type(self).video = None
            self.answer(200, {"id": self.VIDEO["id"], "object": "video.deleted", "deleted": True})
        else:
            self.missing()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def deleting_upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Deleting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
