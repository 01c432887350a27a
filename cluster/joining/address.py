"""What is asked of an address before Ray joins the cluster there: Ray itself would try for minutes, and then not say what is wrong."""

from __future__ import annotations

import os
import socket

import grpc
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from cluster.errors import UserError

ASK_S = 5.0


class CannotJoin(UserError):
    """No cluster can be joined at an address; the text names it, where it came from, and says what to check."""


def check_address(address: str, source: str) -> None:
    """Raises CannotJoin unless something listens at HOST:PORT, which the user gave as `source`."""
    if address.startswith(("http://", "https://")):
        raise CannotJoin(
            f"{source} is {address}, the address of a job server. A run joins the cluster's GCS: give HOST:PORT, by default "
            f"port 6379; or send the run as a job, with python -m pipelines.submit --address {address}"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise CannotJoin(
            f"{source} is {address!r}, which is no address: give HOST:PORT of a Ray cluster, such as 10.0.0.1:6379"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ASK_S).close()
    except socket.gaierror as error:
        raise CannotJoin(
            f"{source} is {address}, but the name {host} is not known here ({error.strerror}): check its spelling, and the DNS"
        ) from error
    except OSError as error:
        raise CannotJoin(
            f"no Ray cluster answers at {address} ({source}; {error}): check that its head runs (ray status --address "
            f"{address}), that the address is right, and that its port is reached from here"
        ) from error


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    try:
        check_address(address, "")
    except CannotJoin:
        return False
    return True


def lets_in(address: str, source: str, token: str = "") -> bool:
    """Whether the GCS at HOST:PORT lets one in who has this token, or none.

    Raises CannotJoin if what answers there is no GCS, or one of another version of Ray.
    """
    headers = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        try:
            reply = stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=ASK_S, metadata=headers)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise CannotJoin(
                f"something answers at {address} ({source}), but it is no Ray cluster's GCS ({error.code().name}): check the "
                "port (by default 6379; 8265 is the dashboard's, 10001 the client's), and whether the head hangs"
            ) from error
    if reply.ray_version != ray.__version__:
        raise CannotJoin(
            f"the cluster at {address} ({source}) runs Ray {reply.ray_version}, but here is Ray {ray.__version__}: "
            "install the same on both"
        )
    return True


def speaks_plainly() -> bool:
    """Whether Ray talks without TLS here, so that `lets_in` can ask as it does."""
    return os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true")
