"""The ranking adapter and its attention, and the tokens that they read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from families import FAMILIES
from tether.core.errors import InputError
from tether.models.features.token_rows import TokenRows, text_tokens
from tether.models.heads.rank_attention import RankAwareAttention
from tether.models.heads.ranking_adapter import RankingAdapter


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(**settings: object) -> RankingAdapter:
    return RankingAdapter(16, n_heads=4, generator=torch.Generator().manual_seed(1), **settings).eval()


@pytest.mark.parametrize(("n", "p", "q"), [(1, 3, 2), (2, 1, 1), (5, 4, 3)])
def test_attention_is_one_softmax_over_both_images(n: int, p: int, q: int) -> None:
    part, tokens, images = RankAwareAttention(12, heads=3).double(), drawn(q, 12).double(), 9 * drawn(n, p, 12).double()
    query = part.ln_q(part.q_proj(tokens)).view(q, 3, 4).transpose(0, 1)
    keys = part.ln_kv(part.kv_proj(images)).view(n, p, 3, 4).transpose(1, 2)
    values, weights = part(tokens, images), part.weights(tokens, images)
    torch.testing.assert_close(part.summed(tokens, images), values.sum(dim=1))
    for i in range(n):
        for j in range(n):
            both = torch.cat([keys[i], keys[j]], dim=1)
            seen = (query @ both.transpose(-1, -2) / 2).softmax(dim=-1)
            value = seen[..., :p] @ keys[i] - seen[..., p:] @ keys[j]
            torch.testing.assert_close(values[i * n + j], part.out_proj(value.transpose(0, 1).flatten(1)))
            torch.testing.assert_close(weights[i * n + j], seen)


@pytest.mark.parametrize("prompts", ["scalar", "vector"])
def test_an_image_is_scored_whatever_stands_beside_it(prompts: str) -> None:
    adapter, images, text = made(prompts=prompts), drawn(5, 3, 16), drawn(1, 4, 16, seed=1)
    scores, pairs = adapter(images, text)
    assert adapter.text_tokens.shape == (32, 1 if prompts == "scalar" else 16)
    torch.testing.assert_close(adapter(images[2:4], text).scores, scores[2:4])
    torch.testing.assert_close(adapter(images[2:4], text).pair_logits[1], pairs[2 * 5 + 3])
    torch.testing.assert_close(adapter.score(images, text.expand(5, -1, -1)), scores)
    order, flat = adapter.rank(images, text)
    torch.testing.assert_close(flat[order], scores[:, 0].sort(descending=True).values)


def test_what_is_masked_is_not_read() -> None:
    adapter, images, text = made(), drawn(2, 3, 16), drawn(1, 4, 16, seed=1)
    mask = torch.tensor([[True, True, False, False]])
    cut = adapter.score(images, text[:, :2])
    torch.testing.assert_close(adapter.score(images, text, text_mask=mask), cut)
    assert not torch.allclose(adapter.score(images, text), cut)
    assert made(n_text_tokens=0).score(images, text).shape == (2, 1)


def test_every_parameter_learns_and_dropout_is_of_training() -> None:
    adapter, images, text = made().train(), drawn(3, 3, 16), drawn(1, 4, 16, seed=1)
    scores, pairs = adapter(images, text)
    (scores.square().sum() + pairs.square().sum()).backward()
    assert [name for name, one in adapter.named_parameters() if one.grad is None] == []
    assert not torch.equal(adapter.score(images, text), adapter.score(images, text))


def test_shapes_that_do_not_fit() -> None:
    for wrong in (RankAwareAttention, RankingAdapter):
        with pytest.raises(InputError, match="divisor of dim=10"):
            wrong(10)
    adapter = made()
    for images, text in [((2, 3, 8), (1, 4, 16)), ((2, 3, 16), (3, 4, 16)), ((2, 0, 16), (1, 4, 16))]:
        with pytest.raises(InputError, match="expected"):
            adapter(drawn(*images), drawn(*text))
    with pytest.raises(InputError, match="text_mask"):
        adapter(drawn(2, 3, 16), drawn(1, 4, 16), text_mask=torch.ones(1, 3).bool())


@pytest.mark.parametrize("family", ["Tether", "open_clip ViT", "ConvNeXt", "composed EfficientNet"])
def test_tokens_of_any_encoder(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path).eval()
    reader, size = TokenRows(model), model.image_spec.fixed().size
    rows = reader.encode_image(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)).pooled
    tokens, mask = text_tokens(model, ["a red square", "dogs"])
    assert rows.shape == (2, reader.dim)
    for one in (reader.tokens(rows)[0], tokens[0]):
        torch.testing.assert_close(one.norm(dim=1), torch.full(one.shape[:1], reader.width**0.5))
    assert mask.any(dim=1).all()
    with pytest.raises(InputError, match="none empty"):
        text_tokens(model, ["a", " "])
