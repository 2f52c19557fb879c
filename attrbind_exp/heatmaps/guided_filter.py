"""refine=guided_filter: a heat map that follows the edges of its picture.

He, Sun, Tang, "Guided Image Filtering" (TPAMI 2013), equations 14 to 16, with the colour picture I as the guide of the
heat map p. In every window w_k of (2 radius + 1)^2 pixels the result is a linear function of the picture's colours:

    a_k = (cov_k(I) + eps)^-1 cov_k(I, p),   b_k = mean_k(p) - a_k . mean_k(I),   q_i = mean of a_k . I_i + b_k over k
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import ModuleType
from typing import ClassVar

import numpy as np
from PIL import Image

from attrbind_exp.heatmaps.refinement import min_max
from attrbind_exp.types import Sample, UserError

PACKAGE = "opencv-contrib-python-headless"


@dataclass(frozen=True)
class GuidedFilter:
    """OpenCV's guided filter with the picture as the guide, channels from 0 to 1; then stretched to [0, 1].

    `radius` in pixels; `eps`: the larger, the smoother. Windows that reach beyond the picture see it mirrored.
    """

    radius: int = 8
    eps: float = 0.01

    peaks: ClassVar[bool] = True
    classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.radius) is not int or self.radius < 1:
            raise UserError(f"refine.radius={self.radius!r}; give a whole number of pixels >= 1")
        if not isinstance(self.eps, int | float) or not (isfinite(self.eps) and self.eps > 0):
            raise UserError(f"refine.eps={self.eps!r}; give a number > 0, such as 0.01")

    def check(self) -> None:
        """Raise UserError where OpenCV's extra modules are not installed."""
        load_opencv()

    def refine(self, heat: np.ndarray, image: Image.Image, sample: Sample) -> np.ndarray:
        """The filtered heat map (H, W) float32."""
        guide = np.asarray(image, np.float32) / 255  # (H, W, 3)
        found = load_opencv().ximgproc.guidedFilter(guide, heat.astype(np.float32), self.radius, float(self.eps))
        return min_max(found)

    def references(self, sample: Sample, truth: np.ndarray) -> Mapping[str, Sequence[float]]:
        """None."""
        return {}

    def edited(self) -> str:
        """It reads no file."""
        return ""


def load_opencv(asked: str = "refine=guided_filter") -> ModuleType:
    """OpenCV with its extra modules. Raises UserError, saying what `asked` for them, where they are not installed."""
    try:
        import cv2

        cv2.ximgproc.guidedFilter  # noqa: B018  opencv-python has no extra modules
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{asked} needs {PACKAGE}: pip install {PACKAGE} (uninstall opencv-python first, where that is installed)"
        ) from error
    cv2.setNumThreads(1)  # it is called in threads
    return cv2
