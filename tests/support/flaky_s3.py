"""An S3 on loopback, moto's, that misbehaves on request: it denies, is too busy, hangs, or breaks off, for the next so many requests.

    server = FlakyS3()                                  # in a test: the fixture `flaky_s3`, the server behind `s3`
    server.fail(2)                                      # the next two requests get 503 SlowDown
    server.fail(1, status=500, request="PUT /runs/a/")  # the next PUT below runs/a/
    server.fail(status=403)                             # all of them are denied, until `server.calm()`
    server.hang(30.0, times=1, request="GET")           # no answer for so long
    server.reset(1), server.cut(1)                      # a connection that is reset; an answer that ends in its middle
    server.requests                                     # "PUT /runs/a/manifest.json", ... all that were made, with their query

`request` is a part of such a line; of several moods the first that fits and is not used up counts.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

CODES = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset

Environ = dict[str, Any]
Answer = Callable[[Environ, Callable], Iterable[bytes]]


@dataclass
class Mood:
    """What happens to the next `times` requests that `request` is a part of."""

    answer: Answer
    times: float
    request: str


class FlakyS3:
    """The server, and what it is told to do wrong. It listens from the start until `close`."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._moods: list[Mood] = []
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=MotoRequestHandler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, times: float = math.inf, status: int = 503, request: str = "") -> None:
        """Requests are answered with an error."""
        self._moods.append(Mood(_error(status), times, request))

    def hang(self, seconds: float, times: float = math.inf, request: str = "") -> None:
        """Requests are answered after so long, or when the server is calmed."""

        def answer(environ: Environ, start_response: Callable) -> Iterable[bytes]:
            self._awake.wait(seconds)
            return self._moto(environ, start_response)

        self._moods.append(Mood(answer, times, request))

    def reset(self, times: float = math.inf, request: str = "") -> None:
        """Connections are reset before the answer."""
        self._moods.append(Mood(_reset, times, request))

    def cut(self, times: float = math.inf, request: str = "") -> None:
        """Requests are carried out, and their answers break off in the middle."""

        def answer(environ: Environ, start_response: Callable) -> Iterable[bytes]:
            return _half(b"".join(self._moto(environ, start_response)), environ)

        self._moods.append(Mood(answer, times, request))

    def calm(self) -> None:
        """Forgets what it was told, and the requests so far."""
        with self._lock:
            self._moods.clear()
            self.requests.clear()
        self._awake.set()
        self._awake = threading.Event()

    def close(self) -> None:
        """Ends the server."""
        self.calm()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, environ: Environ, start_response: Callable) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING")
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}" + (f"?{query}" if query else "")
        with self._lock:
            self.requests.append(line)
            mood = next((mood for mood in self._moods if mood.times > 0 and mood.request in line), None)
            if mood:
                mood.times -= 1
        return (mood.answer if mood else self._moto)(environ, start_response)


def _error(status: int) -> Answer:
    def answer(environ: Environ, start_response: Callable) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        text = f"<Error><Code>{CODES[status]}</Code><Message>a mood of the server</Message></Error>".encode()
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else text
        start_response(f"{status} {CODES[status]}", [("Content-Type", "application/xml")])
        return [body]

    return answer


def _reset(environ: Environ, start_response: Callable) -> Iterable[bytes]:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()
    raise ConnectionResetError


def _half(body: bytes, environ: Environ) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
