"""`python -m toy make` trains the miniature world's models again from nothing; `python -m toy show` draws scenes."""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Manager, get_context
from pathlib import Path
from queue import Empty, Queue

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from toy import prompts
from toy.pictures import write_pictures
from toy.world import SIZE, degrade, render

HERE = Path(__file__).parent
PARTS = ("data", "judge", "image")
ZOOM = 4


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m toy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make_parser = commands.add_parser(
        "make", help="write the prompts and pictures, and train both models, in half an hour on two cores"
    )
    make_parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="what to make (default: everything)"
    )
    make_parser.add_argument("--out", type=Path, default=HERE, help="where data/ and models/ go (default: into toy/)")
    make_parser.add_argument("--steps", type=int, help="train for so many steps instead: to try the command out")
    make_parser.set_defaults(run=lambda args: make(args.out, args.only, args.steps))
    show_parser = commands.add_parser("show", help="draw scenes of each category, clean and bad, into a PNG")
    show_parser.add_argument("out", type=Path, nargs="?", default=Path("toy.png"))
    show_parser.set_defaults(run=lambda args: show(args.out))
    args = parser.parse_args()
    args.run(args)


def make(out: Path, parts: list[str], steps: int | None = None) -> None:
    """Writes out/data and out/models/{judge,image}; the two trainings run side by side, on a thread each."""
    if "data" in parts:
        prompts.write_files(out / "data")
        write_pictures(out / "data" / "pictures")
    trainings = {"judge": make_judge, "image": make_image}
    wanted = {name: training for name, training in trainings.items() if name in parts}
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[line]}"))
    with Manager() as manager, Progress(*columns) as progress:
        reports = manager.Queue()
        bars = {name: progress.add_task(name, total=1.0, line="starting") for name in wanted}
        with ProcessPoolExecutor(max(1, len(wanted)), mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(training, out / "models" / name, steps, reports) for name, training in wanted.items()]
            while not all(job.done() for job in jobs) or not reports.empty():
                try:
                    name, done, line = reports.get(timeout=0.5)
                    progress.update(bars[name], completed=done, line=line)
                except Empty:
                    continue
            figures = dict(zip(wanted, (job.result() for job in jobs), strict=True))
    for name, rows in figures.items():
        Console().print(figures_table(name, rows))


def make_judge(folder: Path, steps: int | None, reports: Queue) -> dict[str, dict[str, float]]:
    """Trains the judge on one thread and returns its gates' figures."""
    import torch

    from toy import judge

    torch.set_num_threads(1)
    plan = judge.Plan() if steps is None else judge.Plan(steps=steps, first_stage=steps // 2)
    return _written(folder, {"truth preferred": judge.train(folder, plan, _reporter("judge", reports))})


def make_image(folder: Path, steps: int | None, reports: Queue) -> dict[str, dict[str, float]]:
    """Trains the image model on one thread and returns its accuracy on held-out prompts."""
    import torch

    from toy import image_model

    torch.set_num_threads(1)
    plan = image_model.Plan() if steps is None else image_model.Plan(steps=steps, autoencoder_steps=steps, images=1000)
    image_model.train(folder, plan, _reporter("image", reports))
    return _written(folder, image_model.figures(folder, number=100 if steps is None else 2))


def _reporter(name: str, reports: Queue) -> Callable[[float, str], None]:
    """A `report` that sends (name, share done, line) to the parent process."""
    return lambda done, line: reports.put((name, done, line))


def _written(folder: Path, figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The figures, kept beside the model as figures.json."""
    rounded = {row: {name: round(value, 3) for name, value in of_row.items()} for row, of_row in figures.items()}
    (folder / "figures.json").write_text(json.dumps(rounded, indent=2) + "\n")
    return rounded


def figures_table(title: str, figures: dict[str, dict[str, float]]) -> Table:
    """Rows of named figures as a table."""
    table = Table("", *next(iter(figures.values())), title=title)
    for row, of_row in figures.items():
        table.add_row(row, *(f"{value:.3f}" for value in of_row.values()))
    return table


def show(out: Path, columns: int = 4) -> None:
    """Draws held-out prompts of each category, each with a clean and a bad drawing, into a PNG."""
    rng = np.random.default_rng(0)
    width, height = 2 * SIZE * ZOOM + 16, SIZE * ZOOM + 24
    sheet = Image.new("RGB", (columns * width, len(prompts.CATEGORIES) * height), "#222222")
    draw = ImageDraw.Draw(sheet)
    for row, category in enumerate(prompts.CATEGORIES):
        heldout = [prompt for prompt in prompts.grammar(category) if prompts.is_heldout(prompt)]
        for column, index in enumerate(rng.permutation(len(heldout))[:columns]):
            scene = prompts.scene_for(heldout[index], rng)
            pair = np.concatenate([render(scene, rng), degrade(scene, rng)], axis=1)
            left, top = column * width + 8, row * height
            draw.text((left, top + 6), heldout[index]["caption"], fill="white")
            picture = Image.fromarray(pair).resize((2 * SIZE * ZOOM, SIZE * ZOOM), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + 20))
    sheet.save(out)
    Console().print(f"wrote {out}")


if __name__ == "__main__":
    main()
