"""Decomposition, ablation, segmentation scores and TextSpan against the official code: all settings from the file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from loading import load

from tether.core.decomposition import Decomposition
from tether.core.types import ImageSpec
from tether.methods.text_decomposition import mean_ablate
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import take
from tether.models.features.decompose import decompose
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig, TextConfig, VisionConfig
from tether.space import TextSpan, patch_scores, text_span

V = load("text-decomposition")
HYPER = V.meta["hyper"]


def stated(dtype: str) -> float:
    """The relative tolerance that the file states for a precision."""
    found = re.search(rf"([\d.e+-]+) in {dtype}", V.meta["tolerance"])
    assert found, V.meta["tolerance"]
    return float(found[1])


RTOL = stated("float64")
ATOL = 1e-12
SPANS = [name.removesuffix("ts_data") for name in V.arrays if name.endswith("ts_data")]
TOWERS = [name.removesuffix("representation") for name in V.arrays if name.endswith("representation")]


def close(ours: object, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=RTOL, atol=ATOL)


def settings(kind: str, prefix: str) -> dict:
    """The settings of a case: under its own name where the file has several, else the one there is."""
    own = HYPER.get(prefix.rstrip("/_"), HYPER)
    return own.get(kind, own)


@dataclass(frozen=True)
class Tower:
    prefix: str
    parts: Decomposition
    model: Clip
    image: torch.Tensor

    def __getitem__(self, name: str) -> np.ndarray:
        return V[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in V


def build(prefix: str) -> Tower:
    """The file's tower as one of ours, in float64, and its parts."""
    said = settings("vit", prefix)
    state = {
        "visual." + name.removeprefix(f"{prefix}sd/"): torch.from_numpy(values)
        for name, values in V.arrays.items()
        if name.startswith(f"{prefix}sd/")
    }
    image = torch.from_numpy(V[f"{prefix}image"])
    blocks = "visual.transformer.resblocks"
    width, dim = state["visual.proj"].shape
    act = str(said.get("act", "exact GELU")).lower()
    config = ModelConfig(
        dim=dim,
        vision=VisionConfig(
            image=ImageSpec(size=tuple(image.shape[2:])),
            patch=state["visual.conv1.weight"].shape[-1],
            width=width,
            layers=sum(name.endswith(".ln_1.weight") for name in state),
            heads=said["heads"],
            hidden=len(state[f"{blocks}.0.mlp.c_fc.weight"]),
            block=BlockConfig(activation="quick_gelu" if "quick" in act else "gelu", norm_eps=said.get("ln_eps", 1e-5)),
        ),
        text=TextConfig(context=4, vocabulary=8, end=7, width=8, layers=1, heads=1, hidden=8),
    )
    model = Clip(config).double().eval()
    model.initialise_(torch.Generator().manual_seed(0))
    wanted = [rule for rule in rules(config) if rule.ours.startswith("visual.")]
    missing = model.load_state_dict(take(state, wanted, where="the file"), strict=False).missing_keys
    assert not [name for name in missing if name.startswith("visual.")]
    return Tower(prefix, decompose(model, image), model, image)


@pytest.fixture(scope="module", params=TOWERS)
def tower(request: pytest.FixtureRequest) -> Tower:
    return build(request.param)


def test_contributions(tower: Tower) -> None:
    close(tower.parts.representation, tower["representation"])
    close(tower.parts.attention, tower["attn"])
    close(tower.parts.mlp, tower["mlp"])
    unit = tower["representation"] / np.linalg.norm(tower["representation"], axis=1, keepdims=True)
    close(tower.parts.total(), unit)


@pytest.mark.parametrize("reduce", ["tokens", "heads"])
def test_reduced_while_they_are_made(tower: Tower, reduce: str) -> None:
    close(
        decompose(tower.model, tower.image, reduce=reduce).attention, tower["attn"].sum(2 if reduce == "tokens" else 3)
    )


def test_single_precision(tower: Tower) -> None:
    model = tower.model.float()
    try:
        parts = decompose(model, tower.image.float())
    finally:
        tower.model.double()
    scale = np.abs(tower["attn"]).max()
    np.testing.assert_allclose(parts.attention, tower["attn"], rtol=stated("float32"), atol=1e-6 * scale)
    np.testing.assert_allclose(parts.mlp, tower["mlp"], rtol=stated("float32"), atol=1e-6 * np.abs(tower["mlp"]).max())


def test_ablations(tower: Tower) -> None:
    if "ablate_attn_upto" in tower:
        for layer, left in enumerate(tower["ablate_attn_upto"]):
            close(mean_ablate(tower.parts, attention=range(layer + 1)), left)
    if "ablate_mlp" in tower:
        close(mean_ablate(tower.parts, mlp="all"), tower["ablate_mlp"])


def test_segmentation_scores(tower: Tower) -> None:
    if "seg_scores" in tower:
        close(patch_scores(tower.parts, weights=torch.from_numpy(tower["classifier"].T)), tower["seg_scores"])


@pytest.mark.parametrize("prefix", SPANS)
def test_text_span(prefix: str) -> None:
    said = settings("textspan", prefix)
    data, texts = V[f"{prefix}ts_data"], V[f"{prefix}ts_text"]
    count, rank = int(said.get("m", len(V[f"{prefix}ts_chosen"]))), int(said["rank"])
    found = text_span(data, texts=texts, count=count, rank=rank)
    np.testing.assert_array_equal(found.indices, V[f"{prefix}ts_chosen"])
    close(found.reconstruction, V[f"{prefix}ts_reconstruction"])
    close(found.explained_variance, V[f"{prefix}ts_explained_variance"])
    estimator = TextSpan(texts=texts, count=count, rank=rank).fit(data)
    np.testing.assert_array_equal(estimator.chosen_, V[f"{prefix}ts_chosen"])
    close(estimator.inverse_transform(estimator.transform(data)), V[f"{prefix}ts_reconstruction"])
