"""Gradient steps on noisy latents: their losses against an oracle, their gradients against differences, and who keeps
what it had."""

import math
from dataclasses import replace

import pytest
import torch
from omegaconf import open_dict
from torch.nn import functional as F

from attrbind_exp import config
from attrbind_exp.backbones.backbone import Embedding, Request
from attrbind_exp.backbones.recompute import recomputing
from attrbind_exp.backbones.stable_diffusion_xl import StableDiffusionXL
from attrbind_exp.commands.doctor import plan
from attrbind_exp.edits import TextBlind, Variant
from attrbind_exp.edits.variant import has_latent_steps, is_floor, is_plain
from attrbind_exp.heatmaps.segmenter import Segmenter
from attrbind_exp.latent_steps.attend_and_excite import AttendAndExcite
from attrbind_exp.latent_steps.conform import Conform
from attrbind_exp.latent_steps.syngen import Syngen
from attrbind_exp.latent_steps.take import make_steps, mean_of_layers
from attrbind_exp.latent_steps.words import Thing, Words, find_words
from attrbind_exp.reporting.gallery import shown_variants
from attrbind_exp.types import UserError
from tests.conftest import completed_maps, make_segmenter, make_variant
from tests.oracle import depth_of, keep_all_attention
from tests.test_command import composed

