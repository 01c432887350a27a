"""The programs. This runs first, whichever is started: it refuses a Python that cannot run them, or that finds others' packages."""

import sys

from pipelines.preflight import interpreter, packages

problem = interpreter.problem() or packages.problem()
if problem:
    print(f"error {problem}", file=sys.stderr)
    raise SystemExit(2)
