"""The programs. Whichever is started, this runs first: a Python that cannot run them is told here."""

from pipelines.interpreter import check

check()
