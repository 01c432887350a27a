"""Makes rayjob_v1.json, which is shipped, from the RayJob CRD of a KubeRay release.

    python -m pipelines.submitting.manifest.kuberay.derive ray.io_rayjobs.yaml > pipelines/submitting/manifest/kuberay/rayjob_v1.json

Kubernetes prunes keys that it does not know. Here they are errors, so that a typo is found before the manifest is applied.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
KEPT = (
    "type",
    "enum",
    "pattern",
    "required",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "anyOf",
)
SHARED_FROM = 300  # characters of JSON: what is longer and stands in several places is written once


def derive(crd: Schema) -> Schema:
    """The JSON schema of version v1, strict and without descriptions. `status`, which no user writes, is not looked into."""
    [version] = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["status"] = {"type": "object"}
    times = Counter(_text(part) for part in parts(schema))
    long = [text for text, count in times.items() if count > 1 and len(text) >= SHARED_FROM]
    names = {text: f"shared{number}" for number, text in enumerate(long)}
    definitions = {name: share(json.loads(text), names, whole=True) for text, name in names.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **share(schema, names), "$defs": definitions}


def strict(schema: Schema) -> Schema:
    """A schema without what checks nothing. It refuses unknown keys unless Kubernetes keeps them, and needs none that has a default."""
    made = {key: schema[key] for key in KEPT if key in schema}
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if "items" in schema:
        made["items"] = strict(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        if needed := [name for name in made.pop("required", []) if "default" not in schema["properties"].get(name, {})]:
            made["required"] = needed
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(schema["additionalProperties"])
    return made


def parts(schema: Schema) -> Iterator[Schema]:
    """The schema and all that stand in it."""
    yield schema
    for part in [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(part, dict):
            yield from parts(part)


def share(schema: Schema, names: dict[str, str], whole: bool = False) -> Schema:
    """The schema with references in place of the parts that have names; with `whole`, itself is not replaced."""
    if not whole and (name := names.get(_text(schema))):
        return {"$ref": f"#/$defs/{name}"}
    made = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = share(schema[key], names)
    if "properties" in schema:
        made["properties"] = {name: share(part, names) for name, part in schema["properties"].items()}
    return made


def _text(schema: Schema) -> str:
    return json.dumps(schema)


if __name__ == "__main__":
    print(json.dumps(derive(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))), indent=1))
