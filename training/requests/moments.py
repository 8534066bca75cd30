"""Rows -> mean and standard deviation of each column, merged over chunks and over processes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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

    def standardisation(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean, standard deviation)."""
        return self.mean, np.sqrt(self.spread / max(self.number, 1))
