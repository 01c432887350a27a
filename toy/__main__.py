"""`python -m toy make` trains the miniature world's models again from nothing; `show` draws scenes, `pictures` a set to caption."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from toy import prompts
from toy.make import TRAININGS, make
from toy.pictures import write_bare_pictures
from toy.world import SIZE, degrade, render

HERE = Path(__file__).parent
PARTS = ("data", *TRAININGS, "figures")
ZOOM = 4


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m toy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    make_parser = commands.add_parser(
        "make", help="write the prompts and pictures, and train the models, in an hour on two cores"
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
    pictures_parser = commands.add_parser("pictures", help="draw prompts to train on into a folder, without captions")
    pictures_parser.add_argument("out", type=Path)
    pictures_parser.add_argument("--count", type=int, default=720, help="how many (default: all, 720)")
    pictures_parser.set_defaults(run=lambda args: write_bare_pictures(args.out, args.count))
    args = parser.parse_args()
    args.run(args)


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
