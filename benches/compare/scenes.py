"""What is measured. Each scene gives its table, in Markdown."""

import contextlib
import shutil
import subprocess
import sys
import time
from statistics import median

from bench import UNIFIED, get
from machine import CORES


def hits(bench, peers):
    found = measured_hits(bench, ["pollgate", "hyper", *peers])
    return table(
        "A remembered task, 64 clients as fast as they can",
        ("server", "CPU per hit", "÷ hyper", "÷ nginx", "rate", "p50", "p99", "resident"),
        [
            (
                name,
                f"{mid(rounds, 'cpu'):.1f} µs",
                ratio(found, name, "hyper", "cpu"),
                ratio(found, name, "nginx", "cpu"),
                f"{mid(rounds, 'rate'):,.0f}/s",
                f"{mid(rounds, 'p50') / 1e3:.2f} ms",
                f"{mid(rounds, 'p99') / 1e3:.2f} ms",
                f"{mid(rounds, 'memory') / 2**20:.1f} MiB",
            )
            for name, rounds in found.items()
        ],
        "≤ 1.05 × hyper; p99 no worse than nginx's",
    )


def measured_hits(bench, names):
    with bench.upstream() as upstream:

        def measure(name):
            with bench.start(name, upstream) as server:
                get(server.port, "task")
                bench.wrk(server, seconds=1)
                before = int(get(upstream.port, "count").split()[-1])
                found = bench.wrk(server)
                if int(get(upstream.port, "count").split()[-1]) > before:
                    raise RuntimeError("it does not answer from its cache")
                return found

        return in_turn(names, bench.rounds, measure)


def misses(bench, peers):
    found = measured_misses(bench, ["upstream", "pollgate", *peers])
    # The quietest round of each: anything else that runs on the machine only adds to these few microseconds.
    direct = min(round["p50"] for round in found.pop("upstream"))
    rows = [
        (
            name,
            f"{mid(rounds, 'cpu'):.1f} µs",
            ratio(found, name, "nginx", "cpu"),
            f"{mid(rounds, 'rate'):,.0f}/s",
            f"{mid(rounds, 'p99') / 1e3:.2f} ms",
            f"{min(round['alone'] for round in rounds) - direct:.0f} µs",
        )
        for name, rounds in found.items()
    ]
    heads = ("server", "CPU per miss", "÷ nginx", "rate", "p99", "added at the median, one client")
    return table(
        "A new task each time, 64 clients, upstream answers at once",
        heads,
        rows,
        "≤ 1.3 × nginx; under 150 µs added at the median",
    )


def measured_misses(bench, names, tls=False, known=None):
    """Polls of new tasks; `known` of a hundred are of one remembered task instead."""
    with bench.upstream(tls=tls) as upstream:
        turns = iter(range(10**6))

        def measure(name):
            if name == "upstream":
                return bench.wrk(upstream, 1, clients=1, prefix=f"{UNIFIED}direct-")
            with bench.start(name, upstream, caches=known is not None) as server:
                turn = next(turns)
                bench.wrk(server, seconds=1, prefix=f"{UNIFIED}a{turn}-", known=known)
                found = bench.wrk(server, prefix=f"{UNIFIED}b{turn}-", known=known)
                if "upstream" not in names:
                    return found
                alone = bench.wrk(server, 1, clients=1, prefix=f"{UNIFIED}c{turn}-")
                return found | {"alone": alone["p50"]}

        return in_turn(names, bench.rounds, measure)


def as_people_run_it(bench, peers):
    """Servers with their default number of workers, on all cores beside the load; a mix of hits and misses."""
    names = ["pollgate", *(peer for peer in peers if peer == "nginx")]
    with bench.as_people_run_it():
        parts = {
            "a hit": measured_hits(bench, [names[0], "hyper", *names[1:]]),
            "a miss": measured_misses(bench, names),
            "a poll, of which 95 % are hits": measured_misses(bench, names, known=95),
            "a miss, upstream over TLS": measured_misses(bench, names, tls=True),
        }
    rows = [
        (
            what,
            name,
            f"{mid(rounds, 'cpu'):.1f} µs",
            ratio(found, name, "nginx", "cpu"),
            f"{mid(rounds, 'rate'):,.0f}/s",
            f"{mid(rounds, 'p99') / 1e3:.2f} ms",
        )
        for what, found in parts.items()
        for name, rounds in found.items()
    ]
    return table(
        "As people run it: default workers, nothing pinned",
        ("CPU of", "server", "CPU", "÷ nginx", "rate", "p99"),
        rows,
        "a hit ≤ 0.55 × nginx, a miss ≤ 1.6 ×",
    )


