"""How the ranks of a gang find each other: a store on rank 0's node, and the process group that is made through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

PATIENCE = timedelta(minutes=10)  # with a peer that hangs; one that is dead is noticed at once


@dataclass
class Meeting:
    """One rank's part. Rank 0 opens, then all ranks join together, each in a process of its own."""

    rank: int
    ranks: int
    _store: dist.TCPStore | None = field(default=None, repr=False)

    def open(self, host: str) -> str:
        """On rank 0: "host:port" where the others find it. The port is taken from now on, so that nobody else can have it."""
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        return f"{host}:{self._store.port}"

    def join(self, address: str, device: torch.device) -> None:
        """Makes the process group, gloo on a CPU and NCCL on a GPU. Waits for all ranks.

        A process that has a group keeps it: then a later gang in it must have the same rank of as many. Raises ValueError if not.
        """
        if dist.is_initialized():
            if (dist.get_rank(), dist.get_world_size()) != (self.rank, self.ranks):
                raise ValueError(
                    f"rank {self.rank} of {self.ranks} cannot join here: this process is already rank {dist.get_rank()} "
                    f"of {dist.get_world_size()}; each rank needs a process of its own"
                )
            return
        host, _, port = address.rpartition(":")
        store = self._store or dist.TCPStore(host, int(port), timeout=PATIENCE)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.ranks, timeout=PATIENCE)
