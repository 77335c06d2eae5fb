"""Every method that openai-python has for a video, sync and async; LiteLLM's downloads; curl."""

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from follow import KEY, in_the_loop, litellm
from stage import Simulator, deleting_upstream, gateway, simulator

Call = Callable[..., Any]


@pytest.fixture
def upstream() -> Iterator[Simulator]:
    with simulator() as one:
        yield one


@pytest.fixture
def base(upstream: Simulator) -> Iterator[str]:
    with gateway(upstream.url) as url:
        yield f"{url}/v1"


def sync_call(base: str, method: str, *arguments: Any, **named: Any) -> Any:
    with openai.OpenAI(api_key=KEY, base_url=base, max_retries=0) as client:
        return getattr(client.videos, method)(*arguments, **named)


def async_call(base: str, method: str, *arguments: Any, **named: Any) -> Any:
    async def call() -> Any:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=base, max_retries=0) as client:
            return await getattr(client.videos, method)(*arguments, **named)

    return asyncio.run(call())


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param


def order(**simulate: str) -> dict[str, Any]:
    return {"model": "documented", "prompt": "a cat", "extra_body": {"simulate": simulate}}


def original(upstream: Simulator, task: str) -> bytes:
    """The video as upstream itself hands it out."""
    request = urllib.request.Request(f"{upstream.url}/v1/videos/{task}/content", headers={"authorization": KEY})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "completed"), ("failed", "failed")])
def test_create_and_poll_comes_back_with_the_true_end(
    call: Call, base: str, upstream: Simulator, outcome: str, status: str
) -> None:
    video = call(base, "create_and_poll", **order(lifetime="1s", outcome=outcome))
    assert video.status == status
    assert upstream.ask(f"/tasks/{video.id}")["truth"]["state"] == outcome
    assert call(base, "retrieve", video.id).status == call(base, "poll", video.id).status == status


@pytest.mark.parametrize("fault", ["502", "html", "truncated", "reset"])
def test_create_and_poll_submits_once_though_the_first_poll_fails(
    call: Call, base: str, upstream: Simulator, fault: str
) -> None:
    upstream.faults({"fault": fault, "scope": "openai", "next": 1})
    assert call(base, "create_and_poll", **order(lifetime="1s")).status == "completed"
    assert upstream.counts["faults"] == {fault: 1}
    assert upstream.counts["creates"] == 1


def test_download_content_is_the_video_byte_by_byte(call: Call, base: str, upstream: Simulator) -> None:
    video = call(base, "create_and_poll", **order(lifetime="0s"))
    # Broken polls are no business of a download.
    upstream.faults({"fault": "502"})
    content = call(base, "download_content", video.id).content
    assert len(content) == 1 << 20
    assert content == original(upstream, video.id)


def test_download_content_says_what_upstream_says_of_a_video_that_is_not_there(call: Call, base: str) -> None:
    video = call(base, "create", **order(status="IN_PROGRESS"))
    with pytest.raises(openai.BadRequestError, match="not completed yet"):
        call(base, "download_content", video.id)
    with pytest.raises(openai.NotFoundError, match="Task not found"):
        call(base, "download_content", "task_nonesuch")


def test_after_a_delete_that_upstream_did_a_video_is_not_found(call: Call) -> None:
    with deleting_upstream() as upstream, gateway(upstream) as url:
        base = f"{url}/v1"
        video = call(base, "create", model="sora-2", prompt="a cat")
        assert call(base, "retrieve", video.id).status == "completed"
        deleted = call(base, "delete", video.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (video.id, "video.deleted", True)
        with pytest.raises(openai.NotFoundError):
            call(base, "retrieve", video.id)
        with pytest.raises(openai.NotFoundError):
            call(base, "delete", video.id)


def test_after_a_delete_that_upstream_does_not_know_a_video_is_what_it_is(
    call: Call, base: str, upstream: Simulator
) -> None:
    video = call(base, "create_and_poll", **order(lifetime="0s"))
    upstream.force(video.id, "FAILURE")
    assert call(base, "retrieve", video.id).status == "completed", "a remembered end"
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        call(base, "delete", video.id)
    assert call(base, "retrieve", video.id).status == "failed", "asked for again"


def test_litellm_downloads_the_video_byte_by_byte(base: str, upstream: Simulator) -> None:
    video = sync_call(base, "create_and_poll", **order(lifetime="0s"))
    at = {"video_id": video.id, "api_base": base, "api_key": KEY, "custom_llm_provider": "openai"}
    assert litellm.video_content(**at) == original(upstream, video.id)
    assert in_the_loop(litellm.avideo_content(**at)) == original(upstream, video.id)


def test_curl_creates_polls_downloads_and_deletes(base: str, upstream: Simulator, tmp_path: Path) -> None:
    def curl(path: str, *arguments: str) -> tuple[int, str]:
        command = ["curl", "--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]
        key = ["-H", f"Authorization: Bearer {KEY}"]
        said = subprocess.run([*command, *key, *arguments, base + path], capture_output=True, text=True, check=True)
        body, _, status = said.stdout.rpartition("\n")
        return int(status), body

    body = json.dumps({"model": "documented", "prompt": "a cat", "simulate": {"lifetime": "0s"}})
    status, said = curl("/video/generations", "--json", body)
    task = json.loads(said)["task_id"]
    assert status == 200
    # While upstream fails, both paths answer: the gateway tries again.
    upstream.faults({"fault": "502", "next": 1}, {"fault": "html", "next": 1})
    status, said = curl(f"/videos/{task}")
    assert (status, json.loads(said)["status"]) == (200, "completed")
    upstream.faults({"fault": "truncated", "next": 1}, {"fault": "reset", "next": 1})
    status, said = curl(f"/video/generations/{task}")
    assert (status, json.loads(said)["data"]["status"]) == (200, "succeeded")
    assert sum(upstream.counts["faults"].values()) == 4
    file = tmp_path / "video.mp4"
    assert curl(f"/videos/{task}/content", "--output", str(file)) == (200, "")
    assert file.read_bytes() == original(upstream, task)
    assert curl(f"/videos/{task}/content", "--output", str(file), "--range", "100-199") == (206, "")
    assert file.read_bytes() == original(upstream, task)[100:200]
    assert curl(f"/videos/{task}", "--request", "DELETE")[0] == 404, "upstream knows no such thing"
    assert curl(f"/videos/{task}")[0] == 200
    assert upstream.counts["creates"] == 1
