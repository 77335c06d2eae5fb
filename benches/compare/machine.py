"""Processes on this machine: started on given cores, measured, ended."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time

CORES = sorted(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """A process that was started here, with its children; ended at the end of a `with`."""

    def __init__(self, command, cores, stdin=None, speaks=False, **environment):
        self.started = time.perf_counter()
        self.answered = self.port = None
        self.process = subprocess.Popen(
            pinned(command, cores),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if speaks else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
        )
        if stdin:
            self.process.stdin.write(stdin)
            self.process.stdin.close()
        if speaks:
            # Where it listens, or only that it is ready.
            port = re.search(r":(\d+)$", self.process.stdout.readline().decode().strip())
            self.port = port and int(port[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        tree = self.tree()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                return

    def tree(self):
        """Its process id and those of its children, and theirs."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = pathlib.Path("/proc", entry, "stat").read_text()
                    parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
        tree = [self.process.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree

    def cpu(self):
        """User and system time so far, in seconds."""
        ticks = 0
        for pid in self.tree():
            fields = pathlib.Path("/proc", str(pid), "stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self):
        """Resident bytes; pages that processes share count once for each."""
        return sum(int(pathlib.Path("/proc", str(pid), "statm").read_text().split()[1]) * PAGE for pid in self.tree())


def pinned(command, cores):
    pin = ["taskset", "-c", ",".join(map(str, cores))] if len(CORES) > 1 else []
    return pin + [str(word) for word in command]
