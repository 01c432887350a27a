"""Two ranks that meet through NCCL as those of the policy do, where there are two GPUs: sums, their bits twice, and their speed."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from actors.policy.meeting import Meeting
from actors.process import Process, prepare
from bench.gang import in_processes
from bench.gpu_case import Case
from bench.gpu_watch import bits, see

RANKS = 2
NUMBERS = 2**24  # float32: 64 MiB, about the gradient of a LoRA


def measure(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Says that it was not asked where there are not enough GPUs."""
    if case.device == "cuda" and torch.cuda.device_count() < RANKS:
        yield "all-reduce", {"not asked": f"{torch.cuda.device_count()} GPU here, it takes {RANKS}"}
        return
    yield "all-reduce", in_processes(RANKS, work, case.device)[0]


def work(pipe: Connection, rank: int, ranks: int, device_type: str) -> None:
    """The life of a rank: each on a GPU of its own."""
    prepare(Process(1))
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    meeting = Meeting(rank, ranks)
    if rank == 0:
        pipe.send(meeting.open("127.0.0.1"))
    meeting.join(pipe.recv(), device)
    numbers = torch.randn(NUMBERS, generator=torch.Generator().manual_seed(rank)).to(device)

    def reduced() -> torch.Tensor:
        mine = numbers.clone()
        dist.all_reduce(mine)
        return mine

    seen = [see(reduced, device) for _ in range(3)]
    same = bits(seen[1].value) == bits(seen[2].value)
    dist.destroy_process_group()
    pipe.send({"seconds": seen[-1].seconds, "gb_per_s": 4 * NUMBERS / seen[-1].seconds / 1e9, "same_bits_twice": same})
    pipe.recv()
