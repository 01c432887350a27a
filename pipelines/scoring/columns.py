"""scores/*.parquet: the columns of its rows, which are those of an image set."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipelines.run_folder.shards import REASON, ROW

FOLDER = "scores"
TOKENS, LOG_PROBS = "{}.tokens", "{}.log_probs"


def schema_of(rewards: Mapping[str, bool]) -> pa.Schema:
    """The columns: those of a row, and of each reward its score and, where it is to be kept, what it says of the caption's tokens."""
    columns = {ROW: pa.int64(), "file_name": pa.string(), "caption": pa.string()}
    for name, explains in rewards.items():
        columns[name] = pa.float64()
        if explains:
            columns |= {TOKENS.format(name): pa.list_(pa.string()), LOG_PROBS.format(name): pa.list_(pa.float32())}
    return pa.schema({**columns, REASON: pa.string()})
