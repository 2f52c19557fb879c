"""What people get wrong in a reading of their own: each is an error that names the class, never another figure."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from attrbind_exp.backbones.backbone import Layer, Request
from attrbind_exp.heatmaps import score_map
from attrbind_exp.heatmaps.diffsegmenter import DiffSegmenter
from attrbind_exp.heatmaps.method import HeatMapMethod, column_means, cross_layers
from attrbind_exp.types import UserError
from tests.conftest import completed_maps, make_segmenter, make_variant

BASELINE = make_variant("baseline")


@dataclass(frozen=True)
class MaxHeads(HeatMapMethod):
    """The maximum over heads, resolution by resolution, or over whatever else `of_layer` leaves."""

    def request(self, columns, layers):
        return Request(cross=cross_layers(columns, layers), by_head=True)

    def of_layer(self, pooled):
        return pooled[:, 0].amax(1)

    def together(self, maps):
        return torch.stack(maps, 1)

    def raw_maps(self, seen, columns, grid):
        maps = []
        for column in columns:
            layers = [self.of_layer(seen.cross[x]) for x in cross_layers([column], list(seen.cross))]
            maps.append(score_map.mean_map(layers, score_map.grid_at(column.ratio, grid), grid))
        return self.together(maps)


def changed(**functions):
    """MaxHeads with other functions, as a class of the same name."""
    return type("MaxHeads", (MaxHeads,), functions)()


def maps_of(model, method, **more):
    segmenter = make_segmenter(model, methods={"max_heads": method, **more})
    return completed_maps(segmenter, ["the white star"], [BASELINE])[0]


def test_the_maximum_over_heads_is_above_their_mean(model):
    highest, means = maps_of(model, MaxHeads()), maps_of(model, DiffSegmenter(power=0), other=MaxHeads())
    assert highest.shape == (1, 4, 16, 16) and means.shape == (1, 8, 16, 16)
    torch.testing.assert_close(means[:, 4:], highest)
    mean = maps_of(model, changed(of_layer=lambda self, pooled: pooled[:, 0].mean(1)))
    assert (highest >= mean).all() and highest.max() > mean.max()


@pytest.mark.parametrize("beside", [{}, {"diffsegmenter": DiffSegmenter()}])
@pytest.mark.parametrize(
    ("functions", "said"),
    [
        (
            {"together": lambda self, maps: sum(maps)},
            r"raw_maps gave float32 of shape \(1, 16, 16\), not .*B = 1, C = 4",
        ),
        ({"together": lambda self, maps: torch.stack(maps)}, r"raw_maps gave float32 of shape \(4, 1, 16, 16\)"),
        ({"together": lambda self, maps: maps}, r"raw_maps gave a list, not floats \(B, C, h, w\)"),
        ({"together": lambda self, maps: None}, r"raw_maps gave a NoneType, not floats"),
        ({"together": lambda self, maps: torch.stack(maps, 1) > 0.1}, r"raw_maps gave bool of shape"),
        ({"of_layer": lambda self, pooled: pooled[:, 0]}, r"raw_maps gave mean_map float32 of shape \(1, 2, 256\)"),
        ({"complete": lambda self, maps, seen: maps.sum(1)}, r"complete gave float32 of shape \(1, 16, 16\), not"),
        ({"complete": lambda self, maps, seen: None}, r"complete gave a NoneType"),
        ({"pools": lambda self, read, length, content: torch.ones(length)}, r"pools gave float32 of shape \(24,\)"),
        ({"pools": lambda self, read, length, content: torch.ones(1, 3)}, r"pools gave .* \(K, L\) with L = 24"),
        ({"request": lambda self, columns, layers: layers}, r"request gave .*; return a Request"),
    ],
)
def test_what_a_function_of_a_reading_gives_is_looked_at(model, functions, said, beside):
    with pytest.raises(UserError, match=f"^MaxHeads.{said}"):
        maps_of(model, changed(**functions), **beside)


def test_heads_that_were_not_asked_for_are_no_axis(model):
    """On an axis of length 1 the maximum over heads was their mean, and nobody was told."""
    with pytest.raises(UserError, match=r"^MaxHeads.raw_maps gave mean_map .*\(1,\), not .*by_head=True"):
        maps_of(model, changed(request=HeatMapMethod.request))


def test_columns_of_a_reading_with_heads_are_means_over_them():
    """The shared means serve methods that ask for heads and those that do not."""
    column = SimpleNamespace(ratio=1, blocks=("up",))
    layer = Layer("one", "up", 1, True)
    heads = torch.arange(8.0).view(1, 1, 2, 4)  # one row, one pooling, two heads of four cells
    seen = SimpleNamespace(cross={layer: heads}, self_attention=[])
    expected = torch.tensor([[[[2.0, 3.0], [4.0, 5.0]]]])
    assert torch.equal(column_means(seen, [column], (2, 2)), expected)
    seen.cross[layer] = heads.mean(2)
    assert torch.equal(column_means(seen, [column], (2, 2)), expected)
