"""What typos must be on every family: found by any tokenizer, and never on the image side."""

import pytest
import torch

from families import FAMILIES
from tether.methods.leaf import LeafTrainer, typo_robustness
from tether.methods.leaf.attack import encode_read, leaf_attack
from tether.methods.leaf.typos import edit
from tether.models.texts.truncation_check import FitsContext

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
TEXTS = ["a red cat sits", "the dog in the sun", "sun"]


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[request.param](tmp_path_factory.mktemp("family")).eval()


def test_the_attack_finds_what_is_far(model):
    encode = encode_read(model)
    anchors = encode(TEXTS)
    slots, chars = torch.tensor([[[0, 1, 3]] * 3]), torch.tensor([[[0, 4, 40]] * 3])
    found = leaf_attack(encode, TEXTS, anchors, rho=3, slots=slots, chars=chars)
    for row, text in enumerate(TEXTS):
        tried = [edit(text, int(found.trace[0].slots[row]), code, alternative=-1) for code in (-1, ord("d"), ord("M"))]
        far = (torch.cat([encode([one]) for one in tried]) - anchors[row]).square().sum(dim=1)
        reached = (encode([found.texts[row]])[0] - anchors[row]).square().sum()
        assert found.texts[row] in tried
        torch.testing.assert_close(reached, far.max(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.features[row], encode([found.texts[row]])[0], rtol=1e-4, atol=1e-5)


def test_ends_of_texts_are_noticed(model):
    context, fits = model.tokenizer.context_length, FitsContext(model)
    whole = fits.whole(["cat " * count for count in range(1, context + 2)])
    assert whole[0]
    assert not whole[-1]
    assert whole == sorted(whole, reverse=True)
    rows = encode_read(model)(["cat " * count for count in range(1, context + 2)])
    last = whole.index(False)
    torch.testing.assert_close(rows[last], rows[-1], rtol=1e-4, atol=1e-5)  # nothing is read past the end


def test_training_moves_texts_alone(model):
    images = torch.randint(0, 256, (2, 3, *model.image_spec.size), dtype=torch.uint8)
    with torch.no_grad():
        before = model.encode_image(images).pooled
    trainer = LeafTrainer(model, rho=2, learning_rate=1e-3)
    terms = [trainer.step(TEXTS) for _ in range(2)]
    assert all(one["loss"] >= 0 for one in terms)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images).pooled, before)
    clean = encode_read(trainer.loss.reference)(TEXTS)
    moved = encode_read(model)(TEXTS)
    assert not torch.equal(clean, moved)
    measured = typo_robustness(
        model,
        TEXTS,
        gallery=clean,
        labels=torch.arange(3),
        attack="leaf",
        rho=3,
        clean=clean,
        generator=torch.Generator(),
    )
    assert measured.distance > 0
    assert measured.clean.shape == measured.attacked.shape == (3,)
