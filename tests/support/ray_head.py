"""A real Ray cluster for tests: a head with token authentication, dashboard and metrics, and nodes that can lose their power.

    with ray_head() as head:
        node = add_node(head, resources={"easel": 1})
        subprocess.run(["ray", "job", "list", "--address", head.job_address], env=head.env)
        node.kill()

Each node has an address on loopback, ports and a temporary folder of its own. Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import requests

from tests.support.faults_world import Process, descendants, look_at

HEAD_IP = "127.0.0.2"  # Ray takes 127.0.0.1 for the machine's address on its network
PATIENCE_S = 180.0
TRIES = 3  # a port that was free may be taken by the time that Ray binds it
STORE_BYTES = 150_000_000
MARK = "ECHORAY_TEST_NODE"
STARTED = "Ray runtime started."
# Ray would miss a node after some seconds more
NOTICED_SOON = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}


@dataclass(frozen=True)
class Node:
    """A node: its processes, its folder, and where it serves its metrics to Prometheus (http://IP:METRICS_PORT/metrics)."""

    process: subprocess.Popen[bytes]
    mark: str
    folder: Path
    ip: str
    metrics_port: int

    def processes(self) -> list[Process]:
        """All that runs on it, the drivers of its jobs too."""
        marked = [process for process in map(look_at, _marked(self.mark)) if process]
        below = [process for root in marked for process in descendants(root.pid)]
        return list({(process.pid, process.started): process for process in [*marked, *below]}.values())

    def kill(self) -> None:
        """SIGKILL to all that runs on it, as when its power goes."""
        while alive := [process for process in self.processes() if process.alive]:
            for process in alive:
                process.kill()
            time.sleep(0.02)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Head(Node):
    """The head: where its jobs and its GCS are reached, and the whole environment of a process that may reach them."""

    job_address: str  # http://HOST:PORT
    gcs_address: str  # HOST:PORT
    env: dict[str, str]
    nodes: list[Node] = field(default_factory=list)

    def jobs(self) -> dict[str, dict]:
        """What the job server knows of the jobs that were submitted, by submission id."""
        listed = self.ask("api/jobs/", timeout=30).json()
        return {job["submission_id"]: job for job in listed if job["type"] == "SUBMISSION"}

    def ask(self, path: str, timeout: float) -> requests.Response:
        """The dashboard, with the token."""
        token = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        return requests.get(f"{self.job_address}/{path}", headers=token, timeout=timeout)


AnyNode = TypeVar("AnyNode", bound=Node)


@contextmanager
def ray_head(
    num_cpus: int = 4, resources: Mapping[str, float] | None = None, labels: Mapping[str, str] | None = None
) -> Iterator[Head]:
    """A cluster of a head only. When it ends, so do all processes of all its nodes."""
    env = environment(token=uuid.uuid4().hex)
    head = _try_often(lambda: _start_head(env, _place(num_cpus, resources, labels)))
    try:
        yield head
    finally:
        for node in [*head.nodes, head]:
            node.kill()


def add_node(
    head: Head, num_cpus: int = 2, resources: Mapping[str, float] | None = None, labels: Mapping[str, str] | None = None
) -> Node:
    """A further node, once it has joined. It ends with the head, if not before."""
    ip = f"127.0.0.{len(head.nodes) + 3}"
    options = [f"--address={head.gcs_address}", *_place(num_cpus, resources, labels)]
    head.nodes.append(_try_often(lambda: _start(head.env, ip, options)))
    return head.nodes[-1]


def environment(token: str) -> dict[str, str]:
    """The environment of this process, less what it says of Ray, for a cluster with this token; `python` and `ray` are ours."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **others,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), others.get("PATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "COLUMNS": "200",
    }


def free_ports(count: int, ip: str) -> list[int]:
    """Ports at which nothing listens now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind((ip, 0))
        return [it.getsockname()[1] for it in sockets]


def _start_head(env: dict[str, str], place: list[str]) -> Head:
    gcs, dashboard, client = free_ports(3, HEAD_IP)
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    options = ["--head", "--include-dashboard=true", f"--dashboard-host={HEAD_IP}", *ports, *place]
    node = _start(env, HEAD_IP, [*options, f"--system-config={json.dumps(NOTICED_SOON)}"])
    head = Head(**vars(node), job_address=f"http://{HEAD_IP}:{dashboard}", gcs_address=f"{HEAD_IP}:{gcs}", env=env)
    _wait(head, lambda: _answers(head), "its dashboard does not answer")
    return head


def _start(env: dict[str, str], ip: str, options: list[str]) -> Node:
    folder, mark = Path(tempfile.mkdtemp(prefix="ray-")), uuid.uuid4().hex
    agent_port, metrics_port = free_ports(2, ip)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={ip}"),
        *(f"--temp-dir={folder}", f"--object-store-memory={STORE_BYTES}"),
        *(f"--dashboard-agent-listen-port={agent_port}", f"--metrics-export-port={metrics_port}"),
        *options,
    ]
    with (folder / "said.log").open("wb") as said:
        process = subprocess.Popen(command, env={**env, MARK: mark}, cwd=folder, stdout=said, stderr=said)
    node = Node(process, mark, folder, ip, metrics_port)
    _wait(node, lambda: STARTED in _said(node), "it does not start")
    return node


def _place(num_cpus: int, resources: Mapping[str, float] | None, labels: Mapping[str, str] | None) -> list[str]:
    words = [f"--num-cpus={num_cpus}", f"--resources={json.dumps(dict(resources or {}))}"]
    return words + ([f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}"] if labels else [])


def _wait(node: Node, condition: Callable[[], bool], what: str) -> None:
    """Raises RuntimeError, with what the node said, and kills it, if it ends or takes too long."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if node.process.poll() is not None or time.monotonic() > give_up:
            said = _said(node)
            node.kill()
            raise RuntimeError(f"a Ray node for tests: {what}. It said:\n{said}")
        time.sleep(0.1)


def _try_often(start: Callable[[], AnyNode]) -> AnyNode:
    for _ in range(TRIES - 1):
        try:
            return start()
        except RuntimeError:
            continue
    return start()


def _answers(head: Head) -> bool:
    try:
        return head.ask("api/jobs/", timeout=5).ok
    except requests.RequestException:
        return False


def _said(node: Node) -> str:
    return (node.folder / "said.log").read_text(errors="replace")


def _marked(mark: str) -> Iterator[int]:
    """The processes that were started with this mark."""
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if f"{MARK}={mark}".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                yield int(entry)
        except OSError:  # it has just ended, or is not ours to see
            continue
