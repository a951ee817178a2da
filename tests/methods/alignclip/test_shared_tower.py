import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.methods.alignclip import AlignClipLoss
from tether.methods.alignclip.step import SemanticStep
from tether.models import create
from tether.models.embed import encode_texts
from tether.training import load_config, train
from tether.training.steps.module import StepModule
from tether.training.steps.teachers import BUCKETS, count_words

TEXTS = ["a red circle", "a blue square over a red circle", "snow"]


def pixels(count):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_shared_tower_has_exactly_one_stack_norm_and_projection():
    two, one = create("tiny"), create("tiny", towers="shared")
    stack = sum(
        p.numel() for part in ("blocks", "norm_post", "projection") for p in getattr(two.text, part).parameters()
    )
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in (("two", two), ("one", one))}
    assert count["two"] - count["one"] == stack
    assert len(list(one.named_parameters())) == len({id(p) for p in one.parameters()})


def test_both_sides_run_through_the_same_weights_with_a_mask_for_texts_alone():
    model = create("tiny", towers="shared", seed=3)
    ids = model.tokenizer(TEXTS)
    before = model.encode_image(pixels(3)).pooled, model.encode_text(ids).pooled
    with torch.no_grad():
        model.text.blocks[0].up.weight.mul_(1.5)
    assert not torch.allclose(model.encode_image(pixels(3)).pooled, before[0])
    assert not torch.allclose(model.encode_text(ids).pooled, before[1])
    longer = torch.cat([ids, torch.full((3, 1), 320)], dim=1)  # after the end token: a causal reader does not see it
    torch.testing.assert_close(model.encode_text(longer).pooled, model.encode_text(ids).pooled)


def test_a_shared_tower_equals_two_towers_of_the_same_weights():
    one, two = create("tiny", towers="shared", seed=1), create("tiny", seed=2)
    two.load_state_dict(one.state_dict())
    ids = one.tokenizer(TEXTS)
    torch.testing.assert_close(one.encode_image(pixels(3)).pooled, two.encode_image(pixels(3)).pooled)
    torch.testing.assert_close(one.encode_text(ids).pooled, two.encode_text(ids).pooled)


def test_it_is_saved_and_read_back_shared(tmp_path):
    model = create("tiny", towers="shared", seed=1).eval()
    tether.save(model, tmp_path)
    again = tether.load(str(tmp_path))
    assert again.text.blocks is again.visual.blocks
    torch.testing.assert_close(encode_texts(again, TEXTS), encode_texts(model, TEXTS))


def test_it_trains_from_a_recipe_and_stays_shared(tmp_path):
    settings = [
        "data={name: emoji, split: validation, size: 32}",
        "size=tiny",
        "batch_size=8",
        "steps=2",
        "precision=fp32",
        "model={towers: shared}",
        "objective=align_clip",
        "step=semantic",
        "threads=1",
    ]
    train(load_config(overrides=settings), folder=tmp_path / "run")
    model = tether.load(str(tmp_path / "run"))
    assert model.config.towers == "shared"
    assert model.text.blocks is model.visual.blocks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": {"layers": 3}}, "shared needs equal sides, layers is 2 for vision and 3 for text"),
        ({"text": {"width": 32}}, "width is 64 for vision and 32 for text"),
        ({"vision": {"gate": "mirror"}}, "no gate"),
        ({"block": {"attn_norm": ["post"]}, "text": {"block": {"attn_norm": ["pre"]}}}, "block"),
        ({"vision": {"block": {"rope": "2d"}}}, "2d rope"),
    ],
)
def test_sides_that_one_stack_cannot_serve_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        create("tiny", towers="shared", **settings)


def test_words_are_counted_without_marks_and_padding():
    model = create("tiny")
    ids = model.tokenizer([*TEXTS, "", "red circle a"])
    counts = count_words(ids)
    assert counts.shape == (5, BUCKETS)
    assert counts.sum(dim=1).tolist() == [3, 7, 1, 1, 3]
    assert torch.equal(counts[0], counts[4])  # order does not count
    wider = torch.cat([ids, torch.zeros(5, 4, dtype=torch.int64)], dim=1)
    assert torch.equal(count_words(wider), counts)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(counts[0], counts[1], dim=0) > 0.5 > cosine(counts[0], counts[2], dim=0)


def test_a_token_of_id_0_inside_a_caption_counts_and_ends_nothing():
    ids = torch.tensor(
        [[49406, 0, 320, 7, 49407, 0, 0], [49406, 320, 7, 0, 49407, 0, 0], [49406, 320, 7, 49407, 0, 0, 0]]
    )
    counts = count_words(ids)
    assert counts.sum(dim=1).tolist() == [3, 3, 2]
    assert torch.equal(counts[0], counts[1])


def test_a_frozen_encoder_reads_the_captions_and_is_named_not_saved(tmp_path):
    reader = create("tiny", seed=5).eval()
    tether.save(reader, tmp_path)
    model = StepModule(create("tiny", seed=0))
    ids = model.model.tokenizer(TEXTS)
    step = SemanticStep(AlignClipLoss(), steps=4, seed=0, encoder=str(tmp_path))
    loss = step(model, Batch(pixels(3), ids, {"texts": TEXTS}), step=0, gather=LOCAL)
    out = model.model(pixels(3), ids)
    told = Batch(pixels(3), ids, {"semantic": encode_texts(reader, TEXTS)})
    torch.testing.assert_close(loss.total, AlignClipLoss()(out, told, gather=LOCAL).total)
    loss.total.backward()
    assert not any(p.requires_grad for p in step._teachers.load(str(tmp_path)).parameters())
    assert not step.state_dict()
    with pytest.raises(InputError, match=r"batch.extra\['texts'\]: expected the 3 captions"):
        step(model, Batch(pixels(3), ids), step=0, gather=LOCAL)
