"""Upstream fails in every way there is, for as long as it takes to be noticed: no client sees anything of it.

Not by chance: a fault is switched on once every client has had an answer, strikes every poll, and is switched off again.
"""

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import openai
import pytest
from follow import KEY, in_the_loop, litellm, litellm_id
from methods import async_call, order, sync_call
from stage import Simulator, gateway, simulator

FAULTS = [
    "429", "429-empty", "500", "502", "503", "504", "html", "truncated", "empty", "no-data",
    "reset", "reset-mid-body", "stall", "stall-mid-body", "slow-body",
]
PATIENCE = 60
STRIKES = 2
ROUNDS = 3


def openai_sync(base: str, task: str) -> str:
    return sync_call(base, "retrieve", task).status


def openai_async(base: str, task: str) -> str:
    return async_call(base, "retrieve", task).status


def litellm_sync(base: str, task: str) -> str:
    at = {"api_base": base, "api_key": KEY, "custom_llm_provider": "openai"}
    video = litellm.video_status(video_id=task, **at)
    assert litellm_id(video) == task
    return video.status


def litellm_async(base: str, task: str) -> str:
    at = {"api_base": base, "api_key": KEY, "custom_llm_provider": "openai"}
    return in_the_loop(litellm.avideo_status(video_id=task, **at)).status


def curl(base: str, task: str) -> str:
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "30", "-H", f"Authorization: Bearer {KEY}"]
    said = subprocess.run([*command, f"{base}/videos/{task}"], capture_output=True, text=True, check=True)
    return json.loads(said.stdout)["status"]


CLIENTS: list[Callable[[str, str], str]] = [openai_sync, openai_async, litellm_sync, litellm_async, curl]


def endure(fault: str) -> None:
    with simulator() as upstream, gateway(upstream.url, POLLGATE_UPSTREAM__TIMEOUT="500ms") as url:
        base = f"{url}/v1"
        tasks = [sync_call(base, "create", **order(status="IN_PROGRESS")).id for _ in CLIENTS]

        def everyone() -> list[str]:
            with ThreadPoolExecutor(len(CLIENTS)) as pool:
                return list(pool.map(lambda client, task: client(base, task), CLIENTS, tasks))

        # The gateway's own patience is short here: what is slow for other reasons is asked for again.
        wait(lambda: known(everyone))
        upstream.faults({"fault": fault})
        rounds = 0

        def noticed() -> bool:
            nonlocal rounds
            rounds += 1
            assert everyone() == ["in_progress"] * len(CLIENTS)
            return rounds >= ROUNDS and upstream.struck() >= STRIKES

        wait(noticed)
        for task in tasks:
            upstream.force(task, "SUCCESS")
        upstream.faults()
        wait(lambda: everyone() == ["completed"] * len(CLIENTS))
        assert set(upstream.counts["faults"]) == {fault}
        assert upstream.counts["creates"] == len(CLIENTS), "nobody submits twice"


def known(everyone: Callable[[], list[str]]) -> bool:
    try:
        return everyone() == ["in_progress"] * len(CLIENTS)
    except (openai.APIError, litellm.exceptions.APIError, subprocess.CalledProcessError):
        return False


def wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def endured() -> dict[str, Future[None]]:
    """All at the same time, so that they take seconds together."""
    with ThreadPoolExecutor(5) as pool:
        return {fault: pool.submit(endure, fault) for fault in FAULTS}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_client_sees_a_fault_after_its_first_answer(fault: str, endured: dict[str, Future[None]]) -> None:
    endured[fault].result()
