"""What heads promise: those that a step trains beside the model, and those of ``tether adapt``, with their file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tether.adaptation.heads import (
    ADAPTED_HEADS,
    HEAD_FILE,
    CacheHead,
    DefectTextsHead,
    Head,
    LinearHead,
    MasksHead,
    OrderHead,
    QualityHead,
    WordHead,
    load_head,
)
from tether.core.errors import InputError
from tether.core.state_file import write_state
from tether.losses import ClipLoss
from tether.methods.adaptclip import AnomalyAdaptersHead
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.methods.clip_dinoiser import GroupingHead
from tether.methods.excel_wsss import RelationHead
from tether.methods.excel_wsss.patch_relation import ExcelAdapter
from tether.methods.fairerclip import KernelHead
from tether.methods.featsharp import Sharpener, SharpenerHead
from tether.models import create
from tether.models.features.image_digest import image_digest
from tether.models.features.patch_grouping import DinoiserHead
from tether.models.heads.content_transfer import RegionNamer
from tether.models.heads.mask_decoder import MaskHead
from tether.models.heads.mask_models import NamedMasks
from tether.models.heads.ranking_adapter import RankingAdapter
from tether.models.texts.defect_texts import DefectTexts
from tether.training.steps import ComposedStep
from tether.training.steps.heads import TRAINED_HEADS
from tether.training.terms import TERMS

trained_heads = pytest.mark.parametrize("name", sorted(TRAINED_HEADS))
adapted_heads = pytest.mark.parametrize("kind", sorted(ADAPTED_HEADS))
MODEL, OTHER = (create("tiny", seed=seed).eval() for seed in (1, 2))
D = MODEL.dim
TRAINED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal_decoder": ({"width": 16, "layers": 1}, {"name": "caption", "head": "it"}),
    "dense": ({"task": "seg", "classes": 4, "width": 8}, {"name": "pseudo_labels", "seg": "it"}),
    "grounding": (
        {"queries": 2, "layers": 1, "heads": 4, "width": 16, "inner": 16},
        {"name": "grounding", "head": "it"},
    ),
    "projection": ({"hidden": 16, "out": 8}, {"name": "simclr", "head": "it"}),
    "projectors": (
        {"hidden": [16], "out": 8, "last_norm": "scaled", "scale": 10.0, "predictor": 16, "prototypes": 5},
        {"name": "barlow", "head": "it"},
    ),
    "prompter": ({"mlp_ratio": 0.5}, {"name": "region_text", "head": "it"}),
    "text_guided": ({"width": 16, "depth": 1}, {"name": "rebuild", "head": "it"}),
}
"""By the head's name: its settings, and a term that calls it."""


def built(name: str, *, seed: int = 0, **more: Any) -> nn.Module:
    """As a step builds it; torch's own chance is another each time."""
    settings, term = TRAINED[name]
    called = TERMS[term["name"]](**{key: one for key, one in term.items() if key != "name"})
    views = {view: {} for view in called.views.values()}
    heads = {"it": {"name": name, **settings, **more}}
    step = ComposedStep(ClipLoss(), steps=2, seed=seed, views=views, terms=[term], heads=heads)
    return step.new_heads(MODEL)["it"]


@trained_heads
def test_its_weights_follow_from_the_seed_alone(name: str) -> None:
    first = built(name)
    torch.rand(7)
    before = torch.get_rng_state()
    again, other = built(name).state_dict(), built(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before), "it used up chance that is not its own"
    assert isinstance(first, TRAINED_HEADS[name])
    for key, value in first.state_dict().items():
        assert torch.equal(value, again[key]), key
    drawn = {key for key, one in first.named_parameters() if one.ndim > 1}
    same = {key for key in drawn if torch.equal(first.state_dict()[key], other.state_dict()[key])}
    assert drawn
    assert not same


@trained_heads
def test_its_parameters_are_finite_single_numbers(name: str) -> None:
    for key, parameter in built(name).named_parameters():
        assert parameter.dtype == torch.float32, key
        assert parameter.isfinite().all(), key
        assert parameter.requires_grad, key