def secured(bench, peers):
    """Hits over TLS, in HTTP/1.1 and in HTTP/2; misses where upstream is asked over TLS."""
    names = ["pollgate", *(peer for peer in peers if peer == "nginx")]
    with bench.upstream() as upstream:

        def measure(name):
            with bench.start(name, upstream, tls=True) as server:
                get(server.port, "task", server.scheme)
                return {"http1": bench.wrk(server), "http2": shutil.which("h2load") and bench.h2load(server)}

        both = in_turn(names, bench.rounds, measure)
    parts = {
        what: {name: [round[how] for round in rounds] for name, rounds in both.items() if all(r[how] for r in rounds)}
        for what, how in (("a hit, HTTP/1.1 over TLS", "http1"), ("a hit, HTTP/2 over TLS", "http2"))
    }
    parts["a miss, upstream over TLS"] = measured_misses(bench, names, tls=True)
    rows = [
        (what, name, f"{mid(rounds, 'cpu'):.1f} µs", ratio(found, name, "nginx", "cpu"), f"{mid(rounds, 'rate'):,.0f}/s")
        for what, found in parts.items()
        for name, rounds in found.items()
    ]
    return table(
        "Over TLS, one worker; HTTP/2 with 16 connections of 4 streams",
        ("CPU of", "server", "CPU", "÷ nginx", "rate"),
        rows,
    )


def bursts(bench, peers):
    count = 3_000
    with bench.upstream(delay=200) as upstream:
        turns = iter(range(10**6))

        def measure(name):
            with bench.start(name, upstream, delay=200) as server:
                # Warm: allocator, thread pools.
                bench.ask("burst", server, f"{UNIFIED}warm-{next(turns)}", count)
                before = int(get(upstream.port, "count").split()[-1])
                told = bench.ask("burst", server, f"{UNIFIED}burst-{next(turns)}", count)
                asked = int(get(upstream.port, "count").split()[-1]) - before
                half, last = map(float, told.split())
                return {"half": half, "last": last, "asked": asked}

        peers = [name for name in peers if name != "envoy"]
        found = in_turn(["pollgate", "hyper", *peers], min(bench.rounds, 3), measure)
    rows = [
        (
            name,
            f"{mid(rounds, 'half'):.3f} s",
            f"{mid(rounds, 'last'):.3f} s",
            ratio(found, name, "hyper", "last"),
            "–" if name == "hyper" else f"{mid(rounds, 'asked'):.0f}",
        )
        for name, rounds in found.items()
    ]
    heads = ("server", "median answered", "last answered", "÷ hyper", "upstream requests")
    return table(
        "3,000 clients at once on one new task, upstream takes 0.2 s",
        heads,
        rows,
        "last ≤ 1.25 × hyper, one upstream request",
    )


def connections(bench, peers):
    """Memory of connections that do nothing, and of requests that wait."""
    idle, held = (500, 500) if bench.quick else (2_000, 1_000)
    rows = []
    with bench.upstream() as upstream, bench.upstream(state="processing") as running:
        for name in ["pollgate", "hyper", *(peer for peer in peers if peer == "nginx")]:
            with bench.start(name, upstream) as server:
                resting = bench.growth(server, "idle", f"{UNIFIED}task", idle)
            waiting = "–"
            if name in ("pollgate", "hyper"):
                with bench.start(name, running, delay=600_000) as server:
                    waiting = f"{bench.growth(server, 'held', f'{UNIFIED}task', held) / 1024:.1f} KiB"
            rows.append((name, f"{resting / 1024:.1f} KiB", waiting))
    heads = ("server", f"idle after one request ({idle:,})", f"held by Prefer: wait ({held:,})")
    return table("Memory per client connection", heads, rows, "≤ 10 KiB idle, ≤ 14 KiB held")


