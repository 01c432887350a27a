"""The dashboard and the alerts name metrics that there are, with the tags that these have, and leave none out by mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.monitoring.metric_table import TABLE

HERE = Path(__file__).parents[3] / "pipelines" / "monitoring" / "grafana"
TAGS = {f"ray_{metric.name}" + "_total" * (metric.kind == "counter"): metric.tags for metric in TABLE}
NOT_SHOWN = {"ray_echoray_ended_time"}  # it is there for an alert
OF_RAY = {"ray_object_store_memory": {"Location"}, "ray_node_gram_used": {"instance", "GpuIndex"}}


def dashboard() -> dict[str, Any]:
    return json.loads((HERE / "echoray.json").read_text())


def targets() -> Iterator[tuple[str, str]]:
    """(expression, legend) of everything that is drawn."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], target["legendFormat"]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"]
    return group["rules"]


def metrics_of(expression: str) -> list[str]:
    return re.findall(r"ray_\w+", expression)


def tags_of(expression: str) -> set[str]:
    """The tags by which an expression tells its series apart."""
    return {tag.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for tag in by.split(",")}


@pytest.mark.parametrize(("expression", "legend"), list(targets()))
def test_what_is_drawn_exists_and_is_told_apart_by_its_tags(expression: str, legend: str) -> None:
    (name,) = metrics_of(expression)
    tags = OF_RAY.get(name) or set(TAGS[name])
    assert tags_of(expression) == tags
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) == tags
    assert name in OF_RAY or '{run=~"$run"}' in expression


def test_every_metric_is_drawn_or_said_not_to_be() -> None:
    drawn = {name for expression, _ in targets() for name in metrics_of(expression)}
    assert drawn == (TAGS.keys() - NOT_SHOWN) | OF_RAY.keys()


def test_the_rows_are_the_groups_of_the_table_and_the_panels_stand_side_by_side() -> None:
    panels = dashboard()["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == list(dict.fromkeys(metric.group for metric in TABLE))
    group = {f"ray_{metric.name}": metric.group for metric in TABLE}
    row = ""
    for panel in panels:
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", []):
            (name,) = metrics_of(target["expr"])
            assert group.get(name.removesuffix("_total"), row) == row
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(places)) == len(panels)
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "run"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_names_metrics_that_exist_and_explains_itself(rule: dict[str, Any]) -> None:
    names = metrics_of(rule["expr"])
    assert names
    assert set(names) <= TAGS.keys()
    assert tags_of(rule["expr"]) <= {tag for name in names for tag in TAGS[name]}
    words = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", words)) <= tags_of(rule["expr"])
    assert rule["alert"] in (HERE.parents[2] / "docs" / "monitoring.md").read_text()
