"""Models made useless and whole again: which weights move, how far, any encoder, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tether
from families import FAMILIES
from tether.compression.protect import FilterController, Obfuscator, Secret, accuracy, layer_weights, near_masks
from tether.compression.protect.weights import eps_of_share, mean_weight, ranges
from tether.compression.quantise import Octav
from tether.core.errors import InputError, NotFiniteError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.core.types import Batch
from tether.methods.nnsplitter import fine_tune_attack, random_change
from tether.models import create
from tether.models.convert.saved_files import write_weights

pytestmark = pytest.mark.slow


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def rows(count: int = 60) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    return [(x[: count // 2], x[: count // 2, :3].argmax(1)), (x[count // 2 :], x[count // 2 :, :3].argmax(1))]


def learnt() -> nn.Sequential:
    net, data = small_net(), rows()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        for x, y in data:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


def test_only_masked_weights_move_within_their_range_and_come_back_to_the_bit() -> None:
    net, data = learnt(), rows()
    before = copy.deepcopy(net.state_dict())
    obfuscator = Obfuscator(net, eps=0.5, per_layer=2, rounds=3, samples=3, epochs=30, patience=20, clamp="layer")
    broken, secret = obfuscator.fit(data)
    found = obfuscator.found
    assert found is not None
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    masks = near_masks(layer_weights(net), list(found.filters.values()), c=found.c, eps=found.eps)
    bounds = ranges(layer_weights(net), "layer")
    for name, value in broken.state_dict().items():
        differs = value != before[name]
        assert not bool((differs & ~masks[name]).any()) if name in masks else not bool(differs.any()), name
        if name in bounds:
            assert bounds[name][0] <= float(value.min()) <= float(value.max()) <= bounds[name][1]
    assert secret.count == found.changed
    assert found.accuracy_after == min(found.accuracies) == accuracy(broken, data) < found.accuracy_before - 0.2
    assert found.largest_after <= found.largest_before
    assert [value.requires_grad for value in broken.parameters()] == [True] * len(list(net.parameters()))
    assert secret.restore(broken) is broken
    assert model_digest(broken) == model_digest(net)


def test_a_secret_is_a_file_for_one_model_alone(tmp_path: Path) -> None:
    net, data = learnt(), rows()
    broken, secret = Obfuscator(net, eps=0.2, rounds=1, epochs=3).fit(data)
    path = secret.save(tmp_path / "key.safetensors")
    assert path.stat().st_mode & 0o077 == 0
    read = Secret.load(path)
    with pytest.raises(InputError, match="is the original already"):
        read.restore(net)
    other = copy.deepcopy(broken)
    with torch.no_grad():
        other[3].bias[0] += 1
    with pytest.raises(InputError, match="belongs to another model: expected digest"):
        read.restore(other)
    name = next(iter(read.originals))
    for wrong in (
        {**read.originals, name: read.originals[name] + 1},
        {**read.originals, name: read.originals[name].half()},
    ):
        as_it_was = model_digest(broken)
        with pytest.raises(InputError, match="damaged"):
            Secret(read.indices, wrong, read.original_digest, read.obfuscated_digest).restore(broken)
        assert model_digest(broken) == as_it_was
    far = {**read.indices, name: read.indices[name] + 10_000}
    with pytest.raises(InputError, match="damaged"):
        Secret(far, read.originals, read.original_digest, read.obfuscated_digest).restore(broken)
    assert model_digest(read.restore(broken)) == model_digest(net)
    with pytest.raises(InputError, match="expected a secret of an obfuscated model"):
        Secret.load(tether.save(create("tiny", seed=0), tmp_path / "model") / "model.safetensors")
    with pytest.raises(InputError, match="no such file"):
        Secret.load(tmp_path / "none.safetensors")
    tensors = {"index/a": torch.zeros(1, dtype=torch.int64), "original/a": torch.zeros(1)}
    write_weights(tmp_path / "list", tensors, metadata={"format": "tether-secret-1", "settings": "[1]"})
    with pytest.raises(InputError, match="settings: expected a mapping"):
        Secret.load(tmp_path / "list")


def test_a_key_is_private_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, replace = list[int](), Path.replace

    def looked_at(self: Path, target: Path) -> Path:
        modes.append(self.stat().st_mode & 0o777)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", looked_at)
    Obfuscator(learnt(), eps=0.2, rounds=1, samples=2, epochs=2).fit(rows())[1].save(tmp_path / "key")
    assert modes == [0o600]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_originals_keep_their_own_kind_of_number(dtype: torch.dtype, tmp_path: Path) -> None:
    net = learnt().to(dtype)
    data = [(x.to(dtype), y) for x, y in rows()]
    broken, secret = Obfuscator(net, eps=0.2, rounds=1, samples=2, epochs=2).fit(data)
    assert {one.dtype for one in secret.originals.values()} == {dtype}
    assert model_digest(Secret.load(secret.save(tmp_path / "key")).restore(broken)) == model_digest(net)


@pytest.mark.parametrize(
    "family", ["Tether", "open_clip ViT", "RN50", "ConvNeXt", "transformers' CLIP", "composed ViT"]
)
def test_any_encoder_is_split_and_whole_again_after_it_was_saved(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path)
    side = model.image_spec.fixed().size
    pixels = torch.randint(0, 256, (4, 3, *side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = [Batch(pixels, model.tokenizer(["a red ball", "the sun", "two cats", "the sun"]))]
    broken, secret = Obfuscator(model, eps=None, share=0.01, rounds=1, samples=2, epochs=2).fit(data)
    assert 0 < secret.count <= 0.05 * sum(value.numel() for value in layer_weights(model).values())
    opened = tether.load(tether.save(broken, tmp_path / "public"))
    key = Secret.load(secret.save(tmp_path / "key.safetensors"))
    assert model_digest(key.restore(opened)) == model_digest(model)


def test_the_share_is_that_of_a_random_choice() -> None:
    weights = layer_weights(create("tiny", seed=0))
    total = sum(value.numel() for value in weights.values())
    eps = eps_of_share(weights, c=0.0, per_layer=1, share=0.002)
    expected = sum(float((value.detach().abs() < eps).sum()) / len(value) for value in weights.values())
    assert expected == pytest.approx(0.002 * total, rel=0.05)
    with pytest.raises(InputError, match="share: 1e-09 of"):
        eps_of_share(weights, c=0.0, per_layer=1, share=1e-9)


def test_the_controller_prefers_what_was_rewarded() -> None:
    controller = FilterController([8, 5], per_layer=2, generator=torch.Generator().manual_seed(0), lr=0.01)

    def hits() -> list[bool]:
        return [3 in controller.choose()[0][0] for _ in range(100)]

    before = sum(hits())
    for _ in range(30):
        choices = [controller.choose() for _ in range(5)]
        assert all(len(set(one)) == 2 for picked, _ in choices for one in picked)
        controller.learn([float(3 in picked[0]) for picked, _ in choices], [told for _, told in choices])
    assert before < 50
    assert sum(hits()) > 90


def test_the_chance_of_a_choice_is_that_of_drawing_without_putting_back() -> None:
    controller = FilterController([4], per_layer=4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        controller.heads[0].weight.zero_()
    _, told = controller.choose()
    assert told.item() == pytest.approx(-torch.tensor(24.0).log().item(), abs=1e-5)


def test_penalties_pull_to_the_start_or_to_zero() -> None:
    net, data = learnt(), rows()
    given = {"eps": 0.3, "filters": [[0], []], "lr": 0.01, "epochs": 40, "patience": 40, "keep": "last", "lam": 1e4}
    start = net[0].weight.detach()
    c = mean_weight(layer_weights(net))
    near, zero = (Obfuscator(net, penalty=one, **given).fit(data)[0] for one in ("change", "weights"))
    mask = near_masks(layer_weights(net), [[0], []], c=c, eps=0.3)["0.weight"]
    assert float((near[0].weight.detach() - start).abs().max()) < 0.05
    assert float(zero[0].weight.detach()[mask].abs().max()) < 0.05


def test_a_thief_gets_some_of_it_back_and_a_random_change_is_weak() -> None:
    net, data = learnt(), rows()
    broken, secret = Obfuscator(net, eps=0.5, per_layer=2, rounds=2, epochs=30, patience=20).fit(data)
    stolen = fine_tune_attack(broken, data, lr=1e-2, epochs=20)
    assert accuracy(stolen, data) > accuracy(broken, data)
    assert torch.equal(stolen[1].running_mean, net[1].running_mean)
    changed = random_change(net, count=secret.count, seed=0)
    assert sum(int((changed.state_dict()[name] != value).sum()) for name, value in net.state_dict().items()) > 0
    with pytest.raises(InputError, match="count: expected at most"):
        random_change(net, count=10**6, seed=0)
    with pytest.raises(InputError, match="expected at least one batch"):
        fine_tune_attack(broken, [])


def test_what_is_refused() -> None:
    net, data = learnt(), rows()
    with pytest.raises(InputError, match="eps: no weight of the rows chosen lies less than 1e-12 from c = 9"):
        Obfuscator(net, c=9.0, eps=1e-12, rounds=1).fit(data)
    with pytest.raises(InputError, match="eps"):
        Obfuscator(net, eps=0.0)
    with pytest.raises(InputError, match=r"1: batch norm without running statistics"):
        Obfuscator(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
    with pytest.raises(InputError, match="clamp: expected 'range', 'layer' or two numbers that rise"):
        Obfuscator(net, clamp=(1.0, -1.0))
    with pytest.raises(InputError, match="layers: no weight is named like 'visual"):
        Obfuscator(net, layers=["visual.*"])
    with pytest.raises(UnsupportedModelError, match="no linear or convolutional layer"):
        Obfuscator(nn.Sequential(nn.Embedding(3, 4), nn.Conv2d(2, 2, 1)))
    with pytest.raises(InputError, match="filters: expected rows for each of 2 layers"):
        Obfuscator(net, filters=[[0]]).fit(data)
    with pytest.raises(InputError, match=r"filters: 3\.weight: expected rows 0 to 2, got 3"):
        Obfuscator(net, filters=[[0], [3]]).fit(data)
    with pytest.raises(InputError, match="expected at least one batch with rows"):
        Obfuscator(net, eps=0.2).fit([])
    rounded = create("tiny")
    Octav(bits=4).apply_(rounded)
    with pytest.raises(InputError, match="is exchanged or rounded; expected a plain one"):
        Obfuscator(rounded)
    broken = small_net()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"0\.weight: holds weights that are NaN"):
        Obfuscator(broken)
    with pytest.raises(NotFiniteError, match="gives NaN"):
        Obfuscator(net).fit([(torch.full((2, 6), torch.nan), torch.zeros(2, dtype=torch.long))])
