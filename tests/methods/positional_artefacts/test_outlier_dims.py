"""Outlier coordinates: planted ones are found, awkward input is refused, files and encoders keep them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.methods.positional_artefacts import OutlierClipper, anisotropy, position_probe, self_similarity
from tether.methods.positional_artefacts.clipped_encoder import ClippedDualEncoder, ClippedEncoder
from tether.models import create
from tether.models.towers.blocks.trace import Trace
from tether.space import clip_dims, extreme_shares, largest_dims, outlier_dims, token_states


def states(*, layers: int = 4, tokens: int = 60, dims: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((layers, tokens, dims))


def test_planted_coordinates_are_found_by_layer() -> None:
    hidden = states()
    hidden[:, :, 7] += 12
    hidden[1:, :, 30] -= 9
    found = outlier_dims(hidden)
    assert found.dims.tolist() == [7]
    assert outlier_dims(hidden, min_layers=0.75).dims.tolist() == [7, 30]
    assert outlier_dims(hidden, min_layers=0.8).dims.tolist() == [7]
    assert found.flagged.sum(axis=1).tolist() == [1, 2, 2, 2]
    assert found.z.shape == found.mean.shape == (4, 40)
    assert outlier_dims(list(hidden)).dims.tolist() == [7]
    shares = extreme_shares(hidden)
    assert shares.most[:, 7].min() > 0.8
    assert shares.least[1:, 30].min() > 0.8
    assert shares.least[0, 30] < 0.2
    np.testing.assert_allclose(shares.most.sum(axis=1), 1)


def test_one_outlier_hides_behind_few_coordinates() -> None:
    for dims in (9, 10, 11):
        hidden = np.zeros((1, 3, dims))
        hidden[..., 4] = 1e6
        z = outlier_dims(hidden).z
        assert math.isclose(z[0, 4], math.sqrt(dims - 1))
        assert outlier_dims(hidden).dims.tolist() == ([4] if dims > 10 else [])


def test_equal_means_stand_nowhere() -> None:
    assert not outlier_dims(np.ones((2, 5, 9))).z.any()


def test_largest_dims_break_ties_by_the_first() -> None:
    assert largest_dims(np.array([1.0, -3, 3, 0, 2]), count=2).tolist() == [1, 2]
    assert largest_dims(np.array([2.0, -2, 2, 2]), count=3).tolist() == [0, 1, 2]
    assert largest_dims(np.array([2.0]), count=0).tolist() == []
    with pytest.raises(InputError, match="0 to 1 coordinates, got 2"):
        largest_dims(np.array([2.0]), count=2)


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (np.zeros((2, 5, 7)), "2 tokens of 8 coordinates, got 5 of 7"),
        (np.zeros((2, 1, 9)), "2 tokens of 8 coordinates, got 1 of 9"),
        (np.zeros((5, 9)), "one .* for each layer"),
        ([np.zeros((5, 9)), np.zeros((6, 9))], "all of one shape"),
        ([], "for each layer"),
        (np.full((2, 5, 9), np.nan), "layer 0 holds NaN"),
    ],
)
def test_states_that_are_refused(hidden: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        outlier_dims(hidden)


def test_clipping_copies_arrays_and_tensors_alike() -> None:
    hidden = states(layers=2, tokens=3, dims=9)
    before = hidden.copy()
    wanted = hidden.copy()
    wanted[..., [1, 8]] = 0
    np.testing.assert_array_equal(clip_dims(hidden, dims=[8, 1, 8]), wanted)
    np.testing.assert_array_equal(hidden, before)
    leaf = torch.from_numpy(hidden).requires_grad_()
    got = clip_dims(leaf, dims=np.array([1, 8]))
    np.testing.assert_array_equal(got.detach().numpy(), wanted)
    (grad,) = torch.autograd.grad(got.sum(), leaf)
    np.testing.assert_array_equal(grad.numpy(), (wanted != 0).astype(float))
    assert torch.equal(clip_dims(leaf, dims=[]), leaf)
    for bad in ([9], [-1], [0.5], [[1]]):
        with pytest.raises(InputError, match="0 to 8"):
            clip_dims(hidden, dims=bad)


def test_anisotropy_is_the_mean_over_all_pairs() -> None:
    x = states()[0] + 0.3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(len(x), dtype=bool)]
    assert math.isclose(anisotropy(x), cosines.mean())
    sampled = anisotropy(x, pairs=20_000, seed=1)
    assert sampled == anisotropy(x, pairs=20_000, seed=1)
    assert abs(sampled - cosines.mean()) < 4 * cosines.std() / math.sqrt(20_000)
    assert math.isclose(anisotropy(np.ones((2, 3)), pairs=50), 1.0)
    assert math.isclose(anisotropy(np.array([[1.0, 0], [0, 2]]), pairs=50), 0.0, abs_tol=1e-12)  # never with itself


def test_zero_vectors_are_left_out_with_a_warning() -> None:
    x = np.array([[1.0, 0], [0, 0], [1, 1]])
    with pytest.warns(UserWarning, match="1 of 3 vectors are zero"):
        assert math.isclose(anisotropy(x), math.sqrt(0.5))
    with pytest.warns(UserWarning, match="1 of 4 vectors"):
        assert math.isclose(self_similarity(np.vstack([x, [[0, 1]]]), np.array([5, 5, 5, 6])), math.sqrt(0.5))
    with pytest.warns(UserWarning, match="zero"), pytest.raises(InputError, match="at least two"):
        anisotropy(np.array([[1.0, 0], [0, 0]]))


def test_self_similarity_is_the_mean_over_words() -> None:
    x = states()[0] + 0.5
    words = np.random.default_rng(3).integers(0, 25, len(x))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    each = []
    for word in np.unique(words):
        own = unit[words == word]
        if len(own) > 1:
            each.append((own @ own.T)[~np.eye(len(own), dtype=bool)].mean())
    assert 5 < len(each) < 25
    assert math.isclose(self_similarity(x, words), float(np.mean(each)))
    assert math.isclose(self_similarity(x, words, adjust="anisotropy"), float(np.mean(each)) - anisotropy(x))


def test_similarities_refuse_what_they_cannot_measure() -> None:
    for bad, message in ((np.ones(4), r"\(n, d\)"), (np.full((3, 2), np.inf), "infinity"), (np.ones((1, 2)), "two")):
        with pytest.raises(InputError, match=message):
            anisotropy(bad)
    with pytest.raises(InputError, match="no word occurs twice"):
        self_similarity(np.ones((3, 2)), np.arange(3))
    with pytest.raises(InputError, match="one word for each of 3 rows"):
        self_similarity(np.ones((3, 2)), np.arange(2))


def test_a_probe_reads_positions_where_they_are() -> None:
    draw = np.random.default_rng(0)
    positions = np.tile(np.arange(6), 60)
    table = draw.standard_normal((6, 12))
    with_place = table[positions] + 0.1 * draw.standard_normal((360, 12))
    found = position_probe(with_place, positions)
    nothing = position_probe(draw.standard_normal((360, 12)), positions)
    assert found.accuracy > 0.95
    assert nothing.accuracy < 0.4
    assert found.rows == 108
    assert 0.05 < found.majority < 0.3
    for bad_positions, message in (
        (positions[:-1], "whole positions"),
        (positions + 0.5, "whole positions"),
        (np.zeros(360, dtype=int), "two positions"),
    ):
        with pytest.raises(InputError, match=message):
            position_probe(with_place, bad_positions)
    with pytest.raises(InputError, match="NaN"):
        position_probe(with_place * np.nan, positions)


def test_tokens_of_a_batch_in_reading_order() -> None:
    layers = [torch.arange(24.0).reshape(2, 4, 3) + 100 * number for number in range(2)]
    mask = torch.tensor([[True, True, False, False], [False, True, True, True]])
    ids = torch.tensor([[5, 6, 0, 0], [1, 5, 5, 7]])
    table = token_states(layers, mask=mask, ids=ids)
    assert table.hidden.shape == (2, 5, 3)
    assert table.hidden[1, 2].tolist() == [115, 116, 117]
    assert table.rows.tolist() == [0, 0, 1, 1, 1]
    assert table.positions.tolist() == [0, 1, 1, 2, 3]
    assert table.ids.tolist() == [5, 6, 5, 5, 7]
    assert not token_states(layers, mask=mask).ids.any()
    for states_, mask_, ids_, message in (
        ([], mask, None, "states"),
        (layers, mask[:, :3], None, "mask"),
        ([layers[0], layers[1][:, :3]], mask, None, "one shape"),
        (layers, mask, ids[:1], "ids"),
    ):
        with pytest.raises(InputError, match=message):
            token_states(states_, mask=mask_, ids=ids_)


def test_the_estimator_clips_what_it_found() -> None:
    x = states(layers=1)[0]
    x[:, 3] += 20
    clipper = OutlierClipper().fit(x)
    assert clipper.dims_.tolist() == [3]
    assert not clipper.transform(x)[:, 3].any()
    assert clipper.transform(x.astype(np.float32)).dtype == np.float32
    assert x[0, 3] != 0
    two = OutlierClipper(count=2).fit(x)
    assert two.dims_.tolist() == sorted(np.argsort(-np.abs(two.z_))[:2])
    with pytest.raises(InputError, match="count"):
        OutlierClipper(count=41).fit(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected the state of an OutlierClipper"),
        ({"dims": [99]}, "0 to 39"),
        ({"z": "abc"}, "damaged"),
        ({"settings": {"limit": 3}}, "damaged"),
    ],
)
def test_a_file_that_is_not_its_own(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "dims.json"
    OutlierClipper().fit(states(layers=1)[0]).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        OutlierClipper.load(path)


@pytest.fixture
def model() -> Any:
    made = create("tiny").eval()
    with torch.no_grad():  # what a trained layer norm does
        made.visual.norm_post.bias[5] = 9.0
        made.text.norm_post.bias[11] = -9.0
    return made


@pytest.fixture
def batch(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (6, 3, *model.image_spec.size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pixels, model.tokenizer(["a cat", "a dog on a red mat", "the sea", "two", "a b c d e f", "x"])


@torch.no_grad()
def test_towers_are_clipped_before_their_projection(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, text = batch
    blocks = range(len(model.visual.blocks))
    trace = Trace(keep=[f"blocks.{number}.input" for number in blocks])
    seen = model.encode_image(image, want="tokens", trace=trace)
    layers = [*(trace.values[f"blocks.{number}.input"] for number in blocks), seen.tokens]
    table = token_states(layers, mask=torch.ones(seen.tokens.shape[:2], dtype=torch.bool))
    assert table.hidden.shape == (len(layers), seen.tokens.shape[0] * seen.tokens.shape[1], seen.tokens.shape[2])
    assert outlier_dims(table.hidden[-1:]).dims.tolist() == [5]
    words = model.encode_text(text, want="tokens")
    assert outlier_dims(token_states([words.tokens], mask=words.mask).hidden).dims.tolist() == [11]

    clipped = ClippedDualEncoder(model, image_dims=[5], text_dims=np.array([11]))
    assert isinstance(clipped, DualEncoder)
    assert clipped.config == {"image_dims": [5], "text_dims": [11]}
    out = clipped(image, text)
    keep = torch.ones(seen.tokens.shape[2])
    keep[5] = 0
    torch.testing.assert_close(out.image.pooled, model.visual.project(seen.tokens[:, 0] * keep))
    assert not out.text.tokens[..., 11].any()
    assert not torch.allclose(out.image.pooled, seen.pooled, atol=1e-3)
    assert torch.equal(out.logit_scale, model.logit_scale)

    plain = clipped.fold_()
    assert plain is model
    torch.testing.assert_close(model.encode_image(image).pooled, out.image.pooled)
    torch.testing.assert_close(model.encode_text(text).pooled, out.text.pooled)


@torch.no_grad()
def test_nothing_to_clip_changes_nothing(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    clipped = ClippedDualEncoder(model)
    image, text = batch
    torch.testing.assert_close(clipped.encode_image(image).pooled, model.encode_image(image).pooled)
    torch.testing.assert_close(clipped.encode_text(text).pooled, model.encode_text(text).pooled)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clipped.fold_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_towers_that_cannot_be_clipped(model: Any) -> None:
    with pytest.raises(InputError, match="dims: expected whole numbers from 0 to"):
        ClippedDualEncoder(model, image_dims=[10_000])
    with pytest.raises(InputError, match=r"Linear has no visual.projection.*OutlierClipper"):
        ClippedDualEncoder(torch.nn.Linear(2, 2))  # pyrefly: ignore


@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
@torch.no_grad()
def test_a_transformers_encoder_keeps_its_coordinates(tmp_path: Path) -> None:
    from transformers import BertModel

    torch.manual_seed(0)
    inner = BertModel(bert_config()).eval()
    inputs = {"input_ids": torch.randint(0, 20, (3, 5)), "attention_mask": torch.ones(3, 5, dtype=torch.int64)}
    plain = inner(**inputs, output_hidden_states=True)
    clipped = ClippedEncoder(inner, dims=[2, 9])
    out = clipped({**inputs, "output_hidden_states": True})
    torch.testing.assert_close(out.last_hidden_state, clip_dims(plain.last_hidden_state, dims=[2, 9]))
    assert len(out.hidden_states) == 3
    assert all(not layer[..., [2, 9]].any() and layer[..., 3].any() for layer in out.hidden_states)
    torch.testing.assert_close(out.pooler_output, plain.pooler_output)
    clipped.save_pretrained(str(tmp_path))
    again = ClippedEncoder(BertModel.from_pretrained(tmp_path).eval())
    assert again.dims == (2, 9)
    torch.testing.assert_close(again(inputs).last_hidden_state, out.last_hidden_state)
    with pytest.raises(InputError, match="0 to 15"):
        ClippedEncoder(inner, dims=[16])
    with pytest.raises(InputError, match="the configuration holds no 'clipped_dims'"):
        ClippedEncoder(BertModel(bert_config()))


def bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
