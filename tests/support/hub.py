"""A hub on loopback that gives the toy models, and refuses others as the real one does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.cases import TOY_MODELS

REFUSED = {"someone/gated": (403, "GatedRepo"), "someone/unknown": (404, "RepoNotFound")}
GIVEN = {"toy/image": TOY_MODELS / "image", "toy/judge": TOY_MODELS / "judge"}
REVISION = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """The few answers that a download needs: what a model holds, and its files."""

    def do_GET(self) -> None:
        name = next((name for name in (*REFUSED, *GIVEN) if name in self.path), None)
        if name is None:
            return self._answer(404, b"", {})
        if name in REFUSED:
            code, error = REFUSED[name]
            return self._answer(code, b"", {"X-Error-Code": error})
        folder = GIVEN[name]
        if self.path.startswith("/api/"):
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
            if "/tree/" in self.path:
                entries = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": n} for n in names]
                return self._answer(200, json.dumps(entries).encode(), {})
            body = {"id": name, "sha": REVISION, "siblings": [{"rfilename": file} for file in names]}
            return self._answer(200, json.dumps(body).encode(), {})
        content = (folder / self.path.split(f"/resolve/{REVISION}/")[1]).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION})

    do_HEAD = do_GET

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While it runs, it is this process's hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield
    server.shutdown()
    server.server_close()


def snapshot(cache: Path, name: str) -> Path:
    """Where a download leaves a model."""
    return cache / f"models--{name.replace('/', '--')}" / "snapshots" / REVISION
