"""Policy ranks as real processes, without Ray: each holds a PolicyActor and does what its pipe says. Also what they train on."""

from __future__ import annotations

import copy
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

from actors.diffusion.family import Family
from actors.diffusion.options import ImageModelOptions
from actors.messages import Adapter, Latents, UpdateGroup
from actors.policy.actor import PolicyActor
from actors.policy.learner import load_model
from actors.policy.objectives.awm_options import AwmOptions
from actors.policy.objectives.objective import load_objective
from actors.policy.options import LearnerOptions, LearnerSettings
from actors.process import Process

CAPTIONS = ("a red circle", "two blue square", "a green cross")
OBJECTIVE = {"timesteps": "uniform", "timesteps_per_sample": 2, "kl_reference": 0.02, "kl_ema": 0.1}
NO_COMPILER = "no-such-compiler"

ON_CPU = ImageModelOptions(device="cpu", dtype="float32")
POLICY = {
    "zero_stage": 0,
    "max_sequence_length": 2,
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_targets": "all",
    "learning_rate": 1e-2,
    "betas": (0.9, 0.99),
    "weight_decay": 1e-2,
    "warmup_steps": 3,
    "final_learning_rate": 0.5,
    "micro_batch": 2,
    "device": "cpu",
    "dtype": "float32",
}


def settings(model: str, objective: dict[str, Any] | None = None, **policy: Any) -> LearnerSettings:
    """The settings of a learner that moves visibly in a few steps: `policy` and `objective` say what is different."""
    return LearnerSettings(
        LearnerOptions(model=str(model), **{**POLICY, **policy}),
        AwmOptions(**{**OBJECTIVE, "ema_decay_rate": 0.1, **(objective or {})}),
        num_steps=4,
        guidance_scale=1.0,
        height=32,
        width=32,
        seed=0,
        total_steps=20,
    )


_loaded: dict[tuple, Family] = {}


def model_of(learner: LearnerSettings) -> Family:
    """What `load_model` gives for these settings: a copy of what it gave to the first who asked."""
    policy = learner.policy
    asked = (policy.model, policy.dtype, policy.lora_targets, policy.lora_rank, policy.lora_alpha, learner.seed)
    if asked not in _loaded:
        _loaded[asked] = load_model(learner)
    return copy.deepcopy(_loaded[asked])


def samples(step: int, counts: Sequence[int], advantage: float | None = None, window: int = 0) -> list[tuple]:
    """The arguments of `update` after the step, for each rank: as many samples as it has by `counts`, each with its own caption.

    Sample i is the same whatever rank has it. `advantage` replaces the last sample's. With a window each also has the path that
    Flow-GRPO trains.
    """
    shares, number = [], 0
    for count in counts:
        groups, chunks = [], []
        for i in range(number, number + count):
            generator = np.random.default_rng((step, i))
            a = advantage if advantage is not None and i == sum(counts) - 1 else float(generator.normal())
            groups.append(UpdateGroup(step, i, f"p{i}", CAPTIONS[i % 3], step - 1, (a,), (1000 * step + i,)))
            latents = generator.normal(size=(1, 4, 8, 8)).astype(np.float32)
            latents.setflags(write=False)
            path = generator.normal(size=(1, window + 1, 4, 8, 8)).astype(np.float32)
            chunks.append(Latents(latents, {"path": path, "start": np.array([i % 2])} if window else {}))
        shares.append((tuple(groups), *chunks))
        number += count
    return shares


