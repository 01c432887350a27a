"""Checks a KubeRay RayJob without a cluster: its keys, the operator's rules, its versions, its command, and room for the recipe.

All problems are reported at once. A key or value that is wrong is taken for what was probably meant, so that the checks that
follow do not complain of the same mistake again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from cluster.placement.fit import Node, PlacementError, check_demands, missing, nodes_listed
from cluster.tasks import PoolSpec
from pipelines.recipe.errors import UserError
from pipelines.recipe.training import Recipe
from pipelines.submitting.manifest.entrypoint import check_entrypoint
from pipelines.submitting.manifest.groups import Group, groups_of
from pipelines.submitting.manifest.rules import broken_rules
from pipelines.submitting.manifest.schema import check_shape
from pipelines.training.groups import STORE_SHARE
from pipelines.training.pools import pool_specs

SUFFIXES = (".yaml", ".yml")
GIB = 2**30
SECRET = re.compile(r"SECRET|(PASSWORD|TOKEN|CREDENTIALS|API_KEY|ACCESS_KEY(_ID)?)$", re.IGNORECASE)
RELEASE = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Checked:
    """What a manifest says and what is wrong with it. `recipe`: None if its command does not tell; `store_bytes`: at the start."""

    recipe: Recipe | None
    problems: list[str]
    warnings: list[str]
    store_bytes: float


def check_manifest(path: Path, recipe: Path | None = None) -> Checked:
    """Checks a RayJob. `recipe`: what it should run. Raises UserError if the file holds no RayJob."""
    problems, manifest = check_shape(read_manifest(path))
    spec = manifest.get("spec", {})
    found, wrong = check_entrypoint(spec, recipe)
    problems += wrong
    if "rayClusterSpec" not in spec:
        return Checked(found, [*problems, "spec.rayClusterSpec: missing; see ray_job.yaml"], [], 0)
    groups = groups_of(spec["rayClusterSpec"])
    problems += [*broken_rules(manifest, groups), *_versions(spec, groups), *_secrets(spec)]
    if unreadable := list(_unreadable(groups)):
        return Checked(found, [*problems, *unreadable], [], 0)
    warnings = [*_head(groups[0]), *_memory(groups)]
    if found:
        try:
            problems += _room(found, groups)
            warnings += _room_to_grow(found, groups)
        except PlacementError as error:
            problems.append(str(error))
    return Checked(found, problems, warnings, sum(group.store_bytes * group.start for group in groups))


def warnings_of_job(job: Checked, recipe: Recipe, bytes_in_flight: int) -> list[str]:
    """The manifest's warnings, and whether its object stores hold the images that may be in flight."""
    wanted = min(bytes_in_flight, recipe.loop.max_bytes_in_flight or bytes_in_flight)
    if wanted <= STORE_SHARE * job.store_bytes:
        return job.warnings
    return [
        *job.warnings,
        f"the object stores hold {job.store_bytes / GIB:.1f} GiB in all, of which images in flight take at most {STORE_SHARE:.0%}, "
        f"but {wanted / GIB:.1f} GiB may be in flight: the loop will pause; raise rayStartParams.object-store-memory",
    ]


def read_manifest(path: Path) -> dict[str, Any]:
    """The RayJob of a YAML file, in which other objects may stand as well. Raises UserError."""
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"no manifest at {path}: give the path of a YAML file, such as ray_job.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    kinds = [it.get("kind") if isinstance(it, dict) else None for it in documents]
    jobs = [it for it, kind in zip(documents, kinds, strict=True) if kind == "RayJob"]
    if len(jobs) != 1:
        listed = ", ".join(str(kind) for kind in kinds) or "nothing"
        raise UserError(f"{path} holds {listed}: it must hold one object with kind: RayJob")
    if jobs[0].get("apiVersion") != "ray.io/v1":
        raise UserError(f"{path}: apiVersion = {jobs[0].get('apiVersion')}: only ray.io/v1 is known here")
    return jobs[0]


def placed_pools(recipe: Recipe) -> list[PoolSpec]:
    """The pools of a run that look for room on the cluster's nodes."""
    return [spec for spec in pool_specs(recipe) if not spec.beside_driver]


