"""What Ray runs in the place of its setup_worker.py, which loads all of Ray only to become the worker, which loads it again.

So a worker costs a third less. For tests: it knows variables of the environment and nothing else that an environment may ask for.
"""

from __future__ import annotations

import json
import os
import sys

CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="


def worker(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The words of the worker's own command line, and the variables that it is to have besides."""
    (context,) = [json.loads(word.removeprefix(CONTEXT)) for word in words if word.startswith(CONTEXT)] or [{}]
    variables = context.pop("env_vars", {})
    known = {"py_executable": sys.executable}
    assert all(not value or known.get(name) == value for name, value in context.items()), context
    return [word for word in words if not word.startswith((CONTEXT, LANGUAGE))], variables


if __name__ == "__main__":
    own, more = worker(sys.argv[1:])
    os.execve(sys.executable, [sys.executable, *own], {**os.environ, **more})
