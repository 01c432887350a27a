"""The watcher behind Prometheus and Grafana: a run's figures as Ray metrics, from the driver's process alone."""

from __future__ import annotations

import time

from cluster.metrics import Publisher
from pipelines.monitoring.metric_table import TABLE, Source, figures
from pipelines.monitoring.watchers import Record, Watcher
from pipelines.run_folder.records import HeldoutRecord, StepRecord

STATUS_EVERY_S = 1.0


class RayMetrics(Watcher):
    """Publishes the table's metrics, tagged with the run's name."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._publisher = Publisher(TABLE)
        self._status: Record = {}
        self._status_at = 0.0

    def status(self, status: Record) -> None:
        self._status = status
        now = time.monotonic()
        if now >= self._status_at:
            self._status_at = now + STATUS_EVERY_S
            self._publish("status", status)

    def step(self, record: StepRecord) -> None:
        self._publish("step", record.line())

    def heldout(self, record: HeldoutRecord) -> None:
        self._publish("heldout", record.line())

    def close(self) -> None:
        self._publish("status", {**self._status, "ended": time.time()})

    def _publish(self, source: Source, record: Record) -> None:
        for metric, keys, value in figures(source, record):
            labels = dict(zip(metric.labels, keys, strict=True))
            self._publisher.publish(metric.name, value, {"run": self.run, **labels})
