"""Whether a RayJob has the keys and types of KubeRay's schema: a cluster drops an unknown key in silence, here it is a mistake."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from pipelines.submitting.manifest import kuberay

SCHEMA = json.loads(resources.files(kuberay).joinpath("rayjob_v1.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
SHOWN = 60  # characters of a wrong value
# Errors are Any: jsonschema types the fields of a ValidationError for schemas of every kind.


def check_shape(manifest: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with keys and types, and the manifest as it was probably meant: other checks read that one."""
    meant = _without_nulls(copy.deepcopy(manifest))
    problems: list[str] = []
    while unknown := [error for error in VALIDATOR.iter_errors(meant) if error.validator == "additionalProperties"]:
        for error in unknown:  # a key that gets its right name opens what stands below it
            problems += _mend_keys(error)
    wrong = list(VALIDATOR.iter_errors(meant))
    problems += [_told(error) for error in wrong]
    for error in reversed(wrong):  # backwards, so that items of a list keep their numbers until it is their turn
        _mend_value(meant, error)
    return list(dict.fromkeys(problems)), meant


def _without_nulls(value: Any) -> Any:
    """As Kubernetes takes it: a key without a value is not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _mend_keys(error: Any) -> Iterator[str]:
    table, allowed = error.instance, list(error.schema["properties"])
    for key in [key for key in table if key not in allowed]:
        value = table.pop(key)
        near = difflib.get_close_matches(str(key), allowed, n=1)
        if near:
            table.setdefault(near[0], value)
        hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}"
        yield f"{_place([*error.absolute_path, key])}: no such key; {hint}"


def _told(error: Any) -> str:
    place, schema = _place(error.absolute_path), error.schema
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{place}: {' and '.join(missing)} missing"
    given = json.dumps(error.instance, default=str)
    shown = f"{place} = {given[:SHOWN]}{'...' if len(given) > SHOWN else ''}"
    found = _meant_value(error)
    hint = "" if found is None else f"; write {json.dumps(found)}"
    if error.validator == "enum":
        return f"{shown}: allowed are {', '.join(map(str, schema['enum']))}{hint}"
    if error.validator in ("type", "anyOf"):
        types = [schema["type"]] if "type" in schema else [part["type"] for part in schema["anyOf"]]
        return f"{shown}: it must be of the type {' or '.join(types)}{hint}"
    if error.validator == "pattern" and "[KMGTPE]i" in schema["pattern"]:
        return f"{shown}: it must be a quantity, such as 500m, 4 or 16Gi{hint}"
    return f"{shown}: {error.message}"


def _mend_value(manifest: dict[str, Any], error: Any) -> None:
    if error.validator == "required":
        return
    *parents, last = error.absolute_path or [""]
    table: Any = manifest
    for part in parents:
        table = table[part]
    found = _meant_value(error)
    if found is not None:
        table[last] = found
    elif last != "":
        del table[last]


def _meant_value(error: Any) -> Any:
    """The same value with or without quotes, a quantity without its B, the nearest allowed one; None if that is not valid either."""
    value, found = error.instance, None
    if error.validator == "enum":
        found = next(iter(difflib.get_close_matches(str(value), error.schema["enum"], n=1)), None)
    elif error.validator == "pattern":
        found = value.rstrip("Bb")
    elif isinstance(value, str):
        found = yaml.safe_load(value) if value.isalnum() else None
    elif isinstance(value, bool | int | float):
        found = json.dumps(value)
    return found if found is not None and VALIDATOR.evolve(schema=error.schema).is_valid(found) else None


def _place(path: Sequence[Any]) -> str:
    """Where it stands: spec.rayClusterSpec.workerGroupSpecs[1].minReplicas."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the manifest"
