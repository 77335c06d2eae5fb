"""Follows simulated tasks through the gateway with openai-python, LiteLLM and plain HTTP, in every shape there is.

`../run` starts what this needs and says where it listens. All journeys are made first, many at once, so that hundreds
of tasks take seconds; what came of each is then told by tests of its own.
"""

import asyncio
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

# LiteLLM would fetch its price list from the Internet.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import openai
import pytest

litellm.suppress_debug_info = True

KEY = "sk-clients"
SIMULATOR = os.environ["SIMULATOR"]
FAULTY_SIMULATOR = os.environ["FAULTY_SIMULATOR"]
GATEWAYS = {
    "match": os.environ["GATEWAY_MATCH"],
    "unified": os.environ["GATEWAY_UNIFIED"],
    "openai": os.environ["GATEWAY_OPENAI"],
    "documented": os.environ["GATEWAY_DOCUMENTED"],
    "faulty": os.environ["FAULTY_GATEWAY"],
}

LIFETIME = "1s"
INTERVAL = 0.1
PATIENCE = 60
AT_ONCE = 24

WAY = ["queued", "in_progress"]
ENDS = {"succeeded": "completed", "failed": "failed"}


def simulator(path: str, base: str = SIMULATOR) -> Any:
    with urllib.request.urlopen(base + path, timeout=PATIENCE) as answer:
        return json.load(answer)


CHANNELS = simulator("/simulator")["channels"]


@dataclass(frozen=True)
class Journey:
    """One task, followed by one client through one gateway."""

    client: str
    gateway: str
    channel: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.client}-{self.gateway}-{self.channel}-{self.outcome}"

    @property
    def base_url(self) -> str:
        return GATEWAYS[self.gateway] + "/v1"

    @property
    def simulate(self) -> dict[str, str]:
        return {"lifetime": "3s" if self.gateway == "faulty" else LIFETIME, "outcome": self.outcome}


@dataclass
class Followed:
    """What a client saw, answer by answer, and what was true when it stopped."""

    id: str
    seen: list[Any] = field(default_factory=list)
    truth: str = ""


def follow(journey: Journey) -> Followed:
    followed = CLIENTS[journey.client](journey)
    base = FAULTY_SIMULATOR if journey.gateway == "faulty" else SIMULATOR
    followed.truth = simulator(f"/simulator/tasks/{followed.id}", base)["truth"]["state"]
    return followed


