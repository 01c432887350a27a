"""How `train` updates its policy, what a step leaves in the records, and how both are brought back to a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from actors.policy.actor import PolicyActor
from actors.policy.advantages import group_advantages
from cluster.tasks import Handle, Outcome
from pipelines.engine.checkpoint import Core, Found, Identity, Manifest
from pipelines.engine.digest import FIRST, changed_digest, next_digest
from pipelines.engine.messages import Progress, Train
from pipelines.engine.work import Call, Updates
from pipelines.evaluation.comparison import best
from pipelines.recipe.changes import Changes, evaluated_anew, in_words, recipe_sha256, recorded
from pipelines.recipe.errors import RunFailed
from pipelines.recipe.load import dump_recipe
from pipelines.run_folder.events import DigestAnew
from pipelines.training.beginning import Inputs, changes_since
from pipelines.training.groups import update_shares
from pipelines.training.run import Adapters, TrainRun


class TrainUpdates(Updates):
    """The gang is the policy; a version of it is known by its adapter."""

    gang = "policy"

    def __init__(self, run: TrainRun, inputs: Inputs) -> None:
        self.run, self.inputs, self.loop = run, inputs, run.recipe.loop

    # a step

    def update(self, train: Train) -> Sequence[Call]:
        """The ranks update on their shares of the groups, and export the adapter that comes of it."""
        run, recipe = self.run, self.run.recipe
        groups = [run.era.groups[key] for key in train.groups]
        rewards_NPK = run.rewards.of_groups(groups)
        rewards_PK = run.rewards.combined(rewards_NPK)
        advantages_PK = group_advantages(rewards_PK, recipe.objective.advantage_std) if groups else rewards_PK
        by_name = dict(zip(run.rewards.names, rewards_NPK, strict=False))
        run.log.step_begins(train, [group.prompt.category for group in groups], rewards_PK, advantages_PK, by_name)
        run.samples.write(train.step, groups, rewards_PK, advantages_PK)
        seed, images = recipe.run.seed, recipe.rollout.images_per_score
        shards = update_shares(seed, images, recipe.policy.ranks, groups, advantages_PK)
        return (
            Call(PolicyActor.update, (train.step,), shards=shards),
            Call(PolicyActor.export, (train.step,), returns=2),
        )

    def updated(self, train: Train, outcomes: Sequence[Outcome], previous: str, progress: Progress) -> str:
        """A new version of the policy exists."""
        run, (update, export) = self.run, outcomes
        sha256, seconds = export.value["sha256"], export.value["seconds"]
        run.era.adapters[train.step] = (sha256, export.payloads[0])
        groups = [run.era.groups[key] for key in train.groups]
        rewards = [(group.prompt.id, group.version, run.rewards.exactly(group)) for group in groups]
        loss = update.value.get("loss")
        digest = next_digest(previous, train.step, rewards, None if loss is None else float(loss), sha256)
        pools = run.tickets.executor.status()
        run.books.step(run.log.step_ends(digest, update.value, seconds, pools, progress))
        return digest

    def forget(self, oldest: int) -> None:
        adapters = self.run.era.adapters
        self.run.era.adapters = {version: adapter for version, adapter in adapters.items() if version >= oldest}

    # into a checkpoint

    @cached_property
    def _identity(self) -> Identity:
        recipe = self.run.recipe
        return Identity(dump_recipe(recipe), recipe_sha256(recipe), asdict(self.inputs))

    def identity(self) -> Identity:
        return self._identity

    def snapshot(self) -> Call:
        handles = tuple(handle for _, handle in self.run.era.adapters.values())
        return Call(PolicyActor.snapshot, handles, returns=2)

    def state(self) -> dict[str, Any]:
        """adapters: sha256 by version, those that work in flight needs; evaluated: versions whose evaluation is recorded."""
        era, log, policy = self.run.era, self.run.log, self.run.recipe.policy
        return {
            "images": log.images,
            "seconds": log.seconds(),
            "quarantined": log.quarantined,
            "adapters": {str(version): sha256 for version, (sha256, _) in era.adapters.items()},
            "evaluated": sorted(era.evaluated),
            "ranks": policy.ranks,
            "zero_stage": policy.zero_stage,
        }

    def best(self, steps: Collection[int]) -> int | None:
        """By their held-out figures, without extra guidance."""
        scale = self.run.recipe.heldout.guidance_scales[0]
        records = self.run.folder.read_heldout()
        found = best([record for record in records if record.step in steps and record.guidance == scale])
        return found.step if found else None

    def unjudged(self) -> Collection[int]:
        return set(self.run.heldout.versions()) - set(self.run.era.evaluated)

    # out of one

    def begin(self) -> Core:
        """The base is version 0."""
        self.run.folder.restore({})
        adapters = self._first_version()
        self._take_up(adapters)
        return Core()

    def restore(self, found: Found, files: Handle) -> Core:
        run, manifest = self.run, found.manifest
        changes = recorded(changes_since(found, run.recipe, self.inputs), run.recipe)
        first = self._first_version() if evaluated_anew(changes, run.recipe) else {}
        adapters = first | self._load(found, files)
        evaluated = set(manifest.work["evaluated"])
        run.folder.restore(found.records())
        if "loop.steps" in changes:
            run.folder.retag_heldout("after", "during")
            evaluated.discard(run.recipe.loop.steps)
        if first:
            run.folder.begin_heldout(f"heldout-until-{manifest.step:06d}.jsonl")
            evaluated = set(range(manifest.step)) - adapters.keys()  # what cannot be drawn any more
        digest, since = self._digest_from(manifest, changes)
        self._take_up(adapters, evaluated, manifest)
        changed = [{"step": manifest.step, "changed": changes}] if changes else []
        return Core(manifest.step, digest, since, (*manifest.changes, *changed))

    def again(self) -> None:
        self.run.log.take_up()
        self.run.begin_era(self.run.era.adapters, self.run.era.evaluated)

    def _first_version(self) -> Adapters:
        """Version 0, of ranks that have loaded nothing yet."""
        outcome = self.run.tickets.now("policy", PolicyActor.export, (0,), returns=2)
        return {0: (outcome.value["sha256"], outcome.payloads[0])}

    def _load(self, found: Found, files: Handle) -> Adapters:
        """The ranks take up a checkpoint; the adapters that it holds. Raises RunFailed if one is not what the manifest says."""
        now = self.run.tickets.now
        now("policy", PolicyActor.load, (files,))
        adapters: Adapters = {}
        for version, sha256 in found.manifest.work["adapters"].items():
            outcome = now("policy", PolicyActor.load_adapter, (files, int(version)), returns=2)
            if outcome.value["sha256"] != sha256:
                raise RunFailed(f"{found.place}: adapter {version} does not have the hash that the manifest gives")
            adapters[int(version)] = (sha256, outcome.payloads[0])
        return adapters

    def _take_up(self, adapters: Adapters, evaluated: Iterable[int] = (), manifest: Manifest | None = None) -> None:
        counted: dict[str, Any] = manifest.work if manifest else {"images": 0, "seconds": 0.0, "quarantined": 0}
        step = manifest.step if manifest else 0
        self.run.log.start_from(step, counted["images"], counted["quarantined"], counted["seconds"])
        self.run.begin_era(adapters, evaluated)

    def _digest_from(self, manifest: Manifest, changes: Changes) -> tuple[str, int]:
        """The digest that the next step is chained to, and since when the chain runs. Says so if either is new."""
        step, policy, was = manifest.step, self.run.recipe.policy, manifest.work
        note = self.run.watchers.note
        digest, since = manifest.digest, manifest.digest_since
        if (was["ranks"], was["zero_stage"]) != (policy.ranks, policy.zero_stage):
            digest, since = FIRST, step
            before = {name: was[name] for name in ("ranks", "zero_stage")}
            event = DigestAnew(step=since, was=before, ranks=policy.ranks, zero_stage=policy.zero_stage)
            self.run.folder.event(event)
            note(
                f"the digest starts anew after step {since}: the checkpoint is of {was['ranks']} ranks at ZeRO stage "
                f"{was['zero_stage']}, this run has {policy.ranks} at stage {policy.zero_stage}"
            )
        if changes:
            digest = changed_digest(digest, step, changes)
            note(f"the recipe changes after step {step}, and with it the digest: {in_words(changes)}")
        return digest, since