def _versions(spec: dict[str, Any], groups: Sequence[Group]) -> Iterator[str]:
    """Ray is spoken of in three places, and all processes of a cluster must have the same."""
    here, told = version("ray"), spec.get("rayClusterSpec", {}).get("rayVersion")
    if told is None:
        yield f"spec.rayClusterSpec.rayVersion: missing; give {here}"
    elif told != here:
        yield f"spec.rayClusterSpec.rayVersion = {told}, but EchoRay runs on Ray {here} here: make them equal"
    images: dict[str, str] = {}
    for group in groups:
        if group.container:
            images.setdefault(group.container.get("image", ""), group.name)
    for image, name in images.items():
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        found = RELEASE.findall(tag.rpartition("ray")[2])
        if not found:
            yield f"{name}: image {image!r}: its tag does not name the version of Ray in it; give such as echoray:0.1.0-ray{here}"
        elif found[0] != here:
            yield f"{name}: image {image!r} has Ray {found[0]}, but EchoRay runs on Ray {here} here: make them equal"


def _secrets(value: Any) -> Iterator[str]:
    """Secrets that anyone who may read the job could read."""
    if isinstance(value, list):
        for item in value:
            yield from _secrets(item)
    elif isinstance(value, dict):
        if value.get("value") and SECRET.search(str(value.get("name", ""))):
            yield f"env {value['name']} is written in plain text: put it into a Secret, and name that in envFrom"
        for key, item in value.items():
            if key == "runtimeEnvYAML" and any(SECRET.search(word) for word in re.findall(r"(\w+)\s*:", item)):
                yield "spec.runtimeEnvYAML holds a secret in plain text: put it into a Secret, and name that in envFrom"
            yield from _secrets(item)


def _room(recipe: Recipe, groups: Sequence[Group]) -> list[str]:
    """What keeps the recipe's workers from the cluster at its largest, or else from the one that it begins with."""
    pools = placed_pools(recipe)
    check_demands(pools)
    largest = _expanded(groups, pools, [group.largest for group in groups])
    if lines := missing(pools, largest):
        return [f"{'; '.join(lines)}. At its largest the cluster has {nodes_listed(pools, largest)}"]
    if recipe.cluster.node_timeout_s:
        return []
    return [
        f"{line}, before the autoscaler has added nodes: raise replicas, or wait for nodes by cluster.node_timeout_s"
        for line in missing(pools, _expanded(groups, pools, [group.start for group in groups]))
    ]


def _room_to_grow(recipe: Recipe, groups: Sequence[Group]) -> list[str]:
    """Pools that could not reach their max, each looked at while the others keep their size."""
    pools, lines = placed_pools(recipe), []
    for at, table in enumerate((recipe.rollout, *recipe.rewards.values())):
        if table.max is None or table.max == table.size:
            continue
        grown = [replace(pool, size=table.max) if number == at else pool for number, pool in enumerate(pools)]
        largest = _expanded(groups, grown, [group.largest for group in groups])
        if missing(pools, largest) == [] and missing(grown, largest):
            lines.append(
                f"{pools[at].name}.max = {table.max}: the cluster cannot have room for so many, even at its largest; "
                "raise maxReplicas or lower it"
            )
    return lines


def _expanded(groups: Sequence[Group], pools: Sequence[PoolSpec], counts: Sequence[int]) -> list[Node]:
    """A node for each pod, the driver's first; no more of a kind than there are workers."""
    workers = sum(pool.size for pool in pools)
    return [group.node for group, count in zip(groups, counts, strict=True) for _ in range(min(count, workers))]


def _unreadable(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        try:
            _ = group.node, group.store_bytes
        except ValueError as error:
            yield f"{group.name}: its resources cannot be read: {error}"


def _head(head: Group) -> Iterator[str]:
    if head.node.resources["GPU"]:
        yield "head: it has GPUs, and the driver, which runs there, needs none: give them to a group of workers"


def _memory(groups: Sequence[Group]) -> Iterator[str]:
    """Of groups whose container is there."""
    for group in [group for group in groups if group.container]:
        held = group.shm_bytes
        if not group.memory:
            yield f"{group.name}: its container has no limit of memory: Ray takes the machine's for its own"
        elif held is None:
            yield (
                f"{group.name}: no volume in memory at /dev/shm: KubeRay adds one of the container's whole memory; "
                "give an emptyDir with medium: Memory and a sizeLimit"
            )
        elif held >= group.memory:
            yield f"{group.name}: /dev/shm may take all of the container's memory: lower its sizeLimit"
        elif held < group.store_bytes:
            yield (
                f"{group.name}: /dev/shm holds {held / GIB:.1f} GiB, less than the object store's {group.store_bytes / GIB:.1f} GiB: "
                "raise its sizeLimit or lower rayStartParams.object-store-memory"
            )