@trained_heads
def test_its_state_goes_through_a_file(name: str, tmp_path: Path) -> None:
    first, second = built(name), built(name, seed=1)
    save_file(first.state_dict(), tmp_path / "head.safetensors")
    second.load_state_dict(load_file(tmp_path / "head.safetensors"))
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@trained_heads
@pytest.mark.parametrize("setting", ["no_such", "generator"])
def test_a_setting_that_is_none_is_refused_by_its_name(name: str, setting: str) -> None:
    with pytest.raises(InputError, match=rf"step: heads: it \({name}\): unknown key '{setting}'; known: "):
        built(name, **{setting: 1})


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def unit(*shape: int) -> Tensor:
    return F.normalize(rows(*shape), dim=-1)


NAMES = ("a", "b", "c")
HEADS: dict[str, Callable[[], Head]] = {
    "linear": lambda: LinearHead(rows(3, D), classes=NAMES, bias=rows(3)),
    "cache": lambda: CacheHead(
        rows(3, D), unit(4, D), torch.tensor([0, 1, 2, 1]), classes=NAMES, alpha=0.5, beta=2.0
    ),
    "kernel": lambda: KernelHead(
        rows(5, D), offsets=rows(5), image_map=rows(5, 2), centre=rows(2), codes=rows(3, 2), classes=NAMES, scale=3.0
    ),
    "order": lambda: OrderHead(
        RankingAdapter(D, n_layers=1, n_heads=4, n_rank_tokens=2, n_text_tokens=3, prompts="vector"),
        tokens=rows(2, 3, D), mask=torch.tensor([[True, True, False], [True] * 3]), texts=("x", "y"), patches=16,
        scale=2.0,
    ),
    "defect_texts": lambda: DefectTextsHead(DefectTexts(rows(2, D), temperature=0.1, layers=(0, 1), post_norm=True)),
    "anomaly_adapters": lambda: AnomalyAdaptersHead(
        TrainedAdapters(AdaptClip(rows(2, D), layers=2, hidden=4, reduction=8, context=False), layers=(0, 1), blocks=1)
    ),
    "grouping": lambda: GroupingHead(DinoiserHead(features=64, dim=4, kernel=1), grid=(4, 4), layer=-1, gamma=0.1),
    "masks": lambda: MasksHead(
        NamedMasks(MaskHead(64, dim=16, heads=4, layers=1, queries=2, text_dim=D), RegionNamer(D, heads=2)),
        rows=rows(3, D), classes=NAMES, scale=50.0,
    ),
    "quality": lambda: QualityHead(rows(2, D), prompts=("good", "bad"), scale=20.0),
    "relation": lambda: RelationHead(
        ExcelAdapter(layers=2, width=64, dim=4, hidden=4), rows=rows(3, D), classes=NAMES, scale=50.0, blocks=1
    ),
    "sharpener": lambda: SharpenerHead(Sharpener(D, grid=(4, 4), heads=4, window=3)),
    "word": lambda: WordHead(
        unit(2, 5), start=unit(2, 5), text=unit(1, D), word="<v>", init_word="cup", length=2.0, text_side="0",
        tokenizer="1", scale=3.0,
    ),
}  # fmt: skip
"""One of each kind for the model above, with settings that are not its defaults."""
FILLED_IN = ("num_batches_tracked",)
"""Ends of arrays that torch makes 0 where a file lacks them: how many batches a norm saw, which only training asks."""