def until(is_last: Callable[[Any], bool], ask: Callable[[], Any]) -> Iterator[Any]:
    """Asks again and again, up to and with the last answer; within limits."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = ask()
        yield answer
        if is_last(answer):
            return
        time.sleep(INTERVAL)
    raise TimeoutError(f"still {answer} after {PATIENCE} s")


def is_over(video: Any) -> bool:
    return video.status not in WAY


def openai_retrieve(journey: Journey) -> Followed:
    with openai.OpenAI(api_key=KEY, base_url=journey.base_url) as client:
        created = client.videos.create(model=journey.channel, prompt="a cat", extra_body={"simulate": journey.simulate})
        followed = Followed(created.id)
        followed.seen += until(is_over, lambda: client.videos.retrieve(created.id))
    return followed


def openai_poll(journey: Journey) -> Followed:
    with openai.OpenAI(api_key=KEY, base_url=journey.base_url) as client:
        created = client.videos.create(model=journey.channel, prompt="a cat", extra_body={"simulate": journey.simulate})
        return Followed(created.id, [client.videos.poll(created.id)])


# One for all, since LiteLLM keeps to the loop that it first saw.
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def in_the_loop(journey: Coroutine[Any, Any, Followed]) -> Followed:
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(journey, PATIENCE), LOOP).result()


def openai_async(journey: Journey) -> Followed:
    async def follow() -> Followed:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=journey.base_url) as client:
            created = await client.videos.create(
                model=journey.channel, prompt="a cat", extra_body={"simulate": journey.simulate}
            )
            early = await client.videos.retrieve(created.id)
            last = await client.videos.poll(created.id)
            return Followed(created.id, [early, last])

    return in_the_loop(follow())


def litellm_status(journey: Journey) -> Followed:
    at = {"api_base": journey.base_url, "api_key": KEY}
    created = litellm.video_generation(
        prompt="a cat", model=f"openai/{journey.channel}", extra_body={"simulate": journey.simulate}, **at
    )
    followed = Followed(litellm_id(created))
    followed.seen += until(is_over, lambda: litellm.video_status(video_id=created.id, **at))
    for video in followed.seen:
        video.id = litellm_id(video)
    return followed


def litellm_async(journey: Journey) -> Followed:
    at = {"api_base": journey.base_url, "api_key": KEY, "custom_llm_provider": "openai"}

    async def follow() -> Followed:
        followed = Followed(await asyncio.to_thread(create, journey))
        while not followed.seen or not is_over(followed.seen[-1]):
            followed.seen.append(await litellm.avideo_status(video_id=followed.id, **at))
            await asyncio.sleep(INTERVAL)
        for video in followed.seen:
            video.id = litellm_id(video)
        return followed

    return in_the_loop(follow())


def litellm_id(video: Any) -> str:
    """LiteLLM hands out ids of its own, with the real one inside."""
    return litellm.decode_video_id_with_provider(video.id)["video_id"]


def plain(journey: Journey) -> Followed:
    """Plain HTTP on the unified path."""
    followed = Followed(create(journey))
    followed.seen += until(
        lambda document: document["data"]["status"].lower() in UNIFIED_ENDS,
        lambda: get(f"{journey.base_url}/video/generations/{followed.id}"),
    )
    return followed


UNIFIED_ENDS = {"succeeded": "succeeded", "success": "succeeded", "failed": "failed", "failure": "failed"}


def create(journey: Journey, key: str = KEY) -> str:
    body = {"model": journey.channel, "prompt": "a cat", "simulate": journey.simulate}
    return get(f"{journey.base_url}/video/generations", json.dumps(body).encode(), key)["task_id"]


def get(url: str, body: bytes | None = None, key: str = KEY) -> Any:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=PATIENCE) as answer:
        assert answer.headers["content-type"] == "application/json"
        return json.load(answer)


def openai_under_faults(journey: Journey) -> Followed:
    """Without retries, so that every failure would show; only the first good answer may take several tries."""
    # A key of its own: a 429 is a pause for all who share one.
    key = f"sk-{journey.channel}+{journey.outcome}"
    with openai.OpenAI(api_key=key, base_url=journey.base_url, max_retries=0) as client:
        followed = Followed(create(journey, key))
        deadline = time.monotonic() + PATIENCE
        while not followed.seen:
            assert time.monotonic() < deadline
            try:
                followed.seen.append(client.videos.retrieve(followed.id))
            except openai.APIError:
                time.sleep(INTERVAL)
        followed.seen += until(is_over, lambda: client.videos.retrieve(followed.id))
    return followed


CLIENTS = {
    "openai-retrieve": openai_retrieve,
    "openai-poll": openai_poll,
    "openai-async": openai_async,
    "litellm": litellm_status,
    "litellm-async": litellm_async,
    "plain": plain,
    "openai-under-faults": openai_under_faults,
}


def journeys(clients: list[str], gateways: list[str]) -> list[Journey]:
    return [
        Journey(client, gateway, channel, outcome)
        for client in clients
        for gateway in gateways
        for channel in CHANNELS
        for outcome in ENDS
    ]


OPENAI_PATH = journeys(
    ["openai-retrieve", "openai-poll", "openai-async", "litellm", "litellm-async"], ["match"]
) + journeys(["openai-retrieve", "litellm"], ["unified", "openai", "documented"])
UNIFIED_PATH = journeys(["plain"], ["match", "unified", "openai", "documented"])
UNDER_FAULTS = journeys(["openai-under-faults"], ["faulty"])


# Where upstream's own bytes go through, they go through with what is odd about them.
UNTOUCHED = ("match", "openai")
WITHOUT_A_REASON = ("row", "gemini", "vertex", "old-row", "bare", "nested")
IN_MILLISECONDS = ("kling",)


def each(journeys: list[Journey], odd: tuple[str, ...] = (), reason: str = "") -> pytest.MarkDecorator:
    """A test for each journey; of channels with odd documents that go through untouched it is known to fail."""
    known = pytest.mark.xfail(reason=reason, strict=True)
    return pytest.mark.parametrize(
        "journey",
        [
            pytest.param(journey, marks=known) if journey.channel in odd and journey.gateway in UNTOUCHED else journey
            for journey in journeys
        ],
        ids=str,
    )


@pytest.fixture(scope="session")
def done(request: pytest.FixtureRequest) -> dict[Journey, Future[Followed]]:
    """All journeys that the selected tests are about, done."""
    wanted = dict.fromkeys(
        item.callspec.params["journey"]
        for item in request.session.items
        if "journey" in getattr(item, "fixturenames", ())
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {journey: pool.submit(follow, journey) for journey in wanted}


@pytest.fixture
def followed(journey: Journey, done: dict[Journey, Future[Followed]]) -> Followed:
    return done[journey].result()


@each(OPENAI_PATH + UNDER_FAULTS)
def test_a_task_is_followed_to_its_true_end(journey: Journey, followed: Followed) -> None:
    statuses = [video.status for video in followed.seen]
    assert statuses[-1] == ENDS[journey.outcome]
    assert followed.truth == journey.outcome
    assert statuses == sorted(statuses, key=[*WAY, *ENDS.values()].index)


@each(OPENAI_PATH + UNDER_FAULTS)
def test_every_document_has_the_types_of_the_openai_schema(journey: Journey, followed: Followed) -> None:
    for video in followed.seen:
        assert video.id == followed.id
        assert video.object == "video"
        assert type(video.progress) is int and 0 <= video.progress <= 100
        assert type(video.created_at) is int
        assert type(video.completed_at) in (int, type(None))
        assert type(video.expires_at) in (int, type(None))
        assert type(video.model) is str
        assert type(video.seconds) in (str, type(None))
        assert type(video.size) in (str, type(None))


@each(OPENAI_PATH + UNDER_FAULTS)
def test_only_a_failure_has_an_error(journey: Journey, followed: Followed) -> None:
    assert all(video.error is None for video in followed.seen if video.status != "failed")


@each(
    [journey for journey in OPENAI_PATH if journey.outcome == "failed"],
    odd=WITHOUT_A_REASON,
    reason="upstream's object fails without an error, and faithful rendering leaves it so",
)
def test_a_failure_says_why(journey: Journey, followed: Followed) -> None:
    error = followed.seen[-1].error
    assert error is not None
    message = error["message"] if isinstance(error, dict) else error.message
    assert type(message) is str and message


@each(
    OPENAI_PATH,
    odd=IN_MILLISECONDS,
    reason="upstream's object has its times in milliseconds, and faithful rendering leaves them so",
)
def test_times_are_in_seconds(journey: Journey, followed: Followed) -> None:
    for video in followed.seen:
        for moment in (video.created_at, video.completed_at):
            assert moment is None or abs(moment - time.time()) < 600


@each([journey for journey in OPENAI_PATH if journey.gateway not in UNTOUCHED])
def test_nothing_is_completed_before_its_end(journey: Journey, followed: Followed) -> None:
    """Where upstream's own bytes go through, most channels do have a `completed_at` from the beginning."""
    assert all(video.completed_at is None for video in followed.seen if not is_over(video))


