"""Captions told from patches and patches rebuilt from captions: the terms, the second look, and their run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from families import CLOSED, FAMILIES, SEALED
from tether.core.errors import InputError, StoppedError, UnsupportedModelError
from tether.core.gather import LOCAL, Gather
from tether.core.types import Batch
from tether.losses import ClipLoss
from tether.methods.sycoca.decoder import CausalDecoder
from tether.methods.sycoca.masked_patches import attentive_select
from tether.models import create
from tether.models.features.dense import dense_image, dense_text
from tether.training import load_config, train
from tether.training.metrics_log import read_metrics
from tether.training.steps import ComposedStep
from tether.training.steps.module import StepModule

pytestmark = pytest.mark.slow

UNTOLD = {"name": "untold", "hide": 0.5}
VIEWS = {"image": {"want": "tokens"}, "text": {"want": "tokens"}}
HEADS = {
    "decoder": {"name": "causal_decoder", "look": "tokens", "width": 32, "layers": 1},
    "rebuilder": {"name": "text_guided", "width": 32, "depth": 1},
}
TERMS = ["objective", {"name": "caption", "look": "tokens", "drop": 0.5, "weight": 2}, "rebuild"]


def made(patches=UNTOLD, views=VIEWS, heads=HEADS, terms=TERMS, model=None, steps=10):
    masked = {"masked_image": {"source": "image", "want": "tokens", "patches": patches}}
    step = ComposedStep(ClipLoss(), steps=steps, seed=0, views={**views, **masked}, heads=heads, terms=terms)
    model = create("tiny", seed=0) if model is None else model
    return step, StepModule(model, heads=step.new_heads(model))


def batch_of(model=None, size=32):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator)
    tokenizer = (create("tiny", seed=0) if model is None else model).tokenizer
    return Batch(pixels, tokenizer(["a cat", "the dog", "a sun on sand", "sits"]))


def test_all_losses_are_there_and_teach_everything():
    step, module = made()
    loss = step(module, batch_of(), step=5, gather=LOCAL)
    parts = loss.terms
    torch.testing.assert_close(loss.total, parts["objective"] + 2 * parts["caption"] + parts["rebuild"])
    loss.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in module.heads.parameters() if p.numel() > 1)
    again = step(module, batch_of(), step=5, gather=LOCAL)
    assert torch.equal(loss.total, again.total)


def hidden_of(step, module, batch, at, gather=LOCAL):
    seen = step.see(module, batch, step=at, gather=gather)
    return seen.views["masked_image"].about["keep"]


def test_what_is_most_similar_to_the_text_is_hidden_after_random_masks():
    step, module = made()
    batch = batch_of()
    with torch.no_grad():
        patches = dense_image(module.model, batch.image).tokens
        wanted = attentive_select(patches, dense_text(module.model, batch.text).pooled).masked
        kept = [hidden_of(step, module, batch, at) for at in (0, 1, 9)]
    found = [torch.ones_like(wanted).scatter(1, keep, False) for keep in kept]
    assert not torch.equal(found[0], wanted)
    assert torch.equal(found[1], wanted)
    assert torch.equal(found[2], wanted)
    assert all(keep.shape == (4, 8) for keep in kept)
    at_once, module = made({**UNTOLD, "random_first": 0.0})
    with torch.no_grad():
        assert torch.equal(hidden_of(at_once, module, batch, 0), kept[1])


def test_random_masks_do_not_depend_on_the_number_of_processes():
    step, module = made({**UNTOLD, "select": "random"})
    batch = batch_of()
    halves = [Batch(batch.image[part], batch.text[part]) for part in (slice(0, 2), slice(2, 4))]
    with torch.no_grad():
        whole = hidden_of(step, module, batch, 3)
        parts = [hidden_of(step, module, half, 3, Gather(rank, 2)) for rank, half in enumerate(halves)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("patches", [{**UNTOLD, "select": "none"}, {**UNTOLD, "hide": 0.0}])
def test_nothing_hidden_adds_nothing(patches):
    step, module = made(patches)
    loss = step(module, batch_of(), step=5, gather=LOCAL)
    assert loss.terms["rebuild"] == 0
    loss.total.backward()
    assert not any(p.grad.any() for p in module.heads["rebuilder"].parameters())


def test_hidden_patches_cannot_leak():
    """The rebuilder's inputs do not depend on the pixels that it is asked for."""
    step, module = made({**UNTOLD, "select": "random"})
    batch = batch_of()
    with torch.no_grad():
        keep = hidden_of(step, module, batch, 3)
        before = step.see(module, batch, step=3, gather=LOCAL).views["masked_image"].features.tokens
        hidden = torch.ones(4, 16, dtype=torch.bool).scatter(1, keep, False).view(4, 1, 4, 4)
        covered = torch.where(hidden.repeat_interleave(8, 2).repeat_interleave(8, 3), 0, batch.image)
        after = step.see(module, Batch(covered, batch.text), step=3, gather=LOCAL).views["masked_image"].features.tokens
    torch.testing.assert_close(before, after)


