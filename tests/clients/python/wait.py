"""`Prefer: wait`, through openai-python's own poll loop."""

import os
import subprocess

from openai import DefaultHttpxClient, OpenAI

GATEWAY = os.environ["GATEWAY_MATCH"]
KEY = "sk-clients"
LIFETIME = "10s"


def poll(headers: dict[str, str]) -> tuple[str, int]:
    """Follows a task to its end; the last status, and how many requests that took."""
    requests = []
    counting = DefaultHttpxClient(event_hooks={"request": [requests.append]})
    client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY, default_headers=headers, http_client=counting)
    task = client.videos.create(model="sora-2", prompt="p", extra_body={"simulate": {"lifetime": LIFETIME}})
    requests.clear()
    return client.videos.poll(task.id).status, len(requests)


def test_polls_that_wait_need_a_tenth_of_the_requests() -> None:
    status, plain = poll({})
    assert status == "completed" and plain >= 10
    status, waiting = poll({"Prefer": "wait=20"})
    assert status == "completed" and waiting <= plain / 10, f"{waiting} requests against {plain}"


def test_curl_follows_a_task_over_an_event_stream_to_its_end() -> None:
    client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY)
    task = client.videos.create(model="kling", prompt="p", extra_body={"simulate": {"lifetime": "2s"}})
    headers = ["-H", f"Authorization: Bearer {KEY}", "-H", "Accept: text/event-stream"]
    curl = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "30", *headers, f"{GATEWAY}/v1/videos/{task.id}"],
        capture_output=True, text=True, check=True,
    )
    events = [line for line in curl.stdout.splitlines() if line.startswith("data: ")]
    assert '"status":"completed"' in events[-1] and len(events) > 1, curl.stdout
