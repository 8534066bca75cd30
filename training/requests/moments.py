"""Rows -> mean and standard deviation of each column, merged over chunks and over processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError


@dataclass(frozen=True)
class Moments:
    """Of some rows."""

    number: int
    mean: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]  # sum of squared distances from the mean

    @classmethod
    def none(cls, width: int) -> "Moments":
        """Of no rows."""
        return cls(0, np.zeros(width), np.zeros(width))

    def merged(self, other: "Moments") -> "Moments":
        """Of the rows of both. Source: Chan et al. 1979, which merges sums of squares without cancellation."""
        total = self.number + other.number
        if not other.number:
            return self
        apart = other.mean - self.mean
        spread = self.spread + (other.spread + apart**2 * (self.number * other.number / total))
        return Moments(total, self.mean + apart * (other.number / total), spread)

    def require_finite(self, names: Sequence[str]) -> None:
        """Raises InputError that names the columns with a value that is no number: no model could be fitted on them."""
        bad = np.flatnonzero(~(np.isfinite(self.mean) & np.isfinite(self.spread)))
        if len(bad):
            named = ", ".join(names[int(column)] for column in bad[:3])
            raise InputError(
                f"{named}: {len(bad)} of {len(self.mean)} scalar features "
                "hold a value that is not finite (NaN or infinite) on a row to train on, so nothing was trained. The "
                "counters are damaged: `dvc repro -f statistics` makes them again."
            )

    def standardisation(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean, standard deviation)."""
        return self.mean, np.sqrt(self.spread / max(self.number, 1))
