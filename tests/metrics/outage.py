"""An outage of ten minutes, and what it looks like from everywhere at once: see `run`.

The gateway runs as a process before a simulator, which stops answering (SIGSTOP) for ten minutes. Clients poll, the
gateway is scraped every 15 s, and the very samples drive the rules in deploy/ (promtool). All durations are settings, a
SCALE-th of their usual length, so it takes half a minute; only how soon an outage is noticed and the pace of probes
are no settings. What everyone saw is written side by side to the file TIMELINE.

    outage.py BINARY TIMELINE [SCALE]       SCALE 1 plays it in its true length
"""

import collections
import contextlib
import datetime
import html
import http.client
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

from common import bound, get, running, say
from prometheus_client.parser import text_string_to_metric_families as read_text

BINARY, TIMELINE = sys.argv[1], pathlib.Path(sys.argv[2])
SCALE = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0

# In seconds of the story.
BEGINS, ENDS, LASTS = 120, 720, 960
STANDS_IN = 480  # cache.stale_if_error: runs out two minutes before the end
SCRAPE = 15
# After polls have failed for three seconds, or for twenty where they are few: after a timeout or two, at the next scrape.
NOTICED = max(3 * SCALE + 45, 80)
RECOVERED = 3 * SCALE + 15  # by a probe
USUAL = {
    "upstream.connect_timeout": 5,
    "upstream.timeout": 15,
    "upstream.patience": 3,
    "cache.in_flight_ttl": 2,
    "cache.in_flight_max": 10,
    "cache.missing_ttl": 2,
    "cache.credential_ttl": 300,
    "cache.stale_if_error": STANDS_IN,
}
TASKS, CALLERS = 6, ("sk-alice", "sk-bob")
JSON = ("content-type", "application/json")


class Clock:
    """The story's time, in seconds since it began."""

    def __init__(self):
        self.began = time.time()

    def of(self, moment):
        return (moment - self.began) * SCALE

    def now(self):
        return self.of(time.time())

    def wait(self, until):
        time.sleep(max(0.0, self.began + until / SCALE - time.time()))


class Clients:
    """Clients of the gateway, and every answer they got: (when, who, what)."""

    def __init__(self, clock, gateway, tasks, strangers):
        self.clock, self.address = clock, gateway.removeprefix("http://")
        self.answers, self.threads = [], []
        for number, task in enumerate(tasks):
            self.start("poll", 5, lambda n=number, task=task: self.poll(task, CALLERS[n % 2]))
        strangers = iter(strangers)
        self.start("new", 30, lambda: self.poll(next(strangers), CALLERS[0]))
        self.start("submit", 60, self.submit)

    def start(self, who, every, ask):
        def loop():
            began = self.clock.now()
            for turn in range(int(LASTS // every)):
                self.clock.wait(began + turn * every)
                if self.clock.now() >= LASTS:
                    return
                asked = self.clock.now()
                self.answers.append((asked, who, *ask()))

        self.threads.append(threading.Thread(target=loop, daemon=True))
        self.threads[-1].start()

    def ask(self, method, path, key, body=None, patience=60):
        connection = http.client.HTTPConnection(self.address, timeout=patience / SCALE)
        try:
            connection.request(method, path, body, {"authorization": f"Bearer {key}", JSON[0]: JSON[1]})
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers.get("cache-status", "")
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def poll(self, task, key):
        status, how = self.ask("GET", f"/v1/videos/{task}", key)
        return status, "stale_if_error" in how

    def submit(self):
        # As long as nobody hangs up, a submission has all the time it takes.
        return self.ask("POST", "/v1/videos", CALLERS[0], json.dumps({"model": "sora-2", "prompt": "a cat"}))[0], False

    def join(self):
        for thread in self.threads:
            thread.join(60)


class Observed:
    """What the admin listener says, as it is said."""

    def __init__(self, clock, admin):
        self.clock, self.admin = clock, admin
        self.series = collections.defaultdict(dict)
        self.pages = {}

    def scrape(self, turn):
        status, text = get(f"{self.admin}/metrics")
        self.put(turn, "up", {}, float(status == 200))
        for family in read_text(text):
            for sample in family.samples:
                value = sample.value
                if sample.name == "process_start_time_seconds":
                    value = self.clock.of(value)
                self.put(turn, sample.name, sample.labels, value)

    def put(self, turn, name, labels, value):
        labels = {**labels, "job": "pollgate", "instance": "gateway"}
        self.series[name, tuple(sorted(labels.items()))][turn] = value

    def look(self, minute):
        _, text = get(f"{self.admin}/", [("accept", "text/html")])
        words = {name: html.unescape(said) for name, said in re.findall(r'data-cell="([^"]+)">([^<]*)<', text)}
        words["title"] = html.unescape(re.search("<title>(.*?)</title>", text)[1])
        rows = re.search(r'data-rows="incidents">(.*?)</tbody>', text, re.S)[1]
        words["rows"] = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html.unescape(rows))).strip()
        self.pages[minute] = {name: said.replace("\u00a0", " ") for name, said in words.items()}

    def sum(self, name, turn, **labels):
        return sum(
            values.get(turn, 0)
            for (found, having), values in self.series.items()
            if found == name and all(re.fullmatch(labels[key], value) for key, value in having if key in labels)
        )


