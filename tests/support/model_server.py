"""A small server on loopback that speaks as much of OpenAI's API as is asked of it, well or badly, as it is told."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WELL = "well"
LISTED = {"Yes": 0.5, " yes": 0.25, "No": 0.25}


class ModelServer:
    """What was asked and how; `moods` are how the next requests are answered, and `WELL` all after them."""

    def __init__(self, moods: Sequence[str] = ()) -> None:
        self.moods, self.lock = list(moods), threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.now = self.most = 0
        self.pause_s, self.listed, self.base_url = 0.0, dict(LISTED), ""

    def begin(self, body: dict[str, Any], key: str) -> str:
        """The mood for this request."""
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.now += 1
            self.most = max(self.most, self.now)
            return self.moods.pop(0) if self.moods else WELL

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer."""
        asked = json.dumps([body["messages"], body.get("seed")]).encode()
        text = f"a picture of {hashlib.sha256(asked).hexdigest()[:8]}"
        top = [{"token": token, "logprob": math.log(p)} for token, p in self.listed.items()]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "Yes", "logprob": top[0]["logprob"], "top_logprobs": top}]}
        answer: dict[str, Any] = {"id": "1", "choices": [choice], "usage": {"completion_tokens": 4}}
        if "prompt_logprobs" in body:
            answer["prompt_logprobs"] = prompt_log_probs(body)
        return answer


def prompt_log_probs(body: dict[str, Any]) -> list[dict[str, Any] | None]:
    """As vLLM tells them: a token a word, four for an image; what follows an image is the less likely the brighter its URL's hash."""
    tokens: list[str] = []
    seen = 0
    for message in body["messages"]:
        tokens.append(f"<{message['role']}>")
        parts = message["content"]
        for part in [{"text": parts}] if isinstance(parts, str) else parts:
            if "image_url" in part:
                seen += hashlib.sha256(part["image_url"]["url"].encode()).digest()[0]
                tokens += ["<image>"] * 4
            else:
                tokens += [" " * bool(place) + word for place, word in enumerate(part["text"].split())]
    if body.get("add_generation_prompt", True):
        tokens.append("<assistant>")
    elif not body.get("continue_final_message"):
        tokens.append("<end>")
    return [None] + [
        {str(sum(token.encode())): {"logprob": -len(token) / 10 - seen / 1000, "rank": 1, "decoded_token": token}}
        for token in tokens
    ]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing is said."""

    def do_POST(self) -> None:
        told: ModelServer = self.server.told
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers.get("Authorization", "")
        mood = told.begin(body, key)
        try:
            time.sleep(told.pause_s)
            self._respond(mood, json.dumps(told.answer(body)).encode(), key)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone
        finally:
            with told.lock:
                told.now -= 1

    def _respond(self, mood: str, whole: bytes, key: str) -> None:
        match mood:
            case "well":
                self._send(200, whole)
            case "429":
                self._send(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.01"})
            case "500" | "503":
                self._send(int(mood), b"Internal Server Error")
            case "400" | "401" | "404":
                self._send(int(mood), json.dumps({"error": {"message": f"not with {key}"}}).encode())
            case "half JSON":
                self._send(200, whole[: len(whole) // 2])
            case "half a body":
                self._send(200, whole[: len(whole) // 2], {"Content-Length": str(len(whole))})
                self.close_connection = True
            case "nothing":
                self._send(200, b"")
            case "no content":
                self._send(200, b'{"choices": [{"message": {"role": "assistant", "content": ""}}]}')
            case "garbage":
                self._send(200, b"<html>It works!</html>")
            case "another shape":
                self._send(200, b'{"result": "a picture"}')
            case "no numbers":
                self._send(200, whole.replace(b'"logprob": -', b'"logprob": -1e999, "was": -'))
            case "hangs up":
                self.close_connection = True
            case "slow":
                time.sleep(0.6)
                self._send(200, whole)
            case "drips":
                self.send_response(200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                for place in range(8):
                    self.wfile.write(whole[place : place + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
                self.close_connection = True

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def model_server(moods: Sequence[str] = ()) -> Iterator[ModelServer]:
    """A server that is there within it."""
    told = ModelServer(moods)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads, http.told = True, told  # type: ignore[attr-defined]
    told.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
