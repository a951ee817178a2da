"""un2CLIP: the gate, what moves, what stays, and when it ends."""

import copy

import pytest
import torch

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Batch
from tether.methods.un2clip import InvertUnclip, check_gain, image_choice, train_denoiser
from tether.methods.un2clip.denoise import denoised, denoiser_loss, drawn
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.models import create

COLOURS = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [250, 250, 10]], dtype=torch.uint8)
IMAGES = COLOURS.repeat(8, 1)[:, :, None, None].expand(32, 3, 32, 32).contiguous()
BATCH = Batch(IMAGES, torch.empty(len(IMAGES), 0, dtype=torch.int64))


def made(seed=1, **settings):
    return create("tiny", seed=seed, **settings).eval()


class Told(torch.nn.Module):
    """Reads three numbers of the embedding as a colour."""

    def __init__(self, dim):
        super().__init__()
        self.colour = torch.nn.Linear(dim, 3)

    def forward(self, x, t, cond):
        del t
        return self.colour(cond)[:, :, None, None].expand_as(x)


def listener(model, *, steps=25):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        told = Told(model.dim)
    denoiser = ConditionalDenoiser(model.dim, shape=(3, 4, 4), betas=(0.3, 0.9), timesteps=10, network=told)
    losses = train_denoiser(denoiser, model, [BATCH] * steps, steps=steps, learning_rate=0.02)
    assert losses[-1] < losses[0]
    return denoiser


@pytest.fixture(scope="module")
def trained():
    model = made()
    return model, listener(model)


def test_an_encoder_under_a_listening_denoiser_lowers_its_loss(trained):
    base, denoiser = trained
    model, weights = copy.deepcopy(base), copy.deepcopy(denoiser.state_dict())
    run = InvertUnclip(model, denoiser, probe=BATCH, learning_rate=3e-4, draws=2)
    assert run.gain > 0.05

    def loss(one):
        return float(sum(denoiser_loss(denoiser, one, BATCH, generator=drawn(99 + at, seed=5)) for at in range(4)))

    before = loss(base)
    done = run.fit([BATCH] * 15, steps=15)
    assert done.steps == 15
    assert done.ended == "done"
    assert loss(model) < before
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, weights[name])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, base.state_dict()[name])}
    assert moved
    assert all(name.startswith("visual.") for name in moved)


def test_a_denoiser_that_does_not_listen_is_refused():
    model = made()
    denoiser = ConditionalDenoiser(model.dim, shape=(3, 8, 8), width=8)
    train_denoiser(denoiser, model, [BATCH], steps=1)
    with pytest.raises(InputError, match=r"does not look at its condition.* by -?\d+.\d %, expected at least 5.0 %"):
        InvertUnclip(model, denoiser, probe=BATCH)
    with pytest.raises(InputError, match="does not look"):
        check_gain(denoiser, model, BATCH)
    assert InvertUnclip(model, denoiser, probe=BATCH, least_gain=-1.0).gain < 0.05


@pytest.mark.parametrize("train", ["all", "last_k", "ln"])
def test_only_what_is_chosen_moves(trained, train):
    base, denoiser = trained
    model = copy.deepcopy(base)
    run = InvertUnclip(model, denoiser, probe=BATCH, train=train, last=1, learning_rate=1e-3)
    run.step(BATCH)
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, base.get_parameter(name))}
    assert moved <= set(image_choice(base, train=train, last=1))
    assert len(moved) > 5
    if train == "last_k":
        assert {name.split(".")[2] for name in moved} == {"1"}
    if train == "ln":
        assert all("norm" in name or "_pre" in name for name in moved)


def test_mu_holds_embeddings_where_they_were(trained):
    base, denoiser = trained
    far = {}
    for mu in (0.0, 10.0):
        model = copy.deepcopy(base)
        run = InvertUnclip(model, denoiser, probe=BATCH, learning_rate=1e-3, mu=mu)
        terms = run.fit([BATCH] * 8, steps=8)
        assert terms.steps == 8
        with torch.no_grad():
            rows = (one.encode_image(IMAGES[:4]).pooled for one in (model, base))
            first, second = rows
        far[mu] = float((first - second).square().sum(dim=1).mean())
        assert ("moved" in run.step(BATCH)) == (mu > 0)
    assert far[10.0] < 0.5 * far[0.0]


def test_it_stops_when_what_is_watched_falls_and_goes_back(trained):
    base, denoiser = trained
    model = copy.deepcopy(base)
    run = InvertUnclip(model, denoiser, probe=BATCH, learning_rate=1e-3)
    seen, found = [], iter([0.9, 0.89, 0.85, 0.1])

    def watch():
        seen.append(copy.deepcopy(model.state_dict()))
        return next(found)

    done = run.fit([BATCH] * 20, steps=20, watch=watch, every=2, most_drop=0.02)
    assert (done.ended, done.steps, done.watched) == ("stopped", 4, (0.9, 0.89, 0.85))
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen[1][name])
    assert any(not torch.equal(value, seen[2][name]) for name, value in model.state_dict().items())


def test_a_state_goes_on_bit_for_bit_and_knows_where_it_began(trained):
    base, denoiser = trained
    whole, other = (
        InvertUnclip(copy.deepcopy(base), denoiser, probe=BATCH, learning_rate=1e-3, mu=0.1) for _ in range(2)
    )
    whole.step(BATCH)
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert whole.step(BATCH) == other.step(BATCH)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    with pytest.raises(InputError, match="began from an encoder of digest"):
        other.load_state_dict({**whole.state_dict(), "reference": "ab" * 16})
    with pytest.raises(InputError, match="expected a denoiser of"):
        other.load_state_dict({**whole.state_dict(), "denoiser": {}})


def test_latents_take_the_place_of_images():
    model = made()
    denoiser = ConditionalDenoiser(model.dim, shape=(4, 8, 8), width=8)
    latents = torch.randn(len(IMAGES), 4, 8, 8, generator=drawn(0, seed=0))
    batch = Batch(IMAGES, BATCH.text, {"latent_image": latents})
    assert denoised(denoiser, model, batch) is latents
    assert len(train_denoiser(denoiser, model, [batch], steps=1, drop=0.5)) == 1
    assert InvertUnclip(model, denoiser, probe=batch, least_gain=-1.0, train="ln").step(batch)["loss"] > 0
    with pytest.raises(InputError, match="expected latents"):
        denoised(denoiser, model, BATCH)


def test_refused(trained):
    base, denoiser = trained
    with pytest.raises(InputError, match="not on this image side"):
        InvertUnclip(made(seed=2), denoiser, probe=BATCH)
    with pytest.raises(InputError, match="trained on none"):
        InvertUnclip(base, ConditionalDenoiser(base.dim, shape=(3, 8, 8), width=8), probe=BATCH)
    with pytest.raises(InputError, match="no trainable"):
        InvertUnclip(copy.deepcopy(base).requires_grad_(False), denoiser, probe=BATCH)
    with pytest.raises(InputError, match="at least steps=2, got 1"):
        train_denoiser(ConditionalDenoiser(base.dim, shape=(3, 8, 8), width=8), base, [BATCH], steps=2)
    with pytest.raises(InputError, match="embeddings of"):
        train_denoiser(ConditionalDenoiser(5, shape=(3, 8, 8), width=8), base, [BATCH], steps=1)
    with pytest.raises(InputError, match="has 2 blocks"):
        image_choice(base, train="last_k", last=3)
    with pytest.raises(UnsupportedModelError, match="share"):
        image_choice(made(towers="shared"))