def test_micro_batches_change_nothing():
    losses = []
    for size in (None, 3):
        step, module = made()
        module.micro_batch = size
        losses.append(step(module, batch_of(), step=5, gather=LOCAL).total)
    torch.testing.assert_close(*losses)


def test_a_caption_is_told_from_left_to_right():
    generator = torch.Generator().manual_seed(0)
    decoder = CausalDecoder(look="tokens", width=32, dim=8, vocabulary=50, context=9, generator=generator)
    memory, text = torch.randn(1, 5, 8), torch.tensor([[1, 7, 9, 2]])
    longer = torch.tensor([[1, 7, 9, 2, 0, 0]])
    torch.testing.assert_close(decoder(memory, text), decoder(memory, longer))  # padding is nothing
    rows = [decoder._looked(torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 2, 32))]
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    x[:, 3] = 5.0
    rows.append(decoder._looked(x, torch.zeros(1, 2, 32)))
    torch.testing.assert_close(rows[0][:, :3], rows[1][:, :3])
    assert not torch.allclose(decoder(memory, text), decoder(-memory, text))
    with pytest.raises(InputError, match="look: tokens: expected"):
        decoder(memory[:, 0], text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patches": {**UNTOLD, "hide": 1.0}}, "hide: expected"),
        ({"patches": {**UNTOLD, "shown": "imag"}}, "masked_image: patches: shown: expected"),
        ({"patches": {**UNTOLD, "said": "image"}}, "masked_image: patches: said: expected a view of texts"),
        ({"views": {"image": {}, "text": {"want": "tokens"}}}, "shown: expected a view of the same images"),
        ({"views": {"image": {"want": "tokens"}, "text": {}}}, "rebuild: expected want: tokens in the view 'text'"),
        ({"patches": None}, "rebuild: expected patches in the view 'masked_image'"),
        ({"terms": [{"name": "caption", "drop": 0.5}, "rebuild"]}, "drop: an embedding has no patches"),
        ({"terms": [{"name": "caption", "look": "tokens", "drop": 1.0}, "rebuild"]}, "drop: expected"),
        ({"terms": [{"name": "caption"}, "rebuild"]}, "decoder: expected look: prefix, got tokens"),
        ({"heads": {**HEADS, "rebuilder": {"name": "text_guided", "width": 30}}}, "width: expected a multiple of 4"),
        ({"heads": {**HEADS, "rebuilder": {"name": "text_guided", "heads": 3}}}, "heads: expected a divisor"),
    ],
)
def test_settings_that_do_not_go_together(change, said):
    def run():
        step, module = made(**change)
        step(module, batch_of(), step=5, gather=LOCAL)

    with pytest.raises(InputError, match=said):
        run()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_works_or_says_why_not(family, tmp_path):
    model = FAMILIES[family](tmp_path).train()

    def run():
        step, module = made(model=model)
        return step(module, batch_of(model, size=model.image_spec.size[0]), step=5, gather=LOCAL)

    if (family, "image") in SEALED or (family, "text") in CLOSED or family == "SigLIP 2 padded left":
        with pytest.raises(UnsupportedModelError, match="expected"):
            run()
        return
    loss = run()
    assert loss.total.isfinite()
    loss.total.backward()


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    views = "{image: {want: tokens}, text: {want: tokens}, "
    views += "masked_image: {source: image, want: tokens, patches: {name: untold, random_first: 0.3}}}"
    heads = "{decoder: {name: causal_decoder, look: tokens, width: 32, layers: 1}, "
    heads += "rebuilder: {name: text_guided, width: 32}}"
    terms = "[objective, {name: caption, look: tokens, drop: 0.5, weight: 2}, rebuild]"
    config = load_config(
        overrides=[
            *(
                "data={name: emoji, split: validation, size: 32}",
                "size=tiny",
                "batch_size=8",
                "steps=4",
                "precision=fp32",
            ),
            *("vocabulary=used", "threads=1", f"step={{views: {views}, heads: {heads}, terms: {terms}}}"),
        ]
    )
    train(config, folder=tmp_path / "whole")
    seen = []
    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "parts", should_stop=lambda: seen.append(None) or len(seen) == 2)
    train(config, folder=tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not any(name.startswith(("decoder.", "rebuilder.")) for name in whole)
    records = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert [one["rebuild"] for one in records[0]] == [one["rebuild"] for one in records[1]]
