"""The programs that the README shows, as they stand there but for the address."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

CLIENTS = Path(__file__).resolve().parent.parent
README = (CLIENTS.parent.parent / "README.md").read_text()
GATEWAY = os.environ["GATEWAY_MATCH"]
KEY = "sk-clients"
ENVIRONMENT = os.environ | {"OCTOPUSX_API_KEY": KEY}


def program(language: str) -> str:
    block = README.split(f"```{language}\n")[1].split("```")[0]
    assert "http://127.0.0.1:8080/v1" in block
    return block.replace("http://127.0.0.1:8080", GATEWAY)


def run(command: list[str], text: str) -> str:
    done = subprocess.run(
        command, input=text, cwd=CLIENTS / "node", env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_program_follows_a_task_to_its_end() -> None:
    assert run([sys.executable, "-"], program("python")) == "completed\n"


def test_the_javascript_program_retrieves_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    client = OpenAI(base_url=f"{GATEWAY}/v1", api_key=KEY)
    task = client.videos.create(model="sora-2", prompt="p", extra_body={"simulate": {"lifetime": "1h"}})
    monkeypatch.setitem(ENVIRONMENT, "TASK", task.id)
    assert run(["node", "--input-type=module", "-"], program("javascript")) == "queued\n"