@each(UNIFIED_PATH)
def test_the_wrapper_leads_to_the_true_end(journey: Journey, followed: Followed) -> None:
    tasks = [document["data"] for document in followed.seen]
    assert {document["code"] for document in followed.seen} == {"success"}
    assert UNIFIED_ENDS[tasks[-1]["status"].lower()] == journey.outcome == followed.truth
    assert {task.get("task_id", followed.id) for task in tasks} == {followed.id}
    if journey.gateway == "documented":
        for task in tasks:
            assert list(task) == ["task_id", "status", "url", "format", "metadata", "error"]
            assert task["status"] in ("queued", "processing", "succeeded", "failed")
            assert (task["error"] is not None) == (task["status"] == "failed")
        assert tasks[-1]["url"].startswith("http") == (journey.outcome == "succeeded")


@pytest.mark.parametrize("gateway", [name for name in GATEWAYS if name != "faulty"])
def test_a_missing_task_is_not_found(gateway: str) -> None:
    with openai.OpenAI(api_key=KEY, base_url=GATEWAYS[gateway] + "/v1", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            client.videos.retrieve("task_nonesuch")
    assert caught.value.code == "task_not_exist"
    assert caught.value.request_id
    assert caught.value.body["message"]


@pytest.mark.parametrize("channel", ["documented", "sora-2", "sora-raw", "seedance-2", "openai-on-unified", "fork"])
def test_a_strict_check_of_the_schema_holds_where_upstream_tells_length_and_size(channel: str) -> None:
    """Elsewhere `seconds` and `size` are null or missing, which the schema does not know."""
    at = {"api_key": KEY, "base_url": GATEWAYS["match"] + "/v1"}
    with openai.OpenAI(_strict_response_validation=True, **at) as strict, openai.OpenAI(**at) as client:
        for status in ("QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"):
            created = client.videos.create(
                model=channel, prompt="a cat", size="1280x720", extra_body={"simulate": {"status": status}}
            )
            assert strict.videos.retrieve(created.id).id == created.id


@pytest.mark.parametrize("task", ["video_abc==", "a:b@c,d;e", "a/b", "a b?c#d", "一只猫🐈", "x" * 500])
def test_any_id_is_asked_for_as_it_is(task: str) -> None:
    with openai.OpenAI(api_key=KEY, base_url=GATEWAYS["match"] + "/v1") as client:
        client.videos.create(
            model="sora-raw", prompt="a cat", extra_body={"simulate": {"id": task, "status": "SUCCESS"}}
        )
        video = client.videos.retrieve(task)
    assert (video.id, video.status) == (task, "completed")


@pytest.mark.parametrize("client", ["openai-retrieve", "litellm", "litellm-async"])
def test_tasks_are_seen_on_their_way(client: str, done: dict[Journey, Future[Followed]]) -> None:
    journeys = [journey for journey in done if journey.client == client]
    seen = {video.status for journey in journeys for video in done[journey].result().seen}
    assert not journeys or seen == {*WAY, *ENDS.values()}
