"""openai-python and LiteLLM follow tasks to their end behind an upstream that does every odd thing that was met in public.

`../run` starts what this needs and says where it listens.
"""

import json
import os
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from follow import in_the_loop, litellm, litellm_id

ODD_UPSTREAM = os.environ["ODD_UPSTREAM"]
BASE = os.environ["ODD_GATEWAY"] + "/v1"
TOKEN = {"cf-access-client-id": "id1.access"}
INTERVAL = 0.05
PATIENCE = 60


def inspect(path: str = "") -> Any:
    with urllib.request.urlopen(f"{ODD_UPSTREAM}/odd{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


SCRIPT = inspect()


@dataclass
class Followed:
    """What a client saw, answer by answer."""

    id: str
    seen: list[Any] = field(default_factory=list)

    def until_completed(self, ask: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.seen or self.seen[-1].status != "completed":
            assert time.monotonic() < deadline, f"after {PATIENCE} s still {self.seen[-1]}"
            self.seen.append(ask())
            time.sleep(INTERVAL)


def client(name: str, **more: Any) -> openai.OpenAI:
    """Without retries, so that every failure would show."""
    return openai.OpenAI(api_key=f"sk-odd+{name}", base_url=BASE, max_retries=0, default_headers=TOKEN, **more)


def openai_retrieve() -> Followed:
    with client("retrieve") as one:
        followed = Followed(one.videos.create(model="sora-2", prompt="a cat").id)
        followed.until_completed(lambda: one.videos.retrieve(followed.id))
    return followed


def openai_poll(**options: int) -> Followed:
    """All that its own loop saw, which returns the last document only."""
    documents: list[Any] = []

    def record(response: httpx.Response) -> None:
        if response.request.method == "GET":
            response.read()
            assert response.status_code == 200
            documents.append(openai.types.Video.construct(**response.json()))

    with client(f"poll+{len(options)}", http_client=openai.DefaultHttpxClient(event_hooks={"response": [record]})) as one:
        created = one.videos.create(model="sora-2", prompt="a cat")
        last = one.videos.poll(created.id, **options)
        assert (last.id, last.status) == (created.id, "completed")
        return Followed(created.id, documents)


def openai_async() -> Followed:
    async def follow() -> Followed:
        at = {"api_key": "sk-odd+async", "base_url": BASE, "max_retries": 0, "default_headers": TOKEN}
        async with openai.AsyncOpenAI(**at) as one:
            created = await one.videos.create(model="sora-2", prompt="a cat")
            followed = Followed(created.id)
            while not followed.seen or followed.seen[-1].status != "completed":
                followed.seen.append(await one.videos.retrieve(created.id))
            return followed

    return in_the_loop(follow())


def litellm_at(key: str) -> dict[str, Any]:
    """Anew for each call, since LiteLLM writes its credential into the headers that it is given."""
    return {"api_base": BASE, "api_key": key, "extra_headers": dict(TOKEN)}


def litellm_status() -> Followed:
    key = "sk-odd+litellm"
    created = litellm.video_generation(prompt="a cat", model="openai/sora-2", **litellm_at(key))
    followed = Followed(litellm_id(created))
    followed.until_completed(lambda: litellm.video_status(video_id=created.id, **litellm_at(key)))
    for video in followed.seen:
        video.id = litellm_id(video)
    return followed


def litellm_async() -> Followed:
    key = "sk-odd+litellm+async"

    async def follow() -> Followed:
        created = await litellm.avideo_generation(prompt="a cat", model="openai/sora-2", **litellm_at(key))
        followed = Followed(litellm_id(created))
        while not followed.seen or followed.seen[-1].status != "completed":
            followed.seen.append(await litellm.avideo_status(video_id=created.id, **litellm_at(key)))
        for video in followed.seen:
            video.id = litellm_id(video)
        return followed

    return in_the_loop(follow())


CLIENTS: dict[str, Callable[[], Followed]] = {
    "openai-retrieve": openai_retrieve,
    "openai-poll": openai_poll,
    "openai-poll-often": lambda: openai_poll(poll_interval_ms=50),
    "openai-async": openai_async,
    "litellm": litellm_status,
    "litellm-async": litellm_async,
}


@pytest.fixture(scope="module")
def done() -> dict[str, Future[Followed]]:
    """All at the same time, so that they take seconds together."""
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        return {name: pool.submit(follow) for name, follow in CLIENTS.items()}


@pytest.fixture(params=CLIENTS)
def followed(request: pytest.FixtureRequest, done: dict[str, Future[Followed]]) -> Followed:
    return done[request.param].result()


def test_a_task_is_followed_to_its_end_and_all_of_its_news_is_seen_in_order(followed: Followed) -> None:
    states = [{"status": video.status, "progress": video.progress} for video in followed.seen]
    news = [state for at, state in enumerate(states) if at == 0 or state != states[at - 1]]
    assert news == SCRIPT["shows"]


def test_every_document_has_the_types_of_the_openai_schema(followed: Followed) -> None:
    for video in followed.seen:
        assert (video.id, video.object, video.model, video.seconds) == (followed.id, "video", "sora-2", "8")
        assert type(video.progress) is int and type(video.created_at) is int
        assert video.error is None


def test_upstream_did_all_of_it_and_refused_no_poll(followed: Followed) -> None:
    task = inspect(f"/tasks/{followed.id}")
    assert task["saw"] == SCRIPT["polls"]
    assert task["refused"] == []


def test_an_error_page_is_told_as_what_it_looks_like_where_no_state_is_known() -> None:
    with client("lost") as one, pytest.raises(openai.NotFoundError, match="says nothing about the task") as caught:
        one.videos.retrieve("task_lost")
    assert caught.value.code == "upstream_error"
