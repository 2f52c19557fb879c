"""Which of several comparisons still differ when all of them are counted? Pure."""

from collections.abc import Sequence


def survive(ps: Sequence[float | None], level: float = 0.05) -> list[bool]:
    """Which comparisons survive Holm's correction, by their p. None is no comparison: it is not counted.

    1. Take the smallest of N values first. 2. It survives at level / N, the next one at level / (N - 1), and so on.
    3. The first that does not ends it. The probability that any of the survivors is no difference is at most `level`.
    """
    found = [False] * len(ps)
    known = {i: p for i, p in enumerate(ps) if p is not None}
    for rank, i in enumerate(sorted(known, key=lambda i: known[i])):
        if known[i] > level / (len(known) - rank):
            break
        found[i] = True
    return found
