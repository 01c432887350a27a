"""The programs. Whichever is started, this runs first: a Python that cannot run them, or that finds others' packages, is told here."""

import sys

from pipelines import interpreter, startup

problem = interpreter.problem() or startup.problem()
if problem:
    print(f"error {problem}", file=sys.stderr)
    raise SystemExit(2)
