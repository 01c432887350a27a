"""The models of the table, opened before any worker starts: a base, or a LoRA on one, be it of a run, a checkpoint or a folder.

LoRAs are copied into the run folder, so that a run that goes on draws with what it began with, whatever became of where they lay.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os.path import exists, isfile
from pathlib import Path

from actors.diffusion.adapter_file import PEFT_CONFIG, WEIGHTS, base_of, find_adapter, misfit
from actors.models.folder import check_pipeline
from actors.models.kinds import NamedModel
from actors.models.path import PIPELINE_MARKER, check_model
from actors.paths import located
from actors.rollout.options import LoraFiles
from cluster.storage import documents
from pipelines.preflight.checks import check_named
from pipelines.preflight.memory.models import image_model
from pipelines.preflight.verdicts import cannot_draw, cannot_read
from pipelines.recipe.errors import UserError
from pipelines.recipe.programs.evaluate import Drawing, EvaluateRecipe
from pipelines.run_folder.json_files import read_json, write_json
from pipelines.run_folder.location import ADAPTERS
from pipelines.running.trained import LAST, absolute, is_trained, open_trained

FILE = f"{ADAPTERS}/models.json"
LENGTH = 256  # tokens of a caption, where no run says how many
KINDS = (
    f"a base (a folder with {PIPELINE_MARKER}, or a hub name), a run (a folder or URL that --out named), a checkpoint such as "
    f"runs/x/checkpoints/step-000050, or a LoRA (a .safetensors file, or a folder with {WEIGHTS})"
)


@dataclass(frozen=True)
class Model:
    """A model of the table: its base and, of anything but a base, the files of its LoRA, the weights first.

    length: the tokens of a caption that its run reads; family: of the user's own. What is not known is None.
    """

    name: str
    kind: str
    base: str
    files: tuple[str, ...] = ()
    sha256: str = ""
    step: int | None = None
    length: int | None = None
    family: str | None = None

    @property
    def ground(self) -> tuple[str, str | None]:
        """What a worker holds to draw with it: the base, and the family that reads it."""
        return self.base, self.family

    def lora(self, run: Path) -> LoraFiles:
        """What a worker is given of it, out of the run folder."""
        contents = {Path(file).name: (run / file).read_bytes() for file in self.files}
        return LoraFiles(f"models.{self.name}", next(iter(contents)), contents)

    def words(self) -> str:
        """What it is, to people."""
        if self.kind == "base":
            return self.base
        return f"{self.kind}{'' if self.step is None else f', step {self.step}'}, on {self.base}"


def open_models(recipe: EvaluateRecipe, run: Path) -> list[Model]:
    """Of a run that begins; LoRAs come into its folder. Raises UserError for what is of no kind, or does not fit its base."""
    shutil.rmtree(run / ADAPTERS, ignore_errors=True)
    (run / ADAPTERS).mkdir(parents=True)
    try:
        models = [_opened(name, place, recipe.rollout, run) for name, place in recipe.models.items()]
        check_named({f"models.{model.name}.base": NamedModel(model.base, "pipeline", model.family) for model in models})
        _check_draws(recipe, models)
    except ValueError:
        shutil.rmtree(run / ADAPTERS)
        raise
    write_json(run / FILE, [asdict(model) for model in models])
    return models


def known_models(run: Path) -> list[Model]:
    """Of a run that goes on."""
    return [Model(**{**said, "files": tuple(said["files"])}) for said in read_json(run / FILE, list) or []]


def length_of(recipe: EvaluateRecipe, models: Sequence[Model]) -> int:
    """Tokens of a caption that every model reads. Raises UserError if the runs do not agree, and the recipe says nothing."""
    if recipe.rollout.max_sequence_length is not None:
        return recipe.rollout.max_sequence_length
    lengths = {model.length: model.name for model in models if model.length is not None}
    if len(lengths) > 1:
        said = " and ".join(f"{length} (models.{name})" for length, name in lengths.items())
        raise UserError(
            f"rollout.max_sequence_length: runs were trained with {said}: set the one that all are drawn with"
        )
    return next(iter(lengths), LENGTH)


def _opened(name: str, place: str, drawing: Drawing, run: Path) -> Model:
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _kept(_open(name, place, drawing, Path(folder)), run)
    except ValueError as error:  # a Mistake and a UserError are such
        raise UserError(f"models.{name} = {place!r}: {error}") from error


def _check_draws(recipe: EvaluateRecipe, models: Sequence[Model]) -> None:
    """Raises UserError for sizes and lengths of captions that a base does not know, as far as its files are here."""
    length = length_of(recipe, models)
    sizes = [("heldout.sizes", pixels) for size in recipe.heldout.sizes for pixels in size]
    for model in models:
        if isfile(f"{model.base}/{PIPELINE_MARKER}"):
            image = image_model(model.base, model.family)
            shape = image.shape(length)
            if found := cannot_read(shape, "rollout", length) + cannot_draw(image, shape, sizes):
                raise UserError("\n".join(f"{line} (models.{model.name})" for line in dict.fromkeys(found)))


def _open(name: str, place: str, drawing: Drawing, folder: Path) -> Model:
    """`folder` is for what must be brought. Raises ValueError."""
    if isfile(f"{place}/{PIPELINE_MARKER}"):
        return Model(name, "base", _base(place, drawing.family), family=drawing.family)
    if is_trained(absolute(place)):
        return _trained(name, absolute(place), drawing, folder)
    if exists(place):
        return _foreign(name, place, drawing)
    try:
        return Model(name, "base", _base(place, drawing.family), family=drawing.family)
    except ValueError:
        raise UserError(f"there is no such model: give {KINDS}") from None


def _trained(name: str, place: str, drawing: Drawing, folder: Path) -> Model:
    """Of a run its last checkpoint."""
    kind = "checkpoint" if documents.has_manifest(place) else "run"
    trained = open_trained(place, LAST, folder)
    policy = trained.recipe.policy
    family = drawing.family or policy.family
    model = Model(name, kind, _base(drawing.base or trained.base, family), (str(trained.adapter),), family=family)
    return replace(model, step=trained.manifest.step, length=policy.max_sequence_length)


def _foreign(name: str, place: str, drawing: Drawing) -> Model:
    """A LoRA that was written anywhere."""
    try:
        found = find_adapter(place)
    except ValueError as error:
        raise UserError(f"{error}; or give {KINDS}") from None
    base = drawing.base or located(base_of(found.path) or "")
    if not base:
        raise UserError("a LoRA that does not say which model it is of: name that with rollout.base")
    beside = Path(found.path).with_name(PEFT_CONFIG)
    files = (found.path, *([str(beside)] if beside.is_file() else []))
    return Model(name, "LoRA", _base(base, drawing.family), files, family=drawing.family)


def _base(place: str, family: str | None) -> str:
    """The model at a path or hub name, looked at. Raises ValueError."""
    check_model(place, PIPELINE_MARKER)
    if isfile(f"{place}/{PIPELINE_MARKER}"):
        check_pipeline(Path(place), family)
    return place


def _kept(model: Model, run: Path) -> Model:
    """The model with its files in the run folder. Raises ValueError for a LoRA that its base cannot take."""
    if not model.files:
        return model
    if wrong := misfit(model.files[0], Path(model.base)):
        raise UserError(wrong)
    folder = run / ADAPTERS / model.name
    folder.mkdir()
    copies = [Path(shutil.copy(file, folder)) for file in model.files]
    files = tuple(copy.relative_to(run).as_posix() for copy in copies)
    return replace(model, files=files, sha256=find_adapter(str(copies[0])).sha256)
