"""A seed, an epoch and a process's share of the requests -> batches; the position in the epoch can be saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

EPOCH_STRIDE = (
    1_000_003  # between the seeds of two epochs; a prime, so that runs with neighbouring seeds share no order
)


@dataclass(frozen=True)
class Share:
    """The requests of one of several processes that train together."""

    positions: npt.NDArray[np.int64]  # in the dataset, ascending
    largest: int  # number of requests of the process that has the most


def share_out(user_index: npt.NDArray[np.integer], num_processes: int) -> list[npt.NDArray[np.int64]]:
    """Positions of each process's requests: those of a range of users, whose histories lie side by side on disk.

    Every request has one process. The ranges are cut between users, where the number of requests comes closest to equal
    shares: two shares differ by at most twice the requests of the user with the most.
    """
    _, user_of, counts = np.unique(user_index, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # of each user's requests, when all stand in the order of their users
    process_of = np.minimum(middle * num_processes // max(len(user_index), 1), num_processes - 1)[user_of]
    return [np.flatnonzero(process_of == process) for process in range(num_processes)]


class BatchSampler(Sampler[list[int]]):
    """Batches of batch_requests positions of a process's share, the last one smaller.

    All processes take as many steps as the largest share needs, since each step waits for all of them. A process whose
    share ends earlier gets ~position of a request (a negative number): it takes part in the step with a batch that does
    not count. So no process waits for ever, and each request counts once an epoch.
    """

    def __init__(self, num_requests: int, batch_requests: int, seed: int | None, share: Share | None = None) -> None:
        """num_requests: in the dataset. seed: None for the order of the requests. share: None for all of them."""
        self.num_requests, self.batch_requests, self.seed = num_requests, batch_requests, seed
        self.share = share or Share(np.arange(num_requests), num_requests)
        self.epoch, self.position = 0, 0  # position: batches of this epoch already done
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return -(-self.share.largest // self.batch_requests)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A new epoch begins at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for number in range(self.position, len(self)):
            yield order[number * self.batch_requests : (number + 1) * self.batch_requests] or [~0]

    def state_dict(self) -> dict[str, Any]:
        """The position in the epoch, and everything that determines the order; the same in every process."""
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed, "num_requests": self.share.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that position. Raises ValueError if it belongs to another order."""
        if (state["seed"], state["num_requests"]) != (self.seed, self.share.largest):
            raise ValueError(f"the saved position belongs to another order of requests ({state})")
        self.epoch, self.position = state["epoch"], state["position"]

    def _order(self) -> list[int]:
        positions = self.share.positions
        if self.seed is None:
            return positions.tolist()
        generator = torch.Generator().manual_seed(self.seed * EPOCH_STRIDE + self.epoch)
        return positions[torch.randperm(len(positions), generator=generator).numpy()].tolist()
