"""Processes and requests, for the checks here."""

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 90


def say(text):
    print(f"metrics: {text}", flush=True)


def eventually(what, holds):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = holds()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"metrics: never came: {what}")


def get(url, headers=(), method="GET", body=None):
    """Status and text of an answer; (0, "") where there is none."""
    request = urllib.request.Request(url, headers=dict(headers), method=method, data=body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@contextlib.contextmanager
def running(command, log, environment=()):
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, env={**os.environ, **dict(environment)})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def bound(log, phrase):
    """Where a process says that it listens."""
    found = eventually(f"{phrase!r} in {log.name}", lambda: re.search(phrase + r" ([0-9.]+:[0-9]+)", log.read_text()))
    return f"http://{found[1]}"