def alerts(folder, series, turns):
    """Every alert of deploy/ by minute: its state, and its summary where it fires. None without promtool."""
    if not shutil.which("promtool"):
        say("SKIPPED, for there is no promtool here (Debian: apt-get install prometheus): the alerts of the outage")
        return None
    rules = pathlib.Path("deploy/prometheus/rules.yaml").read_text()
    # As operators are asked to where cache.stale_if_error is not 10 min.
    assert rules.count("expr: vector(600)") == 1
    (folder / "rules.yaml").write_text(rules.replace("vector(600)", f"vector({STANDS_IN})"))
    names = re.findall(r"- alert: (\w+)", rules)
    minutes = [f"{minute}m" for minute in range(LASTS // 60 + 1)]
    inputs = []
    for (name, labels), values in series.items():
        said = ", ".join(f"{key}={json.dumps(value)}" for key, value in labels)
        values = " ".join(repr(values[turn]) if turn in values else "_" for turn in range(turns))
        inputs.append({"series": f"{name}{{{said}}}", "values": values})
    # Nothing is expected, so that promtool says what it found.
    story = {
        "interval": f"{SCRAPE}s",
        "input_series": inputs,
        "promql_expr_test": [{"expr": "ALERTS", "eval_time": at, "exp_samples": []} for at in minutes],
        "alert_rule_test": [
            {"alertname": name, "eval_time": at, "exp_alerts": []} for at in minutes for name in names
        ],
    }
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{SCRAPE}s", "tests": [story]}
    (folder / "test.yaml").write_text(json.dumps(test))
    ran = subprocess.run(["promtool", "test", "rules", folder / "test.yaml"], capture_output=True, text=True)
    said = ran.stdout + ran.stderr
    found = collections.defaultdict(dict)
    for minute, got in re.findall(r'expr: "ALERTS", time: (\w+),\s*exp:.*?\s*got:(.*)', said):
        minute = round(seconds(minute) / 60)
        for labels in re.findall(r"\{(.*?)\}", got):
            name, state = (re.search(rf'{key}="(\w+)"', labels)[1] for key in ("alertname", "alertstate"))
            found[minute][name] = state
    for name, minute, got in re.findall(r"alertname: (\w+), time: (\w+),\s*exp:\[.*?\],\s*got:\[(.*?)\n\s*\]", said, re.S):
        summary = re.search(r'summary="(.*?)"[,}]', got)[1]
        found[round(seconds(minute) / 60)][name] = f"firing: {summary}"
    assert found, said
    return found


def seconds(text):
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def logged(log, clock):
    """The comments of the log that are not about the start or the end: (when, level, what)."""
    for line in log.read_text().splitlines():
        found = re.match(r"# (\S+Z) (\w+) pollgate (.*)", line)
        if found and (found[2] == "WARN" or "upstream answers" in found[3]):
            at = datetime.datetime.fromisoformat(found[1]).timestamp()
            yield clock.of(at), found[2], found[3]


def play(folder):
    log, upstream_log = folder / "gateway.log", folder / "simulator.log"
    with contextlib.ExitStack() as stack:
        simulator = ["simulate", "--listen", "127.0.0.1:0", "--lifetime", "10h"]
        simulator = stack.enter_context(running([BINARY, *simulator], upstream_log))
        upstream = bound(upstream_log, "listening on")
        settings = {f"POLLGATE_{name.upper().replace('.', '__')}": f"{1000 * usual / SCALE:.0f}ms" for name, usual in USUAL.items()}
        settings |= {"POLLGATE_LOG__SNAPSHOT": "off"}
        command = [BINARY, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", upstream]
        stack.enter_context(running(command, log, settings))
        gateway, admin = bound(log, "pollgate listening on"), bound(log, "admin listening on")

        def submitted(key):
            body = json.dumps({"model": "sora-2", "prompt": "a cat"}).encode()
            _, text = get(f"{upstream}/v1/videos", [("authorization", f"Bearer {key}"), JSON], "POST", body)
            return json.loads(text)["id"]

        tasks = [submitted(CALLERS[number % 2]) for number in range(TASKS)]
        strangers = [submitted(CALLERS[0]) for _ in range(LASTS // 30)]
        clock = Clock()
        clients, observed = Clients(clock, gateway, tasks, strangers), Observed(clock, admin)
        turns = LASTS // SCRAPE + 1
        for turn in range(turns):
            at = turn * SCRAPE
            clock.wait(at)
            if at == BEGINS:
                simulator.send_signal(signal.SIGSTOP)
            if at == ENDS:
                simulator.send_signal(signal.SIGCONT)
            observed.scrape(turn)
            if at % 60 == 0:
                observed.look(at // 60)
        clients.join()
        observed.scrape(turns)
        observed.look("after")
        return sorted(clients.answers), observed, list(logged(log, clock)), turns


def told(found):
    return [f"{name}: {state}" for name, state in sorted(found.items())]


def timeline(answers, observed, lines, found):
    """Minute by minute, side by side."""
    widths = (5, 34, 4, 36, 46, 30)
    heads = ("", "log", "up", "alerts", "page", "clients, in the minute before")

    def rows(cells):
        cells = [[row for text in cell for row in textwrap.wrap(text, width)] for cell, width in zip(cells, widths)]
        for row in range(max(map(len, cells))):
            texts = (cell[row] if row < len(cell) else "" for cell in cells)
            yield " ".join(text.ljust(width) for text, width in zip(texts, widths)).rstrip()

    def stamp(at):
        return f"{at // 60:.0f}:{at % 60:02.0f}"

    yield f"An outage from {stamp(BEGINS)} to {stamp(ENDS)}; the last known states stand in for {stamp(STANDS_IN)}. 1 s took {1 / SCALE:.3f} s."
    yield ""
    yield from rows([[head] for head in heads])
    for minute in range(LASTS // 60 + 1):
        until = minute * 60
        page = observed.pages[minute]
        kinds = collections.Counter()
        for at, who, status, is_stale in answers:
            if until - 60 <= at < until:
                what = "last known" if is_stale else {0: "no answer in 60 s"}.get(status, status)
                kinds[f"{who}: {what}"] += 1
        yield "-" * (sum(widths) + len(widths) - 1)
        yield from rows([
            [stamp(until)],
            [f"{stamp(at)} {level} {what}" for at, level, what in lines if until - 60 <= at < until],
            [str(int(observed.sum("pollgate_upstream_up", until // SCRAPE)))],
            told(found[minute]) if found is not None else ["(no promtool)"],
            [page["title"], f"{page['state.since']} {page['state.detail']}", f"Errors clients saw: {page['hour.errors']}"],
            [f"{kind} {number}×" for kind, number in sorted(kinds.items())],
        ])


def judge(answers, observed, lines, found):
    """What has to be so, whatever the pace."""
    # Log: once when it begins, once when it is over.
    assert [level for _, level, _ in lines] == ["WARN", "INFO"], lines
    [(began, _, down), (over, _, up)] = lines
    assert down.startswith("upstream is down: the video API did not answer in time; "), down
    assert up.startswith("upstream answers again, after "), up
    assert BEGINS < began < BEGINS + NOTICED and ENDS < over < ENDS + RECOVERED, lines

    # Gauge: from then to then.
    gauge = {turn * SCRAPE: observed.sum("pollgate_upstream_up", turn) for turn in range(LASTS // SCRAPE + 1)}
    wrong = {at: up for at, up in gauge.items() if up != (not began < at < over) and min(abs(at - began), abs(at - over)) > SCRAPE}
    assert not wrong, (wrong, lines)

    # Clients: known tasks are answered as long as their last known states stand in; what is not known fails.
    def seen(who, since, until):
        return {(status, is_stale) for at, asker, status, is_stale in answers if asker == who and since <= at < until}

    assert seen("poll", 0, BEGINS - 5) | seen("new", 0, BEGINS - 15) | seen("submit", 0, BEGINS - 60) == {(200, False)}
    standing = seen("poll", BEGINS + 15, BEGINS + STANDS_IN - 60)
    assert standing == {(200, True)}, standing
    gone = seen("poll", BEGINS + STANDS_IN + 15, ENDS - 15)
    assert gone and {status for status, _ in gone} <= {503, 504}, gone
    new = seen("new", BEGINS + 5, ENDS - 15)
    assert new and {status for status, _ in new} <= {503, 504}, new
    recovered = ENDS + RECOVERED
    settled = seen("poll", recovered, LASTS) | seen("new", recovered, LASTS) | seen("submit", ENDS + 15, LASTS)
    assert settled == {(200, False)}, settled

    # Page: the same errors as clients saw and as metrics count, and the outage after it is over.
    errors = sum(status >= 500 for _, _, status, _ in answers)
    counted = observed.sum("pollgate_requests_total", LASTS // SCRAPE + 1, code="5..")
    shown = observed.pages["after"]
    assert errors == counted == int(shown["hour.errors"].replace(",", "")), (errors, counted, shown)
    for minute, page in observed.pages.items():
        at = LASTS if minute == "after" else minute * 60
        if began + SCRAPE < at < ENDS:
            assert page["title"] == "▲ down · pollgate", page
            assert page["state.since"].endswith(": the video API did not answer in time."), page
            left = began + STANDS_IN - at
            ran_out = "have run out" in page["state.detail"]
            assert abs(left) < 15 or ran_out == (left < 0), page
        elif at < BEGINS or over + 30 < at:
            assert page["title"] == "● up · pollgate", page
    assert "Upstream was last down from " in shown["state.detail"], shown
    assert re.match(r"down \S+ – \S+ .* the video API did not answer in time \d+ errors", shown["rows"]), shown

    # Alerts: one, a minute after the gauge, that counts down and goes; and the one of errors, where they are many.
    if found is None:
        return
    firing = [minute for minute in sorted(found) if found[minute].get("PollgateUpstreamDown", "").startswith("firing")]
    assert firing == list(range(firing[0], firing[-1] + 1)), found
    assert began + 60 <= firing[0] * 60 <= began + 60 + 60 + 2 * SCRAPE, (began, found)
    assert over - 60 <= firing[-1] * 60 <= over + SCRAPE, (over, found)
    for minute in firing:
        summary = found[minute]["PollgateUpstreamDown"]
        left = (began + STANDS_IN - minute * 60) / 60
        if promised := re.search(r"run out in (\d+) min$", summary):
            assert abs(int(promised[1]) - left) < 1.5, (left, summary)
        else:
            assert summary.endswith("the last known states have run out, and polls fail") and left < 1, (left, summary)
    alerts = {name for states in found.values() for name, state in states.items() if state.startswith("firing")}
    assert alerts <= {"PollgateUpstreamDown", "PollgateClientsSeeErrors"}, found


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        answers, observed, lines, turns = play(folder)
        found = alerts(folder, observed.series, turns)
    TIMELINE.parent.mkdir(parents=True, exist_ok=True)
    TIMELINE.write_text("\n".join(timeline(answers, observed, lines, found)) + "\n")
    try:
        judge(answers, observed, lines, found)
    except AssertionError:
        print(TIMELINE.read_text())
        raise
    say(f"an outage of ten minutes reads the same in log, gauge, alert, page and at its clients: {TIMELINE}")


main()
