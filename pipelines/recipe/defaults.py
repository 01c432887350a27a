"""What holds where a recipe does not say otherwise, or its program has no table to say it in."""

from __future__ import annotations

RETRIES, LOST_RETRIES = 2, 10
MAX_FAILURES_IN_ROW = 8
