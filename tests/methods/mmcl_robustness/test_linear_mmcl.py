"""Linear contrastive learning: the identity behind it, its minimum, the deceiving world, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.methods.mmcl_robustness import LinearMMCL, SpuriousWorld, linear_mmcl_loss, theory_accuracy


def pairs(n: int = 40, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((n, 3))
    image = hidden @ rng.standard_normal((3, 7)) + 0.3 * rng.standard_normal((n, 7)) + 2
    return image, hidden @ rng.standard_normal((3, 5)) + 0.3 * rng.standard_normal((n, 5)) - 1


def loss_of(
    image: np.ndarray, text: np.ndarray, left: torch.Tensor, right: torch.Tensor, *, rho: float
) -> torch.Tensor:
    return linear_mmcl_loss(
        torch.from_numpy(image), text=torch.from_numpy(text), image_weights=left, text_weights=right, rho=rho
    )


class TestLoss:
    def test_is_the_sum_over_all_strangers(self):
        image, text = pairs(6)
        rng = np.random.default_rng(1)
        left, right = rng.standard_normal((2, 7)), rng.standard_normal((2, 5))
        s = image @ left.T @ right @ text.T
        n, rho = 6, 0.3
        strangers = sum(s[i, j] + s[j, i] - 2 * s[i, i] for i in range(n) for j in range(n) if i != j)
        expected = strangers / (2 * n * (n - 1)) + rho / 2 * np.sum((left.T @ right) ** 2)
        got = loss_of(image, text, torch.from_numpy(left), torch.from_numpy(right), rho=rho)
        np.testing.assert_allclose(got.item(), expected, rtol=1e-12)

    def test_a_shift_of_either_side_changes_nothing(self):
        image, text = pairs()
        left, right = (torch.randn(2, width, dtype=torch.float64) for width in (7, 5))
        first = loss_of(image, text, left, right, rho=1.0)
        torch.testing.assert_close(first, loss_of(image + 3, text - 5, left, right, rho=1.0), rtol=1e-10, atol=1e-10)

    def test_descent_arrives_at_the_solution(self):
        image, text = pairs()
        solved = LinearMMCL(rank=2, rho=0.5).fit(image, text)
        generator = torch.Generator().manual_seed(0)
        weights = [
            (0.1 * torch.randn(2, width, generator=generator, dtype=torch.float64)).requires_grad_() for width in (7, 5)
        ]
        optimizer = torch.optim.LBFGS(weights, max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(image, text, *weights, rho=0.5)
            loss.backward()
            return loss

        optimizer.step(closure)
        left, right = (weight.detach().numpy() for weight in weights)
        np.testing.assert_allclose(left.T @ right, solved.G_, atol=1e-4)
        np.testing.assert_allclose(float(closure().detach()), solved.loss_, rtol=1e-8)

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((1, 7), (1, 5), (2, 7), (2, 5)), "at least two pairs, for one has no stranger, got 1"),
            (((4, 7), (3, 5), (2, 7), (2, 5)), r"expected image \(n, i\)"),
            (((4, 7), (4, 5), (2, 6), (2, 5)), r"expected image \(n, i\)"),
            (((4, 7), (4, 5), (2, 7), (3, 5)), r"expected image \(n, i\)"),
            (((4,), (4, 5), (2, 7), (2, 5)), r"expected image \(n, i\)"),
        ],
    )
    def test_bad_input(self, shapes, message):
        image, text, left, right = (torch.zeros(shape) for shape in shapes)
        with pytest.raises(InputError, match=message):
            linear_mmcl_loss(image, text=text, image_weights=left, text_weights=right)


class TestEstimator:
    def test_every_rank_below_the_full_one_costs_more(self):
        image, text = pairs()
        losses = [LinearMMCL(rank=rank).fit(image, text).loss_ for rank in range(1, 6)]
        assert losses == sorted(losses, reverse=True)
        full = LinearMMCL().fit(image, text)
        np.testing.assert_allclose(full.G_, full.cross_cov_, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(full.loss_, losses[-1], rtol=1e-12)
        cov = np.cov(image.T, text.T)[:7, 7:]
        np.testing.assert_allclose(full.cross_cov_, cov, rtol=1e-10, atol=1e-12)

    def test_rho_scales_and_ranks_nothing_anew(self):
        image, text = pairs()
        first, second = (LinearMMCL(rank=2, rho=rho).fit(image, text) for rho in (1.0, 4.0))
        np.testing.assert_allclose(first.G_, 4 * second.G_, rtol=1e-10, atol=1e-12)
        classes = text[:6]
        np.testing.assert_array_equal(
            first.predict_zero_shot(image, class_text=classes), second.predict_zero_shot(image, class_text=classes)
        )

    def test_similarity_is_centred_and_is_that_of_the_embeddings(self):
        image, text = pairs()
        fitted = LinearMMCL().fit(image, text)
        scores = (image - image.mean(0)) @ fitted.G_ @ (text[:4] - text.mean(0)).T
        np.testing.assert_allclose(fitted.similarity(image, texts=text[:4]), scores, rtol=1e-9, atol=1e-9)
        shifted = LinearMMCL().fit(image + 9, text - 4)
        np.testing.assert_allclose(shifted.similarity(image + 9, texts=text[:4] - 4), scores, rtol=1e-8, atol=1e-8)

    def test_one_caption_coordinate_may_come_as_a_vector(self):
        image, text = pairs()
        flat, column = LinearMMCL().fit(image, text[:, 0]), LinearMMCL().fit(image, text[:, :1])
        np.testing.assert_array_equal(flat.G_, column.G_)

    def test_saved_and_read(self, tmp_path):
        image, text = pairs()
        fitted = LinearMMCL(rank=2, rho=0.5).fit(image, text)
        fitted.save(tmp_path / "one.safetensors")
        read = LinearMMCL.load(tmp_path / "one.safetensors")
        assert read.get_params() == fitted.get_params()
        assert read.loss_ == fitted.loss_
        np.testing.assert_array_equal(read.transform(image), fitted.transform(image))

    def test_bad_input(self):
        image, text = pairs()
        for model, message in (
            (LinearMMCL(rank=1.5), "rank"),
            (LinearMMCL(rho=0.0), "rho"),
            (LinearMMCL(rho=math.inf), "rho"),
        ):
            with pytest.raises(InputError, match=message):
                model.fit(image, text)
        for rows, captions in ((image[:1], text[:1]), (image, text[:-1]), (np.where(image > 2, np.nan, image), text)):
            with pytest.raises(ValueError, match=r"sample|NaN"):
                LinearMMCL().fit(rows, captions)
        for rows, captions in ((np.ones((9, 7)), text[:9]), (image[:9], np.ones((9, 5)))):
            with pytest.raises(InputError, match="do not vary together"):
                LinearMMCL().fit(rows, captions)
        fitted = LinearMMCL().fit(image, text)
        with pytest.raises(InputError, match="at least two classes to tell apart, got 1"):
            fitted.predict_zero_shot(image, class_text=text[:1])
        with pytest.raises(InputError, match=r"texts: expected rows of 5 coordinates, got shape \(2, 4\)"):
            fitted.similarity(image, texts=text[:2, :4])


class TestWorld:
    @pytest.mark.parametrize("caption", ["rich", "class", (0.5, 1.0)])
    @pytest.mark.parametrize("p", [0.6, 0.9])
    def test_many_pairs_score_as_the_theory_says(self, caption, p):
        world = SpuriousWorld(dim_image=4, dim_text=4, sigma_cue=0.1, noise=0.01, caption=caption)
        rng = np.random.default_rng(0)
        seen, new = world.draw(40_000, p=p, rng=rng), world.draw(40_000, p=p, rng=rng)
        fitted = LinearMMCL().fit(seen.image, seen.text)
        right = fitted.predict_zero_shot(new.image, class_text=world.class_text) == new.label
        expected = theory_accuracy(p, sigma_core=1.0, sigma_cue=0.1, caption=caption)
        agree = new.cue == new.label
        np.testing.assert_allclose(agree.mean(), p, atol=0.01)
        np.testing.assert_allclose(right[agree].mean(), expected.majority, atol=0.012)
        np.testing.assert_allclose(right[~agree].mean(), expected.minority, atol=0.012)
        np.testing.assert_allclose(right.mean(), expected.id, atol=0.012)

    def test_richer_captions_are_more_robust_in_theory(self):
        scores = [
            theory_accuracy(0.95, sigma_core=1.0, sigma_cue=0.05, caption=(share, 1.0)).ood
            for share in (0, 0.3, 0.7, 1)
        ]
        assert scores == sorted(scores)
        assert scores[-1] == theory_accuracy(0.95, sigma_core=1.0, sigma_cue=0.05).ood
        assert scores[0] == theory_accuracy(0.95, sigma_core=1.0, sigma_cue=0.05, caption="class").ood

    def test_a_cue_that_tells_nothing_harms_nobody(self):
        found = theory_accuracy(0.5, sigma_core=1.0, sigma_cue=0.05)
        assert found.minority == found.majority == found.ood == found.id
        assert math.isclose(found.ood, 0.5 * (1 + math.erf(1 / math.sqrt(2))))
        assert theory_accuracy(0.9, sigma_core=0.0, sigma_cue=0.0).minority == 1.0

    def test_class_captions_say_the_class_alone(self):
        world = SpuriousWorld(noise=0.0, caption="class")
        drawn = world.draw(50, p=0.9, rng=np.random.default_rng(0))
        np.testing.assert_allclose(drawn.text, world.class_text[drawn.label], atol=1e-12)
        assert set(drawn.label) == set(drawn.cue) == {0, 1}

    def test_bad_input(self):
        for settings, message in (
            ({"dim_image": 1}, "dim_image"),
            ({"sigma_cue": math.nan}, "sigma_cue"),
            ({"noise": -0.1}, "noise"),
            ({"caption": (0.5, 1.5)}, "caption"),
        ):
            with pytest.raises(InputError, match=message):
                SpuriousWorld(**settings)
