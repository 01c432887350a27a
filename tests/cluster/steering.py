"""`python -m cluster` in a process that has loaded it already: `python -m tests.cluster.steering` reads commands and prints what they do.

Each line is JSON: [the address of the cluster, the words of the command] in, [exit code, what was printed] out. Each command joins
the cluster and leaves it, as in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

from cluster.__main__ import main


def steer(address: str, words: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what it prints."""
    os.environ["RAY_ADDRESS"] = address
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(steer(*json.loads(line))), flush=True)