METHODS = [Syngen(), AttendAndExcite(), Conform()]
TEXT = "the white star next to a blue square"
WORDS = Words((Thing((6,), ((5,),)), Thing((11,), ((10,),))), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
PLAIN = Variant("baseline")


def stepping(segmenter, method):
    """The same segmenter with latent steps."""
    s = segmenter
    return Segmenter(s.backbone, s.text, s.settings, s.methods, latent_steps=method)


# The losses, written to be read: words by number, loops, no code of the package.


def oracle_kl(p, q):
    p, q = (p / p.sum()).flatten().tolist(), (q / q.sum()).flatten().tolist()
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def oracle_apart(maps, one, other):
    """Symmetric KL of two words; of those of several tokens the largest."""
    return max((oracle_kl(maps[a], maps[b]) + oracle_kl(maps[b], maps[a])) / 2 for a in one for b in other)


def oracle_syngen(maps, words):
    total = 0.0
    for thing in words.things:
        inside = {*thing.noun, *(p for word in thing.attributes for p in word)}
        outside = [p for p in words.content if p not in inside]
        for modifier in thing.attributes:
            total += oracle_apart(maps, modifier, thing.noun)
            apart = [oracle_apart(maps, modifier, [u]) + oracle_apart(maps, thing.noun, [u]) for u in outside]
            total -= sum(apart) / 2 / len(outside) if outside else 0
    return total


def oracle_share(maps, position):
    """One token's share of all but the window's first and last position, cell by cell, under a 3 x 3 kernel with
    mirrored edges."""
    exponents = {p: torch.exp(100 * maps[p]) for p in range(1, len(maps) - 1)}
    share = exponents[position] / sum(exponents.values())
    kernel = torch.tensor([[math.exp(-(x * x) - y * y) for x in (-1, 0, 1)] for y in (-1, 0, 1)], dtype=maps.dtype)
    padded = F.pad(share[None, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[0, 0]


def oracle_excite(maps, words):
    nouns = [p for thing in words.things for p in thing.noun]
    return max(1 - oracle_share(maps, p).max().item() for p in nouns)


def oracle_conform(maps, words, temperature=0.5):
    tokens = [(n, p) for n, thing in enumerate(words.things) for p in [*thing.noun, *sum(thing.attributes, ())]]
    found = {p: oracle_share(maps, p).flatten() for _, p in tokens}

    def alike(a, b):
        return math.exp(F.cosine_similarity(found[a], found[b], 0).item() / temperature)

    terms = []
    for n, a in tokens:
        for m, b in tokens:
            if a != b and n == m:
                others = sum(alike(a, c) for k, c in tokens if k != n)
                terms.append(-math.log(alike(a, b) / (alike(a, b) + others)))
    return sum(terms) / len(terms)


ORACLES = {"syngen": oracle_syngen, "attend_and_excite": oracle_excite, "conform": oracle_conform}
MANY_TOKENS = Words((Thing((4, 5), ((2,), (3,))), Thing((7,)), Thing((9,), ((8,),))), tuple(range(1, 10)))


@pytest.mark.parametrize("words", [WORDS, MANY_TOKENS], ids=["two things", "words of several tokens"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_loss_is_the_papers(method, words):
    maps = torch.rand(77, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 20
    assert method.loss(maps, words).item() == pytest.approx(ORACLES[method.kind](maps, words), rel=1e-9)


# The loss and its gradient's length, found by running the authors' own functions on `waves`: compute_loss.py and
# _attribution_loss of RoyiRa/Linguistic-Binding-in-Diffusion-Models at 50b8eab, _compute_max_attention_per_index and
# _compute_loss of yuval-alaluf/Attend-and-Excite at 163efdf, _compute_contrastive_loss of gemlab-vt/CONFORM at 4ad0e37
# with pytorch-metric-learning 2.9.0; all as their scripts have it for Stable Diffusion 1.x, without a timestep before.
# Those that smooth do so with float32 weights.
AUTHORS = {
    "syngen": [(-0.67445837, 159.572954), (2.47824258, 463.243742)],
    "attend_and_excite": [(0.72344021, 10.9504628), (0.24239322, 1.24671993)],
    "conform": [(1.02043605, 2.32264601), (1.47698540, 0.58826535)],
}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_words_that_no_cell_attends_to_leave_loss_and_gradient_finite(method):
    maps = torch.full((77, 4, 4), 1e-4)
    maps[40] = 1 - maps.sum(0)  # padding has it all, and softmax of 100 A leaves words less than float32 can square
    maps.requires_grad_()
    for words in (WORDS, MANY_TOKENS):
        (gradient,) = torch.autograd.grad(method.loss(maps, words), maps)
        assert gradient.isfinite().all()


def waves():
    """Cross-attention (77, 16, 16) that sums to 1 in each cell, drawn by no generator of numbers."""
    p, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (77, 16, 16)), indexing="ij")
    return (2 * (1.3 * p + 0.7 * y).sin() + 2 * (0.9 * p**2 + 0.4 * x).cos() - 0.02 * p).softmax(0)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_loss_and_its_gradient_are_what_the_authors_code_gives(method):
    for words, (loss, length) in zip((WORDS, MANY_TOKENS), AUTHORS[method.kind], strict=True):
        maps = waves().requires_grad_()
        found = method.loss(maps, words)
        (gradient,) = torch.autograd.grad(found, maps)
        assert (found.item(), gradient.norm().item()) == pytest.approx((loss, length), rel=1e-6)


def test_a_loss_by_hand():
    maps = torch.zeros(4, 1, 2, dtype=torch.float64)
    maps[1:] = torch.tensor([[[0.2, 0.2]], [[0.3, 0.1]], [[0.1, 0.3]]])
    words = Words((Thing((2,), ((1,),)),), (1, 2, 3))
    # Of (1/2, 1/2), (3/4, 1/4) and (1/4, 3/4): D of the first to each other is log(3) / 8, of the others log(3) / 2.
    expected = math.log(3) * (1 / 8 - (1 / 8 + 1 / 2) / 2)
    assert Syngen().loss(maps, words).item() == pytest.approx(expected, rel=1e-6)


def noisy_rows(model, count=2, seed=5):
    return torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(seed), dtype=model.dtype)


def embedding_of(model, *texts):
    return Embedding(torch.stack([e.states for e in model.encode_text([f"a photograph of {t}" for t in texts])]))


def words_of(segmenter, text):
    return find_words(segmenter.prepare([text])[0], segmenter.backbone.window)


def loss_of(method, model, z, timestep, embedding, words):
    """Each row's loss, from attention matrices that the oracle keeps."""
    found = []
    for row, own, keys in zip(z, words, embedding.keys, strict=True):
        kept = keep_all_attention(model.unet, row[None], timestep, keys, keys)
        deep = len(model.unet.config.block_out_channels)
        layers = [
            m.mean(0) for n, m in kept.items() if ".attn2." in n and 2 ** depth_of(n, deep) == method.ratio
        ]  # (n, L)
        grid = [n // method.ratio for n in z.shape[-2:]]
        found.append(ORACLES[method.kind]((sum(layers) / len(layers)).T.unflatten(1, grid), own))
    return found


def test_words_lie_where_the_tokenizer_has_them(segmenter):
    assert words_of(segmenter, TEXT) == WORDS
    assert words_of(segmenter, "the star").things == (Thing((5,)),)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_gradient_is_the_slope_of_the_loss(exact_model, method):
    """In float64, along the gradient and a random direction: differences of the oracle's loss."""
    segmenter = make_segmenter(exact_model)
    words, embedding = [words_of(segmenter, TEXT)], embedding_of(exact_model, TEXT)
    z = noisy_rows(exact_model, 1)
    exact = replace(method, size=1.0)
    gradient = z - make_steps(exact, exact_model)(z, 100, embedding, words)
    for way in (gradient / gradient.norm(), noisy_rows(exact_model, 1, 9) / 32):
        ahead, behind = (loss_of(method, exact_model, z + e * way, 100, embedding, words)[0] for e in (1e-5, -1e-5))
        assert (gradient * way).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_small_steps_lower_the_loss_of_each_row(exact_model, method):
    segmenter, texts = make_segmenter(exact_model), (TEXT, "a red heart and a black circle")
    words, embedding = [words_of(segmenter, t) for t in texts], embedding_of(exact_model, *texts)
    z = noisy_rows(exact_model)
    before = loss_of(method, exact_model, z, 100, embedding, words)
    after = loss_of(
        method, exact_model, make_steps(replace(method, size=1e-5), exact_model)(z, 100, embedding, words), 100,
        embedding, words,
    )  # fmt: skip
    assert all(new < old for new, old in zip(after, before, strict=True))


def test_no_steps_are_the_baseline_bit_for_bit(model):
    plain = make_segmenter(model)
    none = stepping(plain, Syngen(steps=0))
    for ours, theirs in zip(*(completed_maps(s, [TEXT], [PLAIN]) for s in (none, plain)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("method", "text"),
    [(Syngen(), "the star"), (Conform(), "the white star"), (Conform(), "the star and a square")],
    ids=["no modifier", "one thing", "no pair within a thing"],
)
def test_a_prompt_without_a_pair_keeps_its_map_bit_for_bit(segmenter, method, text):
    """Beside a row that steps, on a picture of its own and at one size of passes."""
    both, alone = (
        completed_maps(s, [text, TEXT], [PLAIN], batch_size=4) for s in (stepping(segmenter, method), segmenter)
    )
    assert torch.equal(both[0], alone[0])
    assert not torch.allclose(both[1], alone[1], atol=1e-3)


def test_the_floor_takes_no_step_and_shares_nothing_with_rows_that_do(segmenter):
    variants = [PLAIN, make_variant("ours", replace=True, alpha=0.9), Variant("blind", (TextBlind(),))]
    stepped, plain = (completed_maps(s, [TEXT], variants)[0] for s in (stepping(segmenter, Syngen()), segmenter))
    assert torch.equal(stepped[2], plain[2])
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(stepped[:2], plain[:2], strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.kind)
def test_a_row_does_not_depend_on_its_batch(segmenter, method):
    """Alone in a pass of four rows, and in another place beside others: the same bits."""
    steps = make_steps(replace(method, steps=2), segmenter.backbone)
    texts = [
        "a red heart and a black circle",
        TEXT,
        "a big white star on a blue square",
        "a grey circle by a red heart",
    ]
    words, embedding = [words_of(segmenter, t) for t in texts], embedding_of(segmenter.backbone, *texts)
    z = noisy_rows(segmenter.backbone, 4)
    together = steps(z, 100, embedding, words)
    turned = [2, 3, 1, 0]
    moved = steps(z[turned], 100, Embedding(embedding.keys[turned]), [words[i] for i in turned])
    only = steps(z, 100, embedding, [None, words[1], None, None])
    assert torch.equal(together[turned], moved)
    assert torch.equal(only[1], together[1]) and torch.equal(only[[0, 2, 3]], z[[0, 2, 3]])
    assert not torch.equal(together[1], z[1])


def test_recomputing_changes_no_gradient_and_leaves_no_trace(exact_model):
    """Against autograd through a whole pass that keeps everything."""
    segmenter = make_segmenter(exact_model)
    words, embedding = words_of(segmenter, TEXT), embedding_of(exact_model, TEXT)
    method, z = Syngen(), noisy_rows(exact_model, 1)
    layers = tuple(x for x in exact_model.layers if x.cross and x.ratio == method.ratio)
    pools = torch.eye(embedding.keys.shape[1], dtype=z.dtype)[None]

    def loss(seen):
        return method.loss(mean_of_layers(seen, layers)[0].unflatten(1, (4, 4)), words)

    ours = exact_model.gradient(z, 100, embedding, Request(cross=layers), pools, loss)
    leaf = z.clone().requires_grad_()
    plain = torch.autograd.grad(loss(exact_model.observe(leaf, 100, embedding, Request(cross=layers), pools)), leaf)[0]
    assert torch.allclose(ours, plain, rtol=1e-10, atol=1e-14)
    assert not any("forward" in vars(module) for module in exact_model.unet.modules())


def test_a_gradient_keeps_less_than_half_of_what_autograd_would(model):
    """Bytes that wait for the way back, counted by torch itself."""
    embedding, z = embedding_of(model, TEXT), noisy_rows(model, 1).requires_grad_()

    def kept():
        storages = {}

        def note(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            made = model.denoise(z, 100, embedding)
        weights = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
        del made
        return sum(size for place, size in storages.items() if place not in weights)

    plain = kept()
    with recomputing(model.unet):
        assert kept() < plain / 2


def test_a_model_that_cannot_is_refused(model):
    class Without:
        layers, gradient = model.layers, StableDiffusionXL.gradient

    with pytest.raises(UserError, match=r"latent_steps=syngen: this model gives no gradient.*use latent_steps=none"):
        make_steps(Syngen(), Without())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"latent_steps\.ratio=16; this model has 1, 2, 4"):
        make_steps(Syngen(ratio=16), model)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"steps": -1}, "steps=-1; give a whole number >= 0"), ({"steps": 1.5}, "steps=1.5"), ({"size": 0.0}, "size=0.0"),
     ({"ratio": 0}, "ratio=0; give a whole number >= 1"), ({"size": float("nan")}, "size=nan")],
)  # fmt: skip
def test_numbers_that_cannot_be_are_named(given, said):
    with pytest.raises(UserError, match=said):
        Syngen(**given)


def test_a_run_with_steps_is_another_run_and_says_so():
    plain, none, three = (
        config.read_settings(composed("text_processor=paper", *given))
        for given in ((), ("latent_steps=syngen", "latent_steps.steps=0"), ("latent_steps=syngen", "latent_steps.steps=3"))
    )  # fmt: skip
    assert plain.key == none.key != three.key
    assert none.segmenter.latent_steps is None and three.segmenter.latent_steps == Syngen(3)
    labels = [v.label for v in three.run.variants]
    assert labels == ["baseline + syngen x3", "attribute_binding alpha=0.9 + syngen x3", "text_blind"]
    assert [has_latent_steps(x) for x in labels] == [True, True, False]
    assert not is_plain(labels[0]) and is_plain("baseline heatmap=daam") and is_floor(labels[2])
    assert Syngen(3, size=5.0).label == "syngen x3 size=5"
    assert all(has_latent_steps(v.label) for v in shown_variants(three.run))


def test_a_configuration_older_than_the_group_has_the_same_hash():
    cfg = composed("text_processor=paper")
    before = config.config_hash(cfg)
    with open_dict(cfg):
        del cfg["latent_steps"]
    assert config.config_hash(cfg) == before
    assert config.segmenter_settings(cfg).latent_steps is None


def test_the_doctor_counts_steps_but_none_of_the_floor():
    settings = config.read_settings(composed("text_processor=paper", "latent_steps=conform", "latent_steps.steps=2"))
    cost = plan.cost_of(settings)
    assert (cost.embeddings, cost.each, cost.floors) == (3, 7, 1)
    assert cost.passes(10) == 10 * (2 * 7 + 1)
