"""The recipe anomaly_adapters: good images that are drawn, what is learnt, the head's file, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from memory_rows import MemoryRows, damaged
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import Given, play
from tether.adaptation.recipes.defect_rows import DefectRows, read_defects
from tether.core.errors import InputError
from tether.data.defect_truths import DefectTruths
from tether.methods.adaptclip import AdaptclipDetector, AnomalyAdaptersHead, AnomalyAdaptersRecipe
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.methods.adaptclip.recipe import AdaptersStep
from tether.models import create
from tether.models.features.value_attention import ValueRows
from tether.models.towers.clip import Clip

SETTINGS = {"name": "anomaly_adapters", "epochs": 2, "length": 4, "hidden": 8, "templates": ["a {}"]}


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


def of_products(count: int = 24) -> MemoryRows:
    """Every third pair of images shows another thing."""
    rows = damaged(count).rows
    named = [replace(row, meta={**row.meta, "thing": "abc"[number // 2 % 3]}) for number, row in enumerate(rows)]
    return MemoryRows(named, name="products")


def head(dim: int = 64, *, layers: tuple[int, ...] = (0, 1)) -> AnomalyAdaptersHead:
    torch.manual_seed(0)
    return AnomalyAdaptersHead(TrainedAdapters(AdaptClip(torch.randn(2, dim), layers=len(layers), hidden=8), layers))


def test_good_images_show_the_same_thing_and_are_others(model: Clip) -> None:
    reader = ValueRows(model)
    rows = read_defects(reader, of_products(), DefectTruths(), product="thing")
    assert rows.products[:6] == ("a", "a", "b", "b", "c", "c")
    step, numbers = AdaptersStep(reader, rows, shots=3, seed=1), torch.arange(24)
    drawn = step.drawn(numbers, step=5)
    assert torch.equal(drawn, step.drawn(numbers, step=5))
    assert not torch.equal(drawn, step.drawn(numbers, step=6))
    for number, some in enumerate(drawn.tolist()):
        assert number not in some
        assert {rows.products[one] for one in some} == {rows.products[number]}
        assert not rows.labels[some].any()
    every = torch.cat([step.drawn(numbers, step=one)[0] for one in range(40)])
    assert set(every.tolist()) == set(range(6, 24, 6))  # all good ones of the first thing but itself


def test_an_only_good_image_is_compared_with_itself_and_none_is_refused(model: Clip) -> None:
    reader = ValueRows(model)
    two = DefectRows(
        torch.randn(2, reader.dim), torch.tensor([0, 1]), torch.zeros(2, 32, 32) > 0, torch.ones(2) > 0, ("", "")
    )
    assert AdaptersStep(reader, two).drawn(torch.tensor([0, 1]), step=0).tolist() == [[0], [0]]
    with pytest.raises(InputError, match="product 'b': expected an image without a defect, got none"):
        AdaptersStep(reader, replace(two, products=("a", "b")))
    with pytest.raises(InputError, match=r"0: expected which thing it shows in column 'thing', got nothing"):
        read_defects(reader, damaged(4), DefectTruths(), product="thing")


def test_adapters_learn_what_is_damaged(model: Clip) -> None:
    rows, losses = damaged(24), list[float]()
    recipe = AnomalyAdaptersRecipe(epochs=15, length=4, hidden=16, templates=["a {}"], learning_rate=3e-3)
    tuning = recipe.tuning(model, Given("images", rows, 24))
    outcome = play(tuning, model, on_step=lambda one: losses.append(float(one.loss))).outcome
    assert outcome is not None
    assert isinstance(outcome.head, AnomalyAdaptersHead)
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    adapters = outcome.head.inner.adapters
    assert not torch.allclose(adapters.learnt, adapters.fixed)
    assert not any(part.training for part in adapters.modules())
    blocks = len(adapters.compare.norms)
    counted = adapters.state_dict()["compare.places.1.num_batches_tracked"]
    assert (blocks, int(counted)) == (2, len(losses) * 2)  # a shared norm counts every block
    detector = AdaptclipDetector(head=outcome.head.inner).prepare(model, "square")
    images = [torch.from_numpy(row.image).permute(2, 0, 1) for row in rows.rows]
    masks = np.stack([row.meta["mask"] > 0 for row in rows.rows])
    detector.remember(detector.look(images[0:12:2]))
    maps = np.stack([one.pixels() for one in detector.predict(images)])
    assert maps[masks].mean() > maps[~masks].mean() + 0.05


def test_a_head_is_kept_measured_and_finds_defects(model: Clip, tmp_path: Path) -> None:
    done = tether.adapt(model, damaged(60), recipe=SETTINGS, out=tmp_path / "head", test=damaged(20, seed=1))
    assert [one.name[:5] for one in done.report.own] == ["image", "pixel"]
    assert "--with adaptclip --head" in "".join(done.report.next)
    kept = load_head(tmp_path / "head", model=model)
    assert isinstance(kept, AnomalyAdaptersHead)
    scenes = "scenes:rows=3,size=64"
    found = tether.detect(scenes, model=model, head=tmp_path / "head", good="scenes:rows=6,size=64,seed=1")
    alone = tether.detect(scenes, model=model, head=kept)
    assert (found.method, alone.method) == ("adaptclip", "adaptclip")
    assert found.good.threshold is not None
    assert not np.allclose(found.scores, alone.scores)  # good images are compared with
    with torch.no_grad():
        said = kept.logits(kept.reader(model).encode_image(torch.zeros(2, 3, 32, 32)).pooled)
    assert said.shape == (2, 2)
    torch.testing.assert_close(said.exp().sum(dim=1), torch.ones(2))


def test_settings_travel_with_the_head(model: Clip, tmp_path: Path) -> None:
    spec = SETTINGS | {"image_size": 48, "layers": [1], "blocks": 1, "post_norm": True, "epochs": 1}
    spec |= {"context": False, "apart": False, "shots": 2}
    done = tether.adapt(model, damaged(40), recipe=spec, out=tmp_path / "head")
    kept = load_head(tmp_path / "head", model=model)
    assert isinstance(kept, AnomalyAdaptersHead)
    assert kept.inner.settings() == {"layers": (1,), "blocks": 1, "post_norm": True, "image_size": 48}
    assert (kept.inner.adapters.apart, kept.inner.adapters.compare.context) == (False, False)
    made = done.head
    assert isinstance(made, AnomalyAdaptersHead)
    image = torch.randint(0, 256, (3, 60, 20), dtype=torch.uint8)
    first, second = (AdaptclipDetector(head=one.inner).prepare(model, "tile") for one in (made, kept))
    (look,) = first.look([image])
    assert (look.grid, len(look.rows)) == ((6, 6), 2)
    assert np.array_equal(first.judge(look).values, second.judge(look).values)
    assert first.settings() == second.settings()


def test_no_support_and_other_grids(model: Clip) -> None:
    detector = AdaptclipDetector(head=head().inner).prepare(model, "tile")
    images = [torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8) for _ in range(3)]
    first, *good = detector.look(images)
    alone = detector.judge(first)
    assert not np.allclose(detector.remember(good).judge(first).values, alone.values)
    assert np.array_equal(detector.remember([]).judge(first).values, alone.values)
    assert detector.remember(good).judge(good[1]).values.max() < 1e-5  # it is one of the good ones
    with pytest.raises(InputError, match=r"good image 1: expected patches on a grid of \(4, 4\), got \(2, 8\)"):
        detector.remember([good[0], replace(good[1], grid=(2, 8))])
    with pytest.raises(InputError, match=r"look: expected patches on a grid of \(4, 4\), got \(2, 8\)"):
        detector.judge(replace(first, grid=(2, 8)))
    small = AdaptclipDetector(head=head().inner, memory=5).prepare(model, "tile")
    assert not np.allclose(small.remember(good).judge(first).values, detector.judge(first).values)


def test_bad_heads(model: Clip) -> None:
    scenes = "scenes:rows=2,size=64"
    with pytest.raises(InputError, match="adaptclip: needs --head FOLDER, from tether adapt --recipe anomaly-adapters"):
        tether.detect(scenes, model=model, using="adaptclip")
    bound = head().bind_(model)
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        tether.detect(scenes, model=create("tiny", seed=2).eval(), head=bound)
    with pytest.raises(InputError, match="is for --with adaptclip, got anomalyclip"):
        tether.detect(scenes, model=model, head=bound, using="anomalyclip")
    with pytest.raises(InputError, match="adapters: are for embeddings of length 32, the model's have 64"):
        AdaptclipDetector(head=head(32).inner).prepare(model, "tile")
    arrays = {name: one for name, one in bound.arrays().items() if "norms" not in name}
    with pytest.raises(InputError, match="Missing key"):
        AnomalyAdaptersHead.restore(arrays, classes=bound.classes, settings=bound.settings())
    damaged_one = head()
    damaged_one.inner.adapters.fixed[0, 0] = torch.nan
    with pytest.raises(InputError, match="anomaly_adapters head: 'fixed': expected finite numbers"):
        AnomalyAdaptersHead(damaged_one.inner)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 1}, "batch_size"),
        ({"hidden": 1}, "hidden"),
        ({"layers": []}, "layers"),
        ({"layers": [5]}, "layer: expected -2 to 1, got 5"),
        ({"reduction": 100}, "reduction: expected at most 64"),
        ({"length": 40}, "tokens more than the 24 that the model reads"),
        ({"image_size": 33}, "multiple"),
        ({"product": "thing"}, "expected which thing it shows in column 'thing'"),
    ],
)
def test_settings_that_do_not_fit(model: Clip, more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tether.adapt(model, damaged(12), recipe=SETTINGS | more)
