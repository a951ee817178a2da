"""CLAP: texts for and against, masks, mosaics, a network of normal images, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.methods.clap import ClapDetector
from tether.methods.clap.contrast import contrast_attention, quantile_mask
from tether.methods.clap.inpaint_net import InpaintNet
from tether.methods.clap.msgms import msgms
from tether.methods.clap.padding import mirrored
from tether.methods.clap.repair import learn_repair, mosaic
from tether.models import create
from tether.models.latent.unet import ResidualUNet
from tether.workflows.detect import detect

pytestmark = pytest.mark.slow

WORDS = {"positive": ["a {} with a scratch"], "negative": ["a flawless {}"]}


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def image(*size, seed=0):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def ready(model, **settings):
    return ClapDetector(**WORDS | {"steps": 2, "side": 16, "crop": 16} | settings).prepare(model, "tile")


def test_the_name_stands_in_the_texts_and_texts_decide(model):
    found = ready(model)
    assert torch.equal(found.texts[0], ready(model, positive=["a tile with a scratch"]).texts[0])
    look = found.look([image(40, 40)])[0]
    other = ready(model, negative=["a scratched {}"])
    assert not torch.equal(found.attention(look), other.attention(other.look([image(40, 40)])[0]))
    swapped = ready(model, positive=WORDS["negative"], negative=WORDS["positive"]).look([image(40, 40)])[0]
    torch.testing.assert_close(swapped.rows[0].flip(1), look.rows[0])


@pytest.mark.parametrize("negative", [None, "none"])
def test_positive_texts_alone(model, negative):
    detector = ready(model, negative=negative)
    (look,) = detector.look([image(40, 40)])
    assert not look.rows[0][:, 1].any()
    attention = detector.attention(look)
    assert attention.min() == 0
    assert attention.max() == 1
    assert attention.argmax() == look.rows[0][:, 0].argmax()
    assert 0 < detector.judge(look).score < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positive": []}, "positive: expected a list of at least 1"),
        ({"negative": []}, "negative: expected"),
        ({"positive": [" "]}, "positive: expected texts"),
        ({"negative": ["a\0"]}, "negative: expected texts"),
        ({"quantile": 1.0}, "quantile: expected"),
        ({"side": 4}, "side: expected"),
    ],
)
def test_refused_settings(settings, message):
    with pytest.raises(InputError, match=message):
        ClapDetector(**settings)


def test_refused_input(model):
    patches, texts = torch.zeros(1, 6, 4), torch.zeros(2, 4)
    with pytest.raises(InputError, match=r"features: expected \(b, 2 x 2, d\)"):
        contrast_attention(patches, texts)
    for bad in (torch.zeros(0, 4), torch.zeros(2, 5)):
        with pytest.raises(InputError, match=r"texts: expected \(k, d\) with k > 0"):
            contrast_attention(patches, texts, bad, grid=(2, 3))
    with pytest.raises(InputError, match=r"mask: expected \(b, 1, h, w\)"):
        mosaic(torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="mask: expected bool"):
        mosaic(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(InputError, match="expected two"):
        msgms(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(InputError, match="one at least and a map of each, got 0 and 0"):
        learn_repair([], [])
    with pytest.raises(InputError, match="width: expected a multiple of 8, got 9"):
        ResidualUNet(3, widths=(8, 9))
    with pytest.raises(InputError, match="object: expected the name"):
        ClapDetector().prepare(model, " ")
    with pytest.raises(InputError, match="4000000 x 2 pixels would be repaired as 128000000 x 64"):
        ClapDetector().prepare(model, "tile").look([torch.zeros(3, 2, 4_000_000, dtype=torch.uint8)])


def test_flat_attention_blurs_nothing():
    flat = torch.full((2, 3, 4), 0.5)
    assert not contrast_attention(torch.ones(2, 4, 3), torch.ones(1, 3), torch.ones(2, 3)).any()
    assert not quantile_mask(flat, size=(20, 20)).any()
    corner = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
    assert quantile_mask(corner, size=(9, 40)).float().mean().item() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (33, 17), (64, 64)])
def test_every_size(model, size):
    detector = ready(model)
    detector.remember(detector.look([image(*size)]))
    found = detector.predict([image(*size, seed=1), torch.zeros(3, *size, dtype=torch.uint8)])
    assert [one.size for one in found] == [size, size]
    assert all(np.isfinite(one.values).all() and one.score == one.values.max() for one in found)
    net = InpaintNet(widths=(8, 16))
    assert net(torch.zeros(1, 3, *size)).shape == (1, 3, *size)
    assert mosaic(torch.ones(1, 3, *size), torch.ones(1, 1, *size, dtype=torch.bool)).unique().tolist() == [1.0]
    assert mirrored(torch.zeros(1, 1, *size), multiple=8).shape[2] % 8 == 0


def test_the_network_draws_what_it_learnt_and_nothing_else():
    """Stripes are blurred away by the mosaic and drawn again; another pattern is not."""
    stripes = ((torch.arange(16) // 2) % 2).float().expand(3, 16, 16)
    attention = torch.zeros(4, 4)
    attention[1, 1] = 1
    net = learn_repair([stripes], [attention], steps=250, batch_size=4, seed=1)
    mask = quantile_mask(attention[None], size=(16, 16))
    under = mask.expand(1, 3, 16, 16)
    errors = [float((net(mosaic(one[None], mask)) - one)[under].abs().mean()) for one in (stripes, stripes.mT)]
    blurred = float((mosaic(stripes[None], mask) - stripes)[under].abs().mean())
    assert errors[0] < 0.5 * blurred < errors[1]
    assert not net.training
    assert not any(one.requires_grad for one in net.parameters())


def test_seeds(model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    nets = []
    for seed in (0, 0, 1):
        detector = ready(model, seed=seed)
        nets.append(detector.remember(detector.look([image(20, 20)])).net.state_dict()["first.weight"])
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])
    assert torch.equal(before, torch.get_rng_state())


def test_without_repair_good_images_only_give_a_threshold(model):
    detector = ready(model, repair=False)
    plain = detector.predict([image(40, 40)])[0]
    after = detector.remember(detector.look([image(20, 20)])).predict([image(40, 40)])[0]
    assert np.array_equal(plain.values, after.values)
    assert plain.score == after.score


def test_weighted_maps_are_lower_where_attention_is(model):
    maps = []
    for weighted in (False, True):
        detector = ready(model, weighted=weighted)
        maps.append(detector.remember(detector.look([image(20, 20)])).predict([image(20, 20, seed=2)])[0].values)
    assert (maps[1] <= maps[0]).all()
    assert maps[1].max() < maps[0].max() or maps[1].mean() < maps[0].mean()


def run(out: Path, model, rows=2, **settings):
    return detect(
        f"scenes:rows={rows},size=64",
        model=model,
        out=out,
        good="scenes:rows=3,size=64,seed=1",
        using={"name": "clap", "steps": 2, "side": 16, "crop": 16} | settings,
        name="tile",
    )


def test_a_second_run_reads_the_networks_that_the_first_learnt(tmp_path, model, monkeypatch):
    first = run(tmp_path, model)
    kept = sorted((tmp_path / "learnt").iterdir())
    assert len(kept) == 4  # of three parts of the good images, and of all
    monkeypatch.setattr("tether.methods.clap.detector.learn_repair", lambda *_, **__: pytest.fail("learnt anew"))
    more = run(tmp_path, model, rows=4)
    assert more.kept == 2
    np.testing.assert_array_equal(more.scores[:2], first.scores)
    (tmp_path / "good.json").unlink()
    assert run(tmp_path, model, rows=4).good.scores == first.good.scores
    for path in kept:
        path.write_bytes(b"no network")
    with pytest.raises(InputError, match=r"\.safetensors: not a safetensors file"):
        run(tmp_path, model, rows=5)


def test_a_network_of_other_images_is_not_taken(tmp_path, model):
    for seed in (0, 1):
        detector = ready(model)
        detector.keep_in(tmp_path)
        detector.remember(detector.look([image(20, 20, seed=seed)]))
    one, other = sorted((tmp_path / "learnt").iterdir())
    one.write_bytes(other.read_bytes())
    looks = [detector.look([image(20, 20, seed=seed)]) for seed in (0, 1)]
    with pytest.raises(InputError, match="learnt from other images or settings"):
        [detector.remember(look) for look in looks]
