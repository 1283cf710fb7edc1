"""What several files here use: a tiny model, its examples as tokens, folders of every family, adapters of them, and a
chat model at an address."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# Torch is imported in the fixtures that need it: some files here can do without.


@pytest.fixture
def tokens_once(monkeypatch):
    """An example is tokenised once for all experts."""
    from lora_reuse.llm.adapters import training as experts
    from tests.llm.training import ONCE

    monkeypatch.setattr(experts, "example", ONCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model whose words are those of `tests.llm.training`."""
    from tests.llm.tiny import tiny
    from tests.llm.training import TEXT

    return tiny("qwen2", tmp_path_factory.mktemp("qwen2"), text=TEXT)


@pytest.fixture(scope="module")
def base(folder):
    """It, as it is read."""
    from lora_reuse.llm.decoding.models import load_base

    return load_base(str(folder))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A family's folder by its name; made once, so copy it before writing in it."""
    from tests.llm.tiny import tiny

    made = {}

    def get(family):
        if family not in made:
            made[family] = tiny(family, tmp_path_factory.mktemp(family), chat=family == "qwen2", bos=family == "llama")
        return made[family]

    return get


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A family's base and two adapters of it by the family's name; made once."""
    from tests.llm.composed import Made, adapter
    from tests.llm.tiny import tiny

    known: dict[str, Made] = {}

    def make(family: str) -> Made:
        if family not in known:
            folder = tmp_path_factory.mktemp(family)
            base = tiny(family, folder / family)
            known[family] = Made(base, (adapter(base, folder / "a", 1), adapter(base, folder / "b", 2)))
        return known[family]

    return make


class Stub(NamedTuple):
    """A local server that answers like a chat model, and what it was asked."""

    url: str
    asked: list[dict[str, Any]]
    headers: list[dict[str, str]]


@pytest.fixture
def stub() -> Iterator[Callable[[Callable[[list[dict[str, str]], int], str | int]], Stub]]:
    """Starts a server that answers by a function of the messages and of how many came before; a number is a status."""
    servers = []

    def start(answer: Callable[[list[dict[str, str]], int], str | int]) -> Stub:
        asked, headers = [], []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                said = answer(body["messages"], len(asked))
                asked.append(body | {"path": self.path})
                headers.append(dict(self.headers))
                whole = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
                whole = b"not now" if isinstance(said, int) else whole if said else b"{}"
                self.send_response(said if isinstance(said, int) else 200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole)

            def log_message(self, format: str, *args: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return Stub(f"http://127.0.0.1:{server.server_port}/v1", asked, headers)

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