def made(kind: str) -> Head:
    """One that has learnt something: no module's weights are those that it begins with."""
    head, generator = HEADS[kind](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, value in contents(head):
            if isinstance(value, Tensor) and value.is_floating_point() and path.count(".") > 1:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return head.bind_(MODEL)


def contents(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that an object holds, down to tensors and plain values, by its path."""
    if isinstance(value, Tensor):
        pass
    elif isinstance(value, nn.Module):
        value = {"class": type(value).__name__, "mode": value.training, **value.state_dict()}
    elif dataclasses.is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    elif hasattr(value, "__dict__"):
        value = {"class": type(value).__name__, **{key: one for key, one in vars(value).items() if key != "where"}}
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from contents(one, f"{path}.{key}")
    else:
        yield path, list(value) if isinstance(value, tuple) else value


@adapted_heads
def test_its_kind_is_its_name(kind: str) -> None:
    assert issubclass(ADAPTED_HEADS[kind], Head)
    assert ADAPTED_HEADS[kind].kind == kind


@adapted_heads
def test_it_is_saved_whole(kind: str, tmp_path: Path) -> None:
    head = made(kind)
    opened = load_head(head.save(tmp_path), model=MODEL)
    assert type(opened) is type(head) is ADAPTED_HEADS[kind]
    assert opened.encoder == image_digest(MODEL)
    before, after = dict(contents(head)), dict(contents(opened))
    assert before.keys() == after.keys()
    for path, value in before.items():
        if isinstance(value, (Tensor, np.ndarray)):
            assert after[path].dtype == value.dtype, path
            np.testing.assert_array_equal(after[path], value, err_msg=path)
        else:
            assert after[path] == value, path
    seen = rows(4, head.dim)
    assert torch.equal(opened.logits(seen), head.logits(seen))
    assert head.logits(seen).shape == (4, len(head.classes))


@adapted_heads
def test_it_opens_on_its_encoder_alone(kind: str, tmp_path: Path) -> None:
    made(kind).save(tmp_path)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / HEAD_FILE))) as caught:
        load_head(tmp_path, model=OTHER)
    for model in (MODEL, OTHER):
        assert image_digest(model)[:12] in str(caught.value)
    with pytest.raises(InputError, match="save: expected the encoder"):
        HEADS[kind]().save(tmp_path / "unbound")


@adapted_heads
@pytest.mark.parametrize("harm", ["a bit", "its end", "all of it"])
def test_a_damaged_file_is_refused_by_its_name(kind: str, harm: str, tmp_path: Path) -> None:
    path = made(kind).save(tmp_path) / HEAD_FILE
    whole = path.read_bytes()
    path.write_bytes({"a bit": whole[:-1] + bytes([whole[-1] ^ 1]), "its end": whole[:-9], "all of it": b""}[harm])
    with pytest.raises(InputError, match=f"^{path}: {'damaged' if harm == 'a bit' else 'not a safetensors file'}"):
        load_head(tmp_path)


@adapted_heads
def test_a_file_without_one_of_its_arrays_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    head = made(kind)
    settings = {"kind": kind, "classes": head.classes, "encoder": head.encoder} | head.settings()
    for missing in [name for name in head.arrays() if not name.endswith(FILLED_IN)][::4]:
        kept = {name: value for name, value in head.arrays().items() if name != missing}
        write_state(tmp_path / HEAD_FILE, format="tether.head/1", settings=settings, arrays=kept)
        name = missing.removeprefix("masks.").removeprefix("adapter.")
        said = rf"(?s)^{tmp_path / HEAD_FILE}: not the state of a head: .*{name}.*$"
        with pytest.raises(InputError, match=said):
            load_head(tmp_path)


@adapted_heads
def test_an_unknown_kind_is_refused_and_the_known_are_listed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = made(kind)
    monkeypatch.setattr(type(head), "kind", "no_such")
    head.save(tmp_path)
    known = ", ".join(sorted(ADAPTED_HEADS))
    with pytest.raises(InputError, match=f"^{tmp_path / HEAD_FILE}: .*unknown kind of head 'no_such'; known: {known}$"):
        load_head(tmp_path)


def test_every_head_has_an_entry() -> None:
    assert set(TRAINED) == set(TRAINED_HEADS), "give settings for each head that a step trains, and for nothing else"
    assert set(HEADS) == set(ADAPTED_HEADS), "make one head of each kind, and of nothing else"
