"""From a CRD's schema to one that finds typing mistakes."""

from __future__ import annotations

from pipelines.submitting.manifest.kuberay.derive import derive


def test_a_schema_is_made_strict_and_its_repeated_parts_are_shared() -> None:
    crd = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": CRD}}]}}
    schema = derive(crd)
    assert list(schema["$defs"]) == ["shared0"]
    assert schema["properties"]["spec"]["properties"]["one"] == {"$ref": "#/$defs/shared0"}
    assert schema["$defs"]["shared0"] == {
        "type": "object",
        "properties": {
            **{f"key{number}": {"type": "string"} for number in range(20)},
            "description": {"type": "integer"},
        },
        "additionalProperties": False,
    }
    assert schema["properties"]["spec"]["properties"]["free"]["additionalProperties"] is True
    assert schema["properties"]["spec"]["properties"]["maybe"]["type"] == ["string", "null"]
    assert schema["properties"]["spec"]["required"] == ["one"]
    assert schema["properties"]["status"] == {"type": "object"}


PART = {
    "type": "object",
    "description": "left out",
    "properties": {
        **{f"key{number}": {"type": "string", "default": ""} for number in range(20)},
        "description": {"type": "integer"},  # a key of this name stays
    },
}
CRD = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["one", "filled"],
            "properties": {
                "filled": {"type": "integer", "default": 0},
                "one": PART,
                "other": PART,
                "free": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": True},
                "maybe": {"type": "string", "nullable": True},
            },
        },
        "status": PART,
    },
}
