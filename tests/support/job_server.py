"""A job server on loopback that follows a script: which jobs fail how, when the log's connection drops, which Ray it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from aiohttp import web

LOG = "one\ntwo\nthree\n"


@dataclass
class JobServer:
    """`ends`: (status, exit code) of one job after the other; `drops`: how often a log's connection is cut in the middle."""

    ends: list[tuple[str, int | None]] = field(default_factory=list)
    drops: int = 0
    falls_silent: bool = False  # in the middle of a log
    ray_version: str = ray.__version__
    forgets: bool = False  # jobs that it was given
    breaks: int = 0  # answers of status 500 before the first good one about a job
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    address: str = ""

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": self.ray_version})

    async def package(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({}, status=404 if request.method == "GET" else 200)

    async def submit(self, request: web.Request) -> web.Response:
        given = await request.json()
        status, code = self.ends[len(self.jobs)]
        kept = {name: given[name] for name in ("submission_id", "entrypoint", "metadata")}
        self.jobs[given["submission_id"]] = {"type": "SUBMISSION", "status": status, "driver_exit_code": code, **kept}
        return web.json_response({"job_id": given["submission_id"], "submission_id": given["submission_id"]})

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.jobs.values()))

    async def details(self, request: web.Request) -> web.Response:
        if self.breaks:
            self.breaks -= 1
            raise web.HTTPInternalServerError
        if self.forgets or request.match_info["job"] not in self.jobs:
            raise web.HTTPNotFound
        return web.json_response(self.jobs[request.match_info["job"]])

    async def logs(self, _: web.Request) -> web.Response:
        return web.json_response({"logs": LOG})

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(LOG[:6])
        if self.drops:
            self.drops -= 1
            await asyncio.sleep(0.1)
            assert request.transport is not None
            request.transport.abort()
        elif self.falls_silent:
            await socket.receive()  # until the client leaves
        else:
            await socket.send_str(LOG[6:])
        return socket

    def application(self) -> web.Application:
        """Its routes."""
        application = web.Application(client_max_size=2**30)
        application.router.add_get("/api/version", self.version)
        application.router.add_route("*", "/api/packages/{protocol}/{name}", self.package)
        application.router.add_post("/api/jobs/", self.submit)
        application.router.add_get("/api/jobs/", self.list)
        application.router.add_get("/api/jobs/{job}", self.details)
        application.router.add_get("/api/jobs/{job}/logs", self.logs)
        application.router.add_get("/api/jobs/{job}/logs/tail", self.tail)
        return application


@contextmanager
def job_server(**script: Any) -> Iterator[JobServer]:
    """One that runs in a thread of this process."""
    server, loop, ready = JobServer(**script), asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(server.application())

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    def serve() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
