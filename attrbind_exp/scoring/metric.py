"""What a metric of your own looks like: one number for one heat map."""

from typing import Protocol

import numpy as np


class Metric(Protocol):
    """A figure of one heat map against its ground truth, in a unit of its own.

    A run means it over noise seeds and expressions and shows it beside the figures that every run has. Several threads
    call it at once. A value that is no finite number is left out of the mean, whose `n` then says so.
    """

    def measure(self, heat: np.ndarray, truth: np.ndarray) -> float:
        """The figure of `heat` (H, W) float32 in [0, 1] against `truth` (H, W) bool."""
        ...
