"""A recipe as TensorBoard's HParams tab reads it, so that runs can be sorted by what differs between them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo


def session_start(recipe: Mapping[str, Any]) -> Summary.Value:
    """What a session begins with: every key of the recipe that has a value, by its path, such as loop.steps."""
    info = SessionStartInfo(start_time_secs=time.time())
    for key, value in leaves(recipe):
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[key].number_value = value
        else:
            info.hparams[key].string_value = str(value)
    return _value(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def session_end() -> Summary.Value:
    """What a session ends with, however the run did: TensorBoard shows none as running for ever."""
    info = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    return _value(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in a table that is not a table; a list is one value."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value


def _value(tag: str, data: HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
