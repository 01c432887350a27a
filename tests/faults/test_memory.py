"""Payloads ten times as large as the object store: the run pauses admission instead of filling it, and its result is the same.

Its Ray is its own, of which nothing is left either.
"""

from __future__ import annotations

from tests.faults.conftest import Reference, Start
from tests.faults.harness import digest_of, eventually_nothing, still_alive
from tests.faults.padded_run import BYTES_PER_IMAGE
from tests.support.faults_world import descendants

STORE_MB = 200


def test_payloads_of_ten_object_stores_go_through_one(start: Start, reference: Reference) -> None:
    length = {"loop__steps": 28, "loop__staleness": 2}
    run = start(address="", program="tests.faults.padded_run", cluster__object_store_mb=STORE_MB, **length)
    run.reach(1)
    below = descendants(run.process.pid)
    assert len(below) >= 8, "Ray's own as well"
    assert digest_of(run) == reference(**length)
    assert eventually_nothing(lambda: still_alive(below)) == []
    store = STORE_MB * 2**20
    assert run.folder.read_summary()["images"] * BYTES_PER_IMAGE > 10 * store
    metrics = run.folder.read_metrics()
    assert max(record.paused_s or 0 for record in metrics) > 0
    assert 0 < max(record.bytes_in_flight for record in metrics) < store
