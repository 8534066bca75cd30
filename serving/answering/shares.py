"""Ranked candidates -> a list that balances scores against the user's themes; `diversity` is the weight of the balance.

The list is built greedily; each step takes the item i that maximises

    r(i) + diversity x sum over themes t of b(i, t) x (u(t) - l(t))

r: the item's click probability divided by the largest one of all candidates. b: how much the item belongs to a theme.
u: the theme's share of the user's current interest. l: its share of the list so far. With diversity 0 the order is the
model's; otherwise themes with a smaller share of the list than of the user's interest gain, and the others lose.

A model without themes compares vectors instead: r(i) - diversity x the greatest cosine of i with an item of the list so
far, the rule of maximal marginal relevance (Carbonell and Goldstein 1998). Shapes: M candidates, T themes, D width.
"""

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


def by_share(probability_M: Floats, belonging_MT: Floats, current_T: Floats, num: int, diversity: float) -> Int64:
    """Positions of the chosen candidates, in the list's order; ties go to the earlier candidate."""
    gain_M = _relevance(probability_M)
    taken, listed_T = np.full(min(num, len(gain_M)), -1), np.zeros(len(current_T))
    open_M = np.zeros(len(gain_M))
    for place in range(len(taken)):
        needed_T = current_T - listed_T / max(place, 1)
        taken[place] = chosen = int(np.argmax(gain_M + diversity * (belonging_MT @ needed_T) + open_M))
        open_M[chosen] = -np.inf
        listed_T += belonging_MT[chosen]
    return taken


def by_distance(probability_M: Floats, unit_MD: Floats, num: int, diversity: float) -> Int64:
    """As by_share, for a model without themes. unit_MD: the items' vectors, of length 1."""
    gain_M = _relevance(probability_M)
    taken, nearest_M = np.full(min(num, len(gain_M)), -1), np.zeros(len(gain_M))
    open_M = np.zeros(len(gain_M))
    for place in range(len(taken)):
        taken[place] = chosen = int(np.argmax(gain_M - diversity * nearest_M + open_M))
        open_M[chosen] = -np.inf
        nearest_M = np.maximum(nearest_M, unit_MD @ unit_MD[chosen])
    return taken


def _relevance(probability_M: Floats) -> Floats:
    greatest = float(probability_M.max(initial=0.0))
    return probability_M.astype(np.float64) / greatest if greatest > 0 else np.zeros(len(probability_M))
