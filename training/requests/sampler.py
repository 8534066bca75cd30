"""A seed, an epoch and a number of requests -> batches of positions; the position in the epoch can be saved."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler

EPOCH_STRIDE = (
    1_000_003  # between the seeds of two epochs; a prime, so that runs with neighbouring seeds share no order
)


class BatchSampler(Sampler[list[int]]):
    """Batches of batch_requests positions for each of num_processes processes, the last one smaller.

    One process with twice the batch size sees the same requests in the same steps as two processes: each step's batch
    is split round-robin. A process without a share of a small last batch gets ~position of its first request (a
    negative number): it takes part in the step with a batch that does not count.
    """

    def __init__(
        self, num_requests: int, batch_requests: int, seed: int | None, process: int = 0, num_processes: int = 1
    ) -> None:
        """seed: None for the order of the requests."""
        self.num_requests, self.seed = num_requests, seed
        self.process, self.num_processes = process, num_processes
        self.step_requests = batch_requests * num_processes
        self.epoch, self.position = 0, 0  # position: batches of this epoch already done
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return -(-self.num_requests // self.step_requests)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A new epoch begins at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for number in range(self.position, len(self)):
            step = order[number * self.step_requests : (number + 1) * self.step_requests]
            mine = step[self.process :: self.num_processes]
            yield mine or [~step[0]]

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, and everything that determines the order."""
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed, "num_requests": self.num_requests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that position. Raises ValueError if it belongs to another order."""
        if (state["seed"], state["num_requests"]) != (self.seed, self.num_requests):
            raise ValueError(f"the saved position belongs to another order of requests ({state})")
        self.epoch, self.position = state["epoch"], state["position"]

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.num_requests))
        generator = torch.Generator().manual_seed(self.seed * EPOCH_STRIDE + self.epoch)
        return torch.randperm(self.num_requests, generator=generator).tolist()
