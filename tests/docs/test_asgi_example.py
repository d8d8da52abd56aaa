"""The client's README has a whole ASGI application: it is served here as an ASGI server serves one."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "client" / "README.md"

Message = dict[str, Any]


@pytest.fixture
def application(server_address: str, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (block,) = re.findall(r"^```python\n((?:(?!^```).)*?async def app\(.*?)^```", README.read_text(), re.M | re.S)
    (tmp_path / "photo.jpg").write_bytes(photograph.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POOLSERVICE_ADDRESS", server_address)
    names: Message = {}
    exec(compile(block, str(README), "exec"), names)
    return names["app"]


def test_the_application_answers(application: Any, photograph: Path) -> None:
    picture = photograph.read_bytes()
    halves = [picture[: len(picture) // 2], picture[len(picture) // 2 :]]
    asyncio.run(_serve(application, halves))


async def _serve(app: Any, halves: list[bytes]) -> None:
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
    to_app.put_nowait({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    status, said = await _post(app, halves)
    assert status == 200
    assert sum(value**2 for value in said["features"]) == pytest.approx(1)
    status, said = await _post(app, halves[:1])
    assert status == 400
    assert "JPEG" in said["error"]
    to_app.put_nowait({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await lifespan


async def _post(app: Any, parts: list[bytes]) -> tuple[int, Message]:
    bodies = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)} for number, part in enumerate(parts, 1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return bodies.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/"}, receive, send)
    start, body = sent
    return start["status"], json.loads(body["body"])
