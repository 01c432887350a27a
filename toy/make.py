"""Makes the miniature world again from nothing: prompts, pictures, and its models, each trained in a process of its own."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import Manager, get_context
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from toy import prompts
from toy.pictures import write_pictures
from toy.posters import prompts as poster_prompts

SIDE_BY_SIDE = 2  # trainings at once, on a thread each

Figures = dict[str, dict[str, float]]


def make(out: Path, parts: list[str], steps: int | None = None) -> None:
    """Writes out/data and, of out/models, the parts that are wanted; "figures" are those of the readers, measured last."""
    if "data" in parts:
        prompts.write_files(out / "data")
        poster_prompts.write_files(out / "data")
        write_pictures(out / "data" / "pictures")
    wanted = {name: training for name, training in TRAININGS.items() if name in parts}
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}"),
    )
    with Manager() as manager, Progress(*columns) as progress:
        reports = manager.Queue()
        bars = {name: progress.add_task(name, total=1.0, line="waiting") for name in wanted}
        with ProcessPoolExecutor(SIDE_BY_SIDE, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(training, out / "models", steps, reports) for training in wanted.values()]
            while not all(job.done() for job in jobs) or not reports.empty():
                try:
                    name, done, line = reports.get(timeout=0.5)
                    progress.update(bars[name], completed=done, line=line)
                except Empty:
                    continue
            figures = dict(zip(wanted, (job.result() for job in jobs), strict=True))
    if "figures" in parts:
        figures |= measure_readers(out / "models", number=12 if steps is None else 1)
    for name, rows in figures.items():
        Console().print(figures_table(name, rows))


def make_judge(models: Path, steps: int | None, reports: Queue) -> Figures:
    """Trains the judge on one thread and returns its gates' figures."""
    from toy import judge
    from toy.captions import Captioning

    _one_thread()
    plan = judge.Plan() if steps is None else judge.Plan(steps=steps, first_stage=steps // 2)
    gates = judge.train(models / "judge", Captioning(_cases(steps)), plan, _reporter("judge", reports))
    return _written(models / "judge", {"truth preferred": gates})


def make_readers(models: Path, steps: int | None, reports: Queue) -> Figures:
    """Trains both readers of posters in one run and returns the gates' figures of the one that was trained longer."""
    from toy import judge
    from toy.posters import reader

    _one_thread()
    plan = reader.PLAN if steps is None else judge.Plan(steps=steps, first_stage=steps // 2)
    early = {reader.EARLY if steps is None else steps // 2: models / "reader_early"}
    gates = judge.train(models / "reader", reader.Reading(_cases(steps)), plan, _reporter("reader", reports), early)
    return {"truth preferred": gates}


def make_image(models: Path, steps: int | None, reports: Queue) -> Figures:
    """Trains the image model on one thread and returns its accuracy on held-out prompts."""
    from toy import image_model, misread

    return _make_image("image", misread.subject(), image_model.Plan(), models, steps, reports)


def make_poster_image(models: Path, steps: int | None, reports: Queue) -> Figures:
    """The same for posters."""
    from toy.posters import misread

    return _make_image("poster_image", misread.subject(), misread.PLAN, models, steps, reports)


def _make_image(name: str, subject: Any, plan: Any, models: Path, steps: int | None, reports: Queue) -> Figures:
    from toy import image_model

    _one_thread()
    if steps is not None:
        plan = replace(plan, steps=steps, autoencoder_steps=steps, images=200)
    image_model.train(models / name, subject, plan, _reporter(name, reports))
    return _written(models / name, image_model.figures(models / name, subject, number=100 if steps is None else 1))


def measure_readers(models: Path, number: int) -> dict[str, Figures]:
    """What both readers make of the images of the posters' image model, all of which must be there."""
    from toy.posters import measure

    return {
        name: _written(models / name, measure.figures(models / name, models / "poster_image", number))
        for name in ("reader", "reader_early")
    }


TRAININGS = {"judge": make_judge, "image": make_image, "reader": make_readers, "poster_image": make_poster_image}


def _cases(steps: int | None) -> int:
    """By how many of a kind a judge is judged: few where the command is only tried out."""
    return 200 if steps is None else 4


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _reporter(name: str, reports: Queue) -> Callable[[float, str], None]:
    """A `report` that sends (name, share done, line) to the parent process."""
    return lambda done, line: reports.put((name, done, line))


def _written(folder: Path, figures: Figures) -> Figures:
    """The figures, kept beside the model as figures.json."""
    rounded = {row: {name: round(value, 3) for name, value in of_row.items()} for row, of_row in figures.items()}
    (folder / "figures.json").write_text(json.dumps(rounded, indent=2) + "\n")
    return rounded


def figures_table(title: str, figures: Figures) -> Table:
    """Rows of named figures as a table."""
    table = Table("", *next(iter(figures.values())), title=title)
    for row, of_row in figures.items():
        table.add_row(row, *(f"{value:.3f}" for value in of_row.values()))
    return table
