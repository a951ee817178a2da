"""LEAF's training: what is attacked, what rests, what a state holds."""

import copy

import pytest
import torch

from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.leaf import LeafLoss, LeafTrainer, typo_robustness
from tether.methods.leaf.typos import WordConstraint
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.texts.truncation_check import FitsContext
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.steps.module import StepModule

TEXTS = ["a small red circle", "two blue squares", "a green star", "the old house"]


def made(**settings):
    return create("tiny", seed=1, **settings).eval()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def test_texts_under_attack_come_back_to_where_they_were():
    model = made()
    base, clean = copy.deepcopy(model), encode_texts(model, TEXTS)
    trainer = LeafTrainer(model, rho=8, learning_rate=1e-3, constraint=WordConstraint.of(TEXTS))
    for _ in range(25):
        terms = trainer.step(TEXTS)
    assert terms["cut"] == 0
    assert terms["changed"] > 0.5
    far = [
        typo_robustness(
            one,
            TEXTS,
            gallery=clean,
            labels=torch.arange(4),
            attack="leaf",
            objective="l2",
            clean=clean,
            generator=chance(),
        ).distance
        for one in (base, model)
    ]
    assert far[1] < 0.8 * far[0]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, base.state_dict()[name])}
    assert moved
    assert not any(name.startswith(("visual", "logit")) for name in moved)
    assert all(torch.equal(a, b) for a, b in zip(trainer.loss.reference.parameters(), base.parameters(), strict=True))


def test_a_state_goes_on_bit_for_bit():
    whole = LeafTrainer(made(), rho=3, learning_rate=1e-3, seed=2)
    for _ in range(2):
        whole.step(TEXTS)
    other = LeafTrainer(create("tiny", seed=9).eval(), rho=3, learning_rate=1e-3, seed=5)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert [whole.step(TEXTS) for _ in range(2)] == [other.step(TEXTS) for _ in range(2)]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_the_attack_is_in_eval_mode_and_the_mode_comes_back():
    model = made()
    loss, modes, inner = LeafLoss(frozen_copy(model), rho=2), [], model.encode_text

    def listen(ids, **more):
        modes.append((model.training, torch.is_grad_enabled()))
        return inner(ids, **more)

    model.encode_text = listen
    model.train()
    found = loss(StepModule(model), TEXTS, generator=chance())
    assert model.training
    assert {training for training, _ in modes[:-1]} == {False}
    assert modes[-1] == (True, True)
    found.total.backward()
    assert all(one.grad is None for one in loss.reference.parameters())


@pytest.mark.parametrize("attack", ["leaf", "random"])
def test_both_attacks_cost_the_same_and_keep_to_the_words(attack):
    model, words = made(), WordConstraint.of(TEXTS)
    loss = LeafLoss(frozen_copy(model), attack=attack, rho=6, constraint=words)
    clean, found = loss.attacked(model, TEXTS, generator=chance())
    assert 2 * 6 * 4 - 12 <= found.encodings <= 2 * 6 * 4
    assert all(new == old or words([new], [old])[0] for new, old in zip(found.texts, TEXTS, strict=True))
    torch.testing.assert_close(clean, encode_texts(model, TEXTS))


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_an_end_that_is_pushed_out_is_refused_or_counted():
    model = made()
    full = [" ".join(["cat"] * (model.tokenizer.context_length - 2))]
    shares = {}
    for cut in ("refuse", "allow"):
        loss = LeafLoss(frozen_copy(model), rho=20, cut=cut)
        shares[cut] = float(loss(StepModule(model), full, generator=chance()).terms["cut"])
        _, found = loss.attacked(model, full, generator=chance())
        assert FitsContext(model).whole(found.texts)[0] == (shares[cut] == 0)
    assert shares == {"refuse": 0.0, "allow": 1.0}


def test_refused():
    with pytest.raises(UnsupportedModelError, match="share"):
        LeafTrainer(made(towers="shared"))
    with pytest.raises(InputError, match="no trainable"):
        LeafTrainer(made().requires_grad_(False))
    with pytest.raises(InputError, match="rho"):
        LeafTrainer(made(), rho=0)
    with pytest.raises(InputError, match="alphabet"):
        LeafTrainer(made(), alphabet=[])
    with pytest.raises(InputError, match="at least one"):
        LeafTrainer(made()).step([])
