"""Metrics and logs of the running binary, as Prometheus reads them: see `run`."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

from common import PATIENCE, bound, eventually, get, running, say
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

BINARY, SUITE_LOGS = sys.argv[1], pathlib.Path(sys.argv[2])
TRACE = "0af7651916cd43dd8448eb211c80319c"

# Everything that the gateway promises to count, as the reference parser names it.
METRICS = {
    "pollgate_requests": "counter",
    "pollgate_request_duration_seconds": "histogram",
    "pollgate_upstream_requests": "counter",
    "pollgate_upstream_duration_seconds": "histogram",
    "pollgate_upstream_polls_avoided": "counter",
    "pollgate_upstream_up": "gauge",
    "pollgate_upstream_paused": "gauge",
    "pollgate_cache_entries": "gauge",
    "pollgate_cache_bytes": "gauge",
    "pollgate_cache_evictions": "counter",
    "pollgate_flights": "gauge",
    "pollgate_waiters": "gauge",
    "pollgate_connections": "gauge",
    "pollgate_log_lines_dropped": "counter",
    "pollgate_build_info": "gauge",
    "process_cpu_seconds": "counter",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_threads": "gauge",
    "process_start_time_seconds": "gauge",
}


def traffic(gateway):
    key = ("authorization", "Bearer sk-test")
    traced = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")
    body = json.dumps({"model": "sora-2", "prompt": "a cat"}).encode()
    status, text = get(f"{gateway}/v1/videos", [key, ("content-type", "application/json")], "POST", body)
    assert status == 200, text
    task = json.loads(text)["id"]
    for path in (f"/v1/videos/{task}", f"/v1/video/generations/{task}", "/v1/videos/no%22such%0Atask", "/v1/models"):
        for headers in ([key], [key, traced], [key, ("x-request-id", 'odd " \\ name')], [("authorization", "Bearer no")]):
            get(gateway + path, headers)


def check_formats(admin):
    _, text = get(f"{admin}/metrics")
    families = {family.name: family.type for family in read_text(text)}
    assert families == METRICS, families
    _, document = get(f"{admin}/metrics", [("accept", "application/openmetrics-text;version=1.0.0")])
    families = list(read_openmetrics(document))
    assert {family.name: family.type for family in families} == METRICS, document
    exemplars = {sample.exemplar.labels["trace_id"] for family in families for sample in family.samples if sample.exemplar}
    assert exemplars == {TRACE}, exemplars
    say("both formats are read by the reference parsers, exemplars and all")
    if shutil.which("promtool"):
        promtool = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True)
        assert promtool.returncode == 0 and not promtool.stderr, promtool
        say("promtool finds nothing")


def check_log(path):
    """The whole stream: comments, requests, snapshots."""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    try:
        samples = [sample for family in read_text(text) for sample in family.samples]
    except ValueError as error:
        sys.exit(f"metrics: {path} is no valid document: {error}")
    lines = sum(1 for line in text.split("\n") if line and not line.startswith("#"))
    assert len(samples) == lines, f"{path}: {len(samples)} samples in {lines} lines"
    return lines


def check_server(folder, gateway, admin):
    if not shutil.which("prometheus"):
        say("SKIPPED, for there is no prometheus here (Debian: apt-get install prometheus): scraping, rules, promtool")
        return
    rules = [path for path in pathlib.Path("deploy").rglob("*.y*ml") if re.search(r"^groups:", path.read_text(), re.M)]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path.absolute()) for path in rules],
        "scrape_configs": [{"job_name": "pollgate", "static_configs": [{"targets": [admin.removeprefix("http://")]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]

    def ask(path, **query):
        _, text = get(f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        return json.loads(text)["data"] if text.startswith('{"status":"success"') else None

    def value(query):
        found = (ask("query", query=query) or {}).get("result")
        return float(found[0]["value"][1]) if found else None

    with running(command, folder / "prometheus.log"):
        eventually("the target is up", lambda: value('up{job="pollgate"}') == 1)
        before = eventually("requests", lambda: value("sum(pollgate_requests_total)"))
        traffic(gateway)
        eventually("more requests", lambda: value("sum(pollgate_requests_total)") > before)
        p99 = "histogram_quantile(0.99, sum by (le) (rate(pollgate_request_duration_seconds_bucket[1m])))"
        eventually("a quantile", lambda: (value(p99) or 0) > 0)
        query = {"query": "pollgate_request_duration_seconds_bucket", "start": time.time() - 60, "end": time.time() + 60}
        eventually("an exemplar", lambda: TRACE in json.dumps(ask("query_exemplars", **query)))

        def evaluated():
            groups = (ask("rules") or {"groups": []})["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            files = {group["file"] for group in groups}
            return files == set(config["rule_files"]) and all(rule["health"] != "unknown" for rule in found) and [found]

        [found] = eventually("all rules are evaluated", evaluated)
        failed = [rule for rule in found if rule["health"] != "ok"]
        assert not failed, failed
        say(f"a real Prometheus scrapes it, and evaluates {len(found)} rules of {len(rules)} files in deploy/")


def main():
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        log, upstream = folder / "gateway.log", folder / "simulator.log"
        stack.enter_context(running([BINARY, "simulate", "--listen", "127.0.0.1:0"], upstream))
        upstream = bound(upstream, "listening on")
        command = [BINARY, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", upstream]
        settings = {"POLLGATE_LOG__REQUESTS": "all", "POLLGATE_LOG__SNAPSHOT": "100ms", "POLLGATE_LOG__LEVEL": "trace"}
        process = stack.enter_context(running(command, log, settings))
        gateway, admin = bound(log, "pollgate listening on"), bound(log, "admin listening on")
        traffic(gateway)
        check_formats(admin)
        check_server(folder, gateway, admin)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        say(f"its log, {check_log(log)} samples between comments, is one valid document")
    logs = sorted(SUITE_LOGS.glob("*.log"))
    if logs:
        say(f"so are the {len(logs)} logs of the test suite, with {sum(map(check_log, logs))} samples")
    else:
        say(f"SKIPPED: no logs of the test suite in {SUITE_LOGS}; cargo test leaves them there")


main()
