"""A ComfyUI node that polls Kling, as nodes of this kind do: every 2 s without end, and any answer but a 200 ends it.

Here ten times as fast, and so is what the gateway remembers.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from follow import KEY
from stage import Simulator, gateway, simulator

INTERVAL = 0.2
# Nodes of one workflow that wait for the same video.
NODES = 4
FAULTS = ["429", "429-empty", "500", "502", "504", "reset", "stall"]
PATIENCE = 60


class Node:
    """One node, which runs once."""

    def __init__(self, base: str) -> None:
        self.path = f"{base}/kling/v1/videos/text2video"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {KEY}"
        self.polls = 0

    def submit(self, **simulate: str) -> str:
        order = {"model_name": "kling-v1-6", "prompt": "a cat", "duration": "5", "simulate": simulate}
        answer = self.session.post(self.path, json=order, timeout=PATIENCE)
        answer.raise_for_status()
        document = answer.json()
        assert document["code"] == 0
        return document["data"]["task_id"]

    def wait(self, task: str) -> str:
        """The URL of the video."""
        while True:
            time.sleep(INTERVAL)
            answer = self.session.get(f"{self.path}/{task}", timeout=PATIENCE)
            if answer.status_code != 200:
                raise RuntimeError(f"API error: {answer.status_code} {answer.text}")
            self.polls += 1
            data: dict[str, Any] = answer.json()["data"]
            if data["task_status"] == "succeed":
                return data["task_result"]["videos"][0]["url"]
            if data["task_status"] == "failed":
                raise RuntimeError(f"Task failed: {data['task_status_msg']}")


@contextmanager
def waiting(base: str, task: str) -> Iterator[tuple[list[Node], list[Future[str]]]]:
    nodes = [Node(base) for _ in range(NODES)]
    with ThreadPoolExecutor(NODES) as pool:
        yield nodes, [pool.submit(node.wait, task) for node in nodes]


def one_url(upstream: Simulator, task: str, videos: list[Future[str]]) -> None:
    """All nodes get the one signed URL of their video."""
    (url,) = {video.result() for video in videos}
    assert url.startswith(f"{upstream.url}/files/{task}.mp4?")


def eventually(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)


def count(upstream: Simulator, base: str) -> tuple[int, int]:
    """The polls that the nodes sent, and those that upstream got."""
    task = Node(base).submit(lifetime="3s")
    before = upstream.counts["native_polls"].get("kling", 0)
    with waiting(base, task) as (nodes, videos):
        one_url(upstream, task, videos)
    return sum(node.polls for node in nodes), upstream.counts["native_polls"]["kling"] - before


def test_upstream_gets_half_of_the_polls_at_most() -> None:
    with simulator() as upstream, gateway(upstream.url) as url:
        sent, got = count(upstream, upstream.url)
        assert got == sent >= NODES * 5
        sent, got = count(upstream, url)
        assert got * 2 <= sent, f"{got} of {sent}"


def test_without_the_gateway_one_502_ends_a_node() -> None:
    with simulator() as upstream:
        task = Node(upstream.url).submit(status="IN_PROGRESS")
        upstream.faults({"fault": "502", "next": 1})
        with pytest.raises(RuntimeError, match="502"):
            Node(upstream.url).wait(task)


def endure(fault: str) -> None:
    with simulator() as upstream, gateway(upstream.url, POLLGATE_UPSTREAM__TIMEOUT="500ms") as url:
        task = Node(url).submit(status="IN_PROGRESS")
        with waiting(url, task) as (nodes, videos):
            try:
                eventually(lambda: all(node.polls for node in nodes))
                upstream.faults({"fault": fault})
                polls = [node.polls for node in nodes]
                # Every node has had an answer that was asked for after the fault struck twice.
                eventually(lambda: upstream.struck() >= 2)
                eventually(lambda: all(now.polls > before + 1 for now, before in zip(nodes, polls)) or ended(videos))
            finally:
                upstream.force(task, "SUCCESS")
                upstream.faults()
            one_url(upstream, task, videos)
        assert upstream.counts["creates"] == 1


def ended(videos: list[Future[str]]) -> bool:
    return any(video.done() for video in videos)


@pytest.fixture(scope="module")
def endured() -> dict[str, Future[None]]:
    """All at the same time, so that they take seconds together."""
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        return {fault: pool.submit(endure, fault) for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_node_sees_a_fault_after_its_first_answer(fault: str, endured: dict[str, Future[None]]) -> None:
    endured[fault].result()
