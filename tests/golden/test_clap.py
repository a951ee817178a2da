"""CLAP's attention, mask, mosaic and comparison of gradients against a transcription that is not ours."""

from __future__ import annotations

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.methods.clap import ClapDetector
from tether.methods.clap.contrast import (
    contrast,
    contrast_attention,
    mean_cosine,
    quantile_mask,
    quantile_of,
    unit_range,
)
from tether.methods.clap.msgms import gradient_magnitude, msgms
from tether.methods.clap.padding import mirrored
from tether.methods.clap.repair import mosaic
from tether.models import create
from tether.tasks.anomaly.detector import ImageFeatures

V = load("clap")
HYPER = V.meta["hyper"]
RTOL = 1e-8
EDGE = 1e-6  # nearer than this to the threshold, the last bits of an attention say on which side a pixel lies
SIZE = V["mask"].shape[2:]
GRID = V["attention"].shape[2:]


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found if found.dtype == torch.bool else found.double()


def check(ours: Tensor, name: str, *, rtol: float = RTOL) -> None:
    np.testing.assert_allclose(ours.numpy().reshape(V[name].shape), V[name], rtol=rtol, atol=rtol)


def enlarged(attention: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(attention[:, None], SIZE, mode="bilinear")


def off_the_edge(attention: Tensor) -> np.ndarray:
    """Pixels of which the mask is sure: every kernel has their attention on one side of the threshold."""
    large = enlarged(attention)
    threshold = quantile_of(large, HYPER["quantile"])
    sure = (large - threshold.view(-1, 1, 1, 1)).abs() > EDGE
    assert sure.double().mean() > 0.99
    return sure.numpy()


def test_attention() -> None:
    """The file's ``attention`` is not yet brought to 0 to 1 once more, as what it is enlarged to is."""
    patches, positive, negative = array("patch"), array("text_positive"), array("text_negative")
    means = [mean_cosine(patches, texts).unflatten(1, GRID) for texts in (positive, negative)]
    check(means[0], "attention_positive")
    check(means[1], "attention_negative")
    check(contrast(*means), "attention")
    found = contrast_attention(patches, positive, negative, grid=GRID)
    check(enlarged(found), "attention_up")
    torch.testing.assert_close(contrast_attention(patches, positive, grid=GRID), unit_range(means[0]))


def test_mask() -> None:
    attention = unit_range(array("attention")[:, 0])
    check(quantile_of(enlarged(attention), HYPER["quantile"]), "threshold")
    found, sure = quantile_mask(attention, size=SIZE, quantile=HYPER["quantile"]).numpy(), off_the_edge(attention)
    np.testing.assert_array_equal(found[sure], V["mask"][sure])


def test_mosaic() -> None:
    image, mask, block = array("image"), array("mask"), HYPER["block"]
    check(mosaic(image, torch.ones_like(mask), block=block), "mosaic")
    check(mosaic(image, mask, block=block), "obfuscated", rtol=1e-7)  # kept as float32


def test_comparison() -> None:
    image, repaired, scales = array("image"), array("reconstruction"), HYPER["scales"]
    check(gradient_magnitude(image.mean(dim=1, keepdim=True)), "grad_magnitude")
    found = msgms(image, repaired, scales=scales)
    check(found, "msgms_map")
    check(found.amax(dim=(1, 2, 3)), "score_max")
    check(found.mean(dim=(1, 2, 3)), "score_mean")
    check(msgms(image, image, scales=scales).max(), "msgms_same_max")


def test_the_detector_puts_them_together() -> None:
    """``judge`` with a network that gives what the transcription was given; it compares at four scales."""
    height, width = SIZE
    detector = ClapDetector(
        positive=["x"], negative=["y"], quantile=HYPER["quantile"], block=HYPER["block"], side=min(SIZE)
    ).prepare(create("tiny").eval(), "thing")
    patches = torch.nn.functional.normalize(array("patch"), dim=2)
    texts = [torch.nn.functional.normalize(array(f"text_{side}"), dim=1) for side in ("positive", "negative")]
    means = torch.stack([(patches @ rows.T).mean(dim=2) for rows in texts], dim=2)
    for number, image in enumerate(array("image")):
        look = ImageFeatures((height, width), tuple(GRID), (means[number], image.flatten(1).T))
        wanted = unit_range(array("attention")[number])
        np.testing.assert_allclose(detector.attention(look), wanted, rtol=RTOL, atol=RTOL)
        seen = []

        class Given(torch.nn.Module):
            def forward(self, x: Tensor, number: int = number, seen: list[Tensor] = seen) -> Tensor:
                seen.append(x)
                return array("reconstruction")[number : number + 1]

        detector.net = Given()
        found = detector.judge(look)
        sure = np.broadcast_to(off_the_edge(wanted)[0], image.shape)
        np.testing.assert_allclose(seen[0][0].numpy()[sure], V["obfuscated"][number][sure], rtol=1e-7, atol=1e-7)
        wanted = msgms(image[None], array("reconstruction")[number : number + 1])[0, 0].numpy()
        np.testing.assert_allclose(found.values, wanted, rtol=1e-6)
        assert found.score == found.values.max()


def test_sides_that_nothing_divides_are_mirrored_as_numpy_does() -> None:
    image = torch.rand(1, 2, 3, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 5), (0, 3)), mode="reflect")
    np.testing.assert_array_equal(mirrored(image, multiple=8).numpy(), wanted)
    whole = torch.from_numpy(wanted)
    mask = torch.ones(1, 1, 3, 13, dtype=torch.bool)
    cut = mosaic(whole, torch.ones(1, 1, 8, 16, dtype=torch.bool), block=8)[:, :, :3, :13]
    np.testing.assert_array_equal(mosaic(image, mask, block=8).numpy(), cut.numpy())
    other = image.flip(3)
    wide = mirrored(other, multiple=8)
    np.testing.assert_allclose(msgms(image, other), msgms(whole, wide)[:, :, :3, :13], rtol=1e-12)