def memory_of_tasks(bench, _peers):
    """Memory per remembered task, and what a hit costs among many."""
    many, few = 100_000 if bench.quick else 1_000_000, 1_000
    lines = []
    with bench.upstream() as upstream, contextlib.ExitStack() as stack:
        room = {"POLLGATE_CACHE__CAPACITY": "8GiB"}
        small = stack.enter_context(bench.start("pollgate", upstream, **room))
        large = stack.enter_context(bench.start("pollgate", upstream, **room))
        body = len(get(small.port, "task-500000").split(b"\r\n\r\n", 1)[1])
        bench.ask("fill", small, f"{UNIFIED}task-", 0, few)
        bench.ask("fill", large, f"{UNIFIED}task-", 0, few)
        before, filled = large.memory(), few
        for tasks in (100_000, 1_000_000):
            if tasks <= many:
                bench.ask("fill", large, f"{UNIFIED}task-", filled, tasks)
                time.sleep(1)
                filled = tasks
                each = (large.memory() - before) / (tasks - few)
                lines.append(
                    (f"memory per remembered task beyond its {body} bytes, {tasks:,} tasks", f"{each - body:.0f} bytes")
                )
        servers = {"few": (small, few), "many": (large, many)}

        def measure(name):
            server, among = servers[name]
            return bench.wrk(server, prefix=f"{UNIFIED}task-", among=among)

        found = in_turn(servers, bench.rounds, measure)
    lines.append((f"CPU per hit, any of {few:,} tasks", f"{mid(found['few'], 'cpu'):.1f} µs"))
    lines.append(
        (
            f"CPU per hit, any of {many:,} tasks",
            f"{mid(found['many'], 'cpu'):.1f} µs ({ratio(found, 'many', 'few', 'cpu')} ×)",
        )
    )
    return table(
        "Many remembered tasks",
        ("pollgate", "figure"),
        lines,
        f"≤ 700 bytes; a hit among many ≤ 1.2 × of one among {few:,}",
    )


def starts(bench, peers):
    """From exec to the first answer, memory before the first task, and the binary."""
    names = ["pollgate", *(peer for peer in peers if peer == "nginx")]
    with bench.upstream() as upstream:

        def measure(name):
            with bench.start(name, upstream) as server:
                took = server.answered
                time.sleep(0.5)
                return {"took": took, "memory": server.memory()}

        found = in_turn(names, 5 if bench.quick else 15, measure)
    rows = [
        (name, f"{mid(rounds, 'took') * 1e3:.0f} ms", f"{mid(rounds, 'memory') / 2**20:.1f} MiB")
        for name, rounds in found.items()
    ]
    size = bench.pollgate.stat().st_size / 2**20
    heads = ("server", "exec to first answer, through to upstream", "resident then")
    return (
        table("Start", heads, rows, "50 ms, 15 MiB; a binary under 12 MiB")
        + f"\npollgate's release binary: {size:.1f} MiB.\n"
    )


def scaling(bench, _peers):
    """One worker against two."""
    if len(CORES) < 2:
        return "### Scaling\n\nOne core: nothing to see.\n"
    with bench.upstream() as upstream:
        apart = len(CORES) >= 4
        bench.load_cores = CORES[2:] if apart else CORES

        def measure(workers):
            cores = CORES[: int(workers)]
            with bench.start("pollgate", upstream, cores=cores, POLLGATE_LIMITS__WORKERS=workers) as server:
                get(server.port, "task")
                return bench.wrk(server)

        found = in_turn(["1", "2"], bench.rounds, measure)
    rows = [(name, f"{mid(rounds, 'rate'):,.0f}/s", f"{mid(rounds, 'cpu'):.1f} µs") for name, rounds in found.items()]
    more = float(ratio(found, "2", "1", "cpu"))
    note = f"A hit takes {more:.2f} × the CPU with two workers: with a core for each they serve {2 / more:.2f} × as many."
    if apart:
        note += f" Measured: {ratio(found, '2', '1', 'rate')} ×."
    else:
        note += " The rates here do not show it, since the load is on the same two cores."
    return (
        table("Hits with one worker and with two", ("workers", "rate", "CPU per hit"), rows, "≥ 1.8 × the rate")
        + f"\n{note}\n"
    )


def in_turn(names, rounds, measure):
    """Measures each server in each round. One that fails is named and left out."""
    found = {name: [] for name in names}
    for _ in range(rounds):
        for name in list(found):
            try:
                found[name].append(measure(name))
            except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
                print(f"{name} is left out: {problem}", file=sys.stderr)
                del found[name]
    return found


def mid(rounds, key):
    return median(found[key] for found in rounds)


def ratio(found, name, other, key):
    """The median of the rounds' ratios."""
    if not found.get(name) or not found.get(other):
        return "–"
    return f"{median(a[key] / b[key] for a, b in zip(found[name], found[other], strict=True)):.2f}"


def table(title, heads, rows, target=None):
    lines = [f"### {title}", ""]
    if target:
        lines += [f"Target for pollgate: {target}.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


SCENES = {
    "hit": hits,
    "miss": misses,
    "default": as_people_run_it,
    "tls": secured,
    "burst": bursts,
    "connections": connections,
    "tasks": memory_of_tasks,
    "start": starts,
    "scaling": scaling,
}
