"""Which maps a run makes, and how each way of reading sums them."""

from collections.abc import Mapping, Sequence

from attrbind_exp.backbones.backbone import Layer
from attrbind_exp.backbones.reading import Reading
from attrbind_exp.heatmaps.layers import Column
from attrbind_exp.heatmaps.method import HeatMapMethod
from attrbind_exp.types import MapSettings

MadeBy = tuple[str, Column]  # the name of a heat-map method, and one of its columns


class Plan:
    """The columns of all heat-map methods of a run under all of its choices of layers.

    `columns`: what is made of every pass, in order; a map of weight 0 is left out unless all are to be kept. `layers`:
    of the model. Raises UserError where a choice of layers makes no map.
    """

    def __init__(
        self,
        methods: Mapping[str, HeatMapMethod],
        settings: MapSettings,
        layers: Sequence[Layer],
        reading: Reading,
    ):
        self.methods, self.layers = methods, layers
        choices = {None: settings.layers} | dict(settings.grid)
        self._weights = {
            (name, choice): {(name, column): w for column, w in method.columns(chosen, layers, reading).items()}
            for name, method in methods.items()
            for choice, chosen in choices.items()
        }
        weighed = [pair for found in self._weights.values() for pair in found.items()]
        self.columns: list[MadeBy] = list(dict.fromkeys(made for made, weight in weighed if weight or settings.keep))

    def of_method(self, name: str) -> list[Column]:
        """The columns of one method, in order."""
        return [column for method, column in self.columns if method == name]

    def weights(self, heatmap: str | None, layers: str | None) -> Mapping[MadeBy, float]:
        """The weight of each column under a heat-map method (None = the run's first) and a choice of layers (None = the
        settings' own)."""
        return self._weights[heatmap or next(iter(self.methods)), layers]
