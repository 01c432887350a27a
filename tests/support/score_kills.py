"""A process of `score` that is killed: `python -m tests.support.score_kills FOLDER RECIPE`, once at each of some moments."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines import score
from pipelines.run_folder.shards import Shards
from pipelines.running.reader import ImageReader
from tests.support.kills import Moment, kill_at_each
from tests.support.score_world import NotingReward, main_with

MOMENTS = {
    "the first images are read": Moment(ImageReader, "read", 1),
    "others are read": Moment(ImageReader, "read", 8, kept=4),
    "an image is judged": Moment(NotingReward, "judge", 9, kept=4),
    "a file is to be written": Moment(Shards, "_write", 3, kept=6),
    "a file was written": Moment(Shards, "_write", 3, after=True, kept=8),
    "the summary is written": Moment(score, "write_summary", 1, kept=20),
    "the report is written": Moment(score, "write_scores_report", 1, kept=20),
}


if __name__ == "__main__":
    kill_at_each(MOMENTS.values(), lambda log: main_with(NotingReward, log=log), Path(sys.argv[1]), sys.argv[2])
