"""The estimate of memory as the doctor prints it: a table of workers, what lies on the fullest GPU, and what to change first."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster import speaking
from pipelines.preflight.advice import first_change, least_need
from pipelines.preflight.memory.cards import GIB, USABLE, Actor, card_needed, fullest_gpu
from pipelines.preflight.memory.estimate import Estimate, estimate
from pipelines.preflight.memory.host import GPUS_OF_NODE, starting_at_once
from pipelines.preflight.memory.models import Models
from pipelines.recipe.training import Recipe

UNITS = ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def report_memory(recipe: Recipe, models: Models, gpu_memory: float, console: Console) -> bool:
    """Prints the estimate and, where a GPU gets more than it has, what to change first. Returns whether all fits."""
    found = estimate(recipe, models)
    room = round(gpu_memory * GIB * USABLE)
    console.print(memory_table(found, room))
    speaking.say(
        console,
        f"In flight: at most {_size(found.bytes_in_flight)} in the object store, {_size(found.image_bytes)} an image. "
        f"GPUs asked for: {sum(actor.count * actor.num_gpus for actor in found.actors):g}.",
    )
    together_need, together = fullest_gpu(found.actors)
    if not together:
        memory = sum(actor.count * max(actor.peak, actor.loading) for actor in found.actors)
        speaking.say(
            console,
            f"as far as GPUs go: none is asked for. All workers take {_size(memory)} of memory",
            "fits",
            "bold green",
        )
        return True
    who = " + ".join(f"{count} {pool}" for pool, count in together.items())
    speaking.say(console, f"The fullest GPU: {who}, {_size(together_need)} of {_size(room)}.")
    host, starting = starting_at_once(found.actors)
    who = " + ".join(f"{count} {pool}" for pool, count in starting.items())
    speaking.say(
        console, f"The fullest node of at most {GPUS_OF_NODE} GPUs: {who} read {_size(host)} at once when they start."
    )
    for actor in found.actors:
        if share := _too_small(actor, room):
            speaking.say(console, share)
    if card_needed(found.actors) <= room:
        speaking.say(console, "", "fits", "bold green")
        return True
    change = first_change(recipe, models, room)
    if change:
        after = "then it fits" if change.fits else "then ask again"
        advice = f"change first: {change}  (saves {_size(change.saved)}; {after})"
    else:
        least = _size(least_need(recipe, models))
        advice = f"with the recipe's keys at their most frugal a GPU still needs {least}: take a smaller model or a larger GPU"
    speaking.say(console, advice, "does not fit", "bold red")
    return False


def memory_table(found: Estimate, room: int) -> Table:
    """A column per kind of worker, a row per part; `room`: the bytes of a card."""
    table = Table(title="Estimated memory of one worker", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("")
    for actor in found.actors:
        where = f"{actor.num_gpus:g} GPU" if actor.gpu else "CPU"
        table.add_column(f"{actor.pool}\n{actor.count} x {where}", justify="right")
    for name in dict.fromkeys(name for actor in found.actors for name in actor.held):
        table.add_row(name, *(_size(actor.held[name]) if name in actor.held else "" for actor in found.actors))
    table.add_section()
    for name in dict.fromkeys(name for actor in found.actors for name in actor.phases):
        table.add_row(f"while {name}", *(_phase(actor, name) for actor in found.actors), style="dim")
    table.add_section()
    table.add_row("at its most", *(_size(actor.peak) for actor in found.actors), style="bold")
    if any(map(_shares_gpu, found.actors)):
        table.add_row("of it torch's", *(_size(it.of_torch) if _shares_gpu(it) else "" for it in found.actors))
        table.add_row("torch may take", *(_size(it.num_gpus * room) if _shares_gpu(it) else "" for it in found.actors))
    table.add_row("host, while it starts", *(_size(actor.loading) if actor.loading else "" for actor in found.actors))
    return table


def _shares_gpu(actor: Actor) -> bool:
    return actor.gpu and actor.num_gpus < 1


def _too_small(actor: Actor, room: int) -> str:
    """What is to be said of a worker whose share of a card is less than torch takes for it; empty if it is enough."""
    if not _shares_gpu(actor) or actor.of_torch <= actor.num_gpus * room:
        return ""
    return (
        f"{actor.pool}.num_gpus = {actor.num_gpus:g} lets torch take {_size(actor.num_gpus * room)} there, and it takes "
        f"{_size(actor.of_torch)}: the worker would run out of memory, whatever else lies on the GPU."
    )


def _phase(actor: Actor, name: str) -> Text:
    """The widest phase of an actor is set off: it alone counts."""
    if name not in actor.phases:
        return Text()
    return Text(f"+ {_size(actor.phases[name])}", style="bold not dim" if name == actor.widest else "")


def _size(size: float) -> str:
    """In GiB; where that would hardly show, in MiB or KiB."""
    if not size:
        return "0"
    unit, name = next(((unit, name) for unit, name in UNITS if size >= unit / 10), UNITS[-1])
    return f"{size / unit:.1f} {name}"