class Ranks(ABC):
    """The ranks of a gang, called together. `learner`: the settings with which they started last."""

    num_ranks: int
    learner: LearnerSettings | None = None

    @abstractmethod
    def call(self, method: str, *args: Any, shards: Sequence[tuple] | None = None) -> list[Any]:
        """What each rank returned, called with args + its shard. Raises what rank 0 raised, if all did."""

    @abstractmethod
    def start(self, learner: LearnerSettings) -> None:
        """New actors with these settings, which join."""

    def go_back(self, learner: LearnerSettings, files: dict[str, np.ndarray]) -> int:
        """To what ranks with these settings kept; new actors, unless those that run have them. Returns the step."""
        if self.learner is not learner:
            self.start(learner)
        [step] = set(self.call("load", files))
        return step

    def update(
        self, step: int, counts: Sequence[int], advantage: float | None = None, window: int = 0
    ) -> list[dict[str, float]]:
        """Each rank's figures, but for the seconds."""
        figures = self.call("update", step, shards=samples(step, counts, advantage, window))
        return [{name: value for name, value in of_rank.items() if name != "seconds"} for of_rank in figures]

    def snapshot(self, *adapters: Adapter) -> dict[str, np.ndarray]:
        """Rank 0's files; the others have none."""
        (meta, files), *others = self.call("snapshot", *adapters)
        assert meta["bytes"] == sum(content.nbytes for content in files.values())
        assert not any(files_of_other for _, files_of_other in others)
        return files

    def state(self) -> dict[str, np.ndarray]:
        """All that training continues from."""
        return load(self.snapshot()["policy.safetensors"].tobytes())

    def sha256(self) -> str:
        """Of the trained adapter, which rank 0 alone gives."""
        (meta, adapter), *others = self.call("export", 0)
        assert meta["sha256"] == adapter.sha256
        assert all(of_other == ({}, None) for of_other in others)
        return meta["sha256"]


class Alone(Ranks):
    """One rank of plain torch in this process."""

    num_ranks = 1

    def start(self, learner: LearnerSettings) -> None:
        self.learner = learner
        self.actor = PolicyActor(0, 1, Process(1, 0.0), learner)
        self.actor.join(self.actor.address())

    def call(self, method: str, *args: Any, shards: Sequence[tuple] | None = None) -> list[Any]:
        return [answer(self.actor, method, *args, *(shards[0] if shards else ()))]


class Gang(Ranks):
    """A process for each rank. They serve one gang of actors after another, since a process starts slowly.

    They are forked from one that has imported what they need. None has a compiler; what a rank prints, and what DeepSpeed would
    build, lies in its folder: stdout, stderr, built/.
    """

    def __init__(self, num_ranks: int, folder: Path) -> None:
        self.num_ranks = num_ranks
        self.folders = [folder / f"rank_{rank}" for rank in range(num_ranks)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.support.gang_imports"])
        pipes = [context.Pipe() for _ in range(num_ranks)]
        self.pipes = [mine for mine, _ in pipes]
        self.processes = [
            context.Process(target=serve, args=(theirs, rank, num_ranks, self.folders[rank]), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()

    def start(self, learner: LearnerSettings) -> None:
        self.learner = learner
        self.call("start", learner)
        self.pipes[0].send(("address", ()))
        self.call("join", self.pipes[0].recv())

    def call(self, method: str, *args: Any, shards: Sequence[tuple] | None = None) -> list[Any]:
        for rank, pipe in enumerate(self.pipes):
            pipe.send((method, args + (shards[rank] if shards else ())))
        results = [pipe.recv() for pipe in self.pipes]
        if all(isinstance(result, Exception) for result in results):
            raise results[0]
        assert not any(isinstance(result, Exception) for result in results), results
        return results

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def answer(actor: PolicyActor, method: str, *args: Any) -> Any:
    """What a rank's actor returns; "aim" gives its learner another objective."""
    if method == "aim":
        actor.learner.objective = load_objective(*args)
        return None
    return getattr(actor, method)(*args)


def serve(pipe: Connection, rank: int, ranks: int, folder: Path) -> None:
    """The life of a rank's process."""
    from actors.policy import zero

    _keep_to(folder)
    zero.PERSISTENT_NUMEL = 100  # the model is tiny: so in stage 3 its matrices are shared out, and its biases are not
    actor: Any = None
    while True:
        method, args = pipe.recv()
        try:
            if method == "start":
                actor = None
                actor = PolicyActor(rank, ranks, Process(1, 0.0), args[0])
                result = None
            else:
                result = answer(actor, method, *args)
        except Exception as error:
            result = error
        pipe.send(result)


def _keep_to(folder: Path) -> None:
    """What this process prints and builds from now on lies in the folder."""
    (folder / "built").mkdir(parents=True)
    os.environ.update(CXX=NO_COMPILER, TORCH_EXTENSIONS_DIR=str(folder / "built"))
    for number, name in enumerate(("stdout", "stderr"), start=1):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
