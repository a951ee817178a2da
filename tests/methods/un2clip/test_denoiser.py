"""Noise schedules and a denoiser that is told an embedding."""

import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.methods.un2clip.denoising_net import DenoisingNet
from tether.methods.un2clip.noise_schedule import NoiseSchedule


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalDenoiser(6, shape=(3, 8, 8), width=8, **settings)


@pytest.mark.parametrize("kind", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize("timesteps", [1, 10, 1000])
def test_schedules_fall_from_image_to_noise(kind, timesteps):
    schedule = NoiseSchedule(kind=kind, timesteps=timesteps)
    shares = schedule.alphas_cumprod
    assert len(schedule) == timesteps
    assert (shares.diff() < 0).all()
    assert 0 <= shares[-1] < shares[0] + 1e-12 < 1.001
    x, noise, t = torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.full((3,), timesteps - 1)
    seen, v = schedule.noised(x, noise, t), schedule.target(x, noise, t, objective="v")
    keep, add = shares[-1].sqrt(), (1 - shares[-1]).sqrt()
    torch.testing.assert_close(keep * seen - add * v, x)  # x and the noise are told by the two together
    torch.testing.assert_close(add * seen + keep * v, noise)
    assert torch.equal(schedule.target(x, noise, t, objective="eps"), noise)


def test_first_and_last_betas():
    for kind in ("linear", "scaled_linear"):
        shares = NoiseSchedule(kind=kind, betas=(0.001, 0.02), timesteps=7).alphas_cumprod
        assert float(1 - shares[0]) == pytest.approx(0.001)
        assert float(1 - shares[-1] / shares[-2]) == pytest.approx(0.02)


@pytest.mark.parametrize("t", [[-1, 0], [0, 1000], [0], [0.5, 1.0]])
def test_no_such_step(t):
    with pytest.raises(InputError, match="a step from 0 to 999 for each of 2 rows"):
        NoiseSchedule().noised(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor(t))


def test_the_network_starts_at_zero_and_learns_from_step_and_embedding():
    net = DenoisingNet(3, cond_dim=6, width=8)
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.randn(2, 6)
    assert not net(x, t, cond).any()
    for value in net.last.parameters():
        torch.nn.init.normal_(value)
    found = net(x, t, cond)
    assert found.shape == x.shape
    assert not torch.allclose(found, net(x, t.flip(0), cond), atol=1e-4)
    assert not torch.allclose(found, net(x, t, cond.flip(0)), atol=1e-4)
    torch.testing.assert_close(net(x.flip(0), t.flip(0), cond.flip(0)), found.flip(0))
    assert net(torch.randn(2, 3, 12, 20), t, cond).shape == (2, 3, 12, 20)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_a_loss_of_several_draws_is_their_mean(objective):
    denoiser = small(objective=objective)
    for value in denoiser.network.last.parameters():
        torch.nn.init.normal_(value, std=0.1, generator=chance())
    x, cond = torch.rand(4, 3, 8, 8, generator=chance()) * 2 - 1, torch.randn(4, 6, generator=chance())
    t = torch.randint(1000, (12,), generator=chance())
    noise = torch.randn(12, 3, 8, 8, generator=chance())
    whole = denoiser.loss(x, cond, t=t, noise=noise, draws=3)
    parts = [denoiser.loss(x, cond, t=a, noise=b) for a, b in zip(t.split(4), noise.split(4), strict=True)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    assert torch.equal(denoiser.loss(x, cond, generator=chance(1)), denoiser.loss(x, cond, generator=chance(1)))
    assert not torch.equal(denoiser.loss(x, cond, generator=chance(1)), denoiser.loss(x, cond, generator=chance(2)))


@pytest.mark.parametrize("rows", ["unit", "raw"])
def test_embeddings_are_seen_as_its_setting_says(rows):
    denoiser = small(rows=rows)
    for value in denoiser.network.last.parameters():
        torch.nn.init.normal_(value, generator=chance())
    x, cond = (torch.randn(2, *shape, generator=chance(seed)) for seed, shape in ((1, (3, 8, 8)), (2, (6,))))
    t = torch.tensor([10, 500])
    longer = torch.allclose(denoiser(x, t, cond), denoiser(x, t, 3 * cond), rtol=1e-3, atol=1e-3)
    assert longer == (rows == "unit")


def test_gain_tells_who_listens():
    class Told(torch.nn.Module):
        def forward(self, x, t, cond):
            del t
            return cond[:, :, None, None].expand_as(x) if self.listens else 0 * x

    net = Told()
    x = torch.linspace(-1, 1, 12)[:, None, None, None].expand(12, 3, 4, 4).clone()
    denoiser = ConditionalDenoiser(3, shape=(3, 4, 4), rows="raw", betas=(0.9, 0.99), network=net)
    cond = -x.mean(dim=(2, 3))  # of nearly pure noise, v is nearly -x
    for net.listens in (True, False):
        gain = denoiser.gain(x, cond, generator=chance())
        assert gain > 0.3 if net.listens else gain == 0
    with pytest.raises(InputError, match="at least two rows"):
        denoiser.gain(x[:1], cond[:1], generator=chance())


def test_images_of_any_kind_are_the_same_to_it():
    spec, denoiser = ImageSpec(size=(32, 32)), small()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    found = denoiser.images(pixels, spec=spec)
    assert found.shape == (2, 3, 8, 8)
    assert found.abs().max() <= 1
    torch.testing.assert_close(denoiser.images(spec.normalise(pixels), spec=spec), found, atol=1e-5, rtol=0)
    grey = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    torch.testing.assert_close(denoiser.images(grey, spec=spec), torch.ones(1, 3, 8, 8))
    with pytest.raises(InputError, match="latents"):
        ConditionalDenoiser(6, shape=(4, 8, 8), width=8).images(pixels, spec=spec)


def test_a_file_holds_all_and_whose_embeddings_they_were(tmp_path):
    denoiser = small(objective="eps", rows="raw", schedule="linear", betas=(0.001, 0.02), timesteps=50)
    denoiser.reference = "ab" * 16
    denoiser.save(tmp_path / "denoiser.safetensors")
    opened = ConditionalDenoiser.load(tmp_path / "denoiser.safetensors")
    assert opened.settings == denoiser.settings
    x, cond = torch.randn(2, 3, 8, 8), torch.randn(2, 6)
    assert torch.equal(opened.loss(x, cond, generator=chance()), denoiser.loss(x, cond, generator=chance()))
    opened.check("ab" * 16)
    with pytest.raises(InputError, match="one of digest abababababab, not on this image side of digest cdcdcdcdcdcd"):
        opened.check("cd" * 16)
    with pytest.raises(InputError, match="trained on none"):
        small().check("ab" * 16)
    (tmp_path / "other").write_bytes(b"no")
    with pytest.raises(InputError, match="not a safetensors file"):
        ConditionalDenoiser.load(tmp_path / "other")
    with pytest.raises(InputError, match="network of its own"):
        ConditionalDenoiser(6, shape=(6,), network=torch.nn.Identity()).save(tmp_path / "third")


def test_refused():
    denoiser, x, cond = small(), torch.zeros(2, 3, 8, 8), torch.zeros(2, 6)
    for other in (torch.zeros(2, 5), torch.zeros(3, 6)):
        with pytest.raises(InputError, match=r"embeddings of \(2, 6\)"):
            denoiser.loss(x, other, generator=chance())
    with pytest.raises(InputError, match="expected x of"):
        denoiser.loss(torch.zeros(2, 3, 4, 4), cond, generator=chance())
    with pytest.raises(InputError, match="generator"):
        denoiser.loss(x, cond)
    with pytest.raises(InputError, match="noise: expected"):
        denoiser.loss(x, cond, t=torch.tensor([1, 2]), noise=torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="that 4 divides"):
        ConditionalDenoiser(6, shape=(3, 9, 8))
    with pytest.raises(InputError, match="multiple of 8"):
        ConditionalDenoiser(6, shape=(3, 8, 8), width=9)
