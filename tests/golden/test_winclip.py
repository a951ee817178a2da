"""WinCLIP's windows, scores and maps against anomalib's functions, and the direction that another code takes."""

from __future__ import annotations

import numpy as np
import torch
from loading import load
from torch import Tensor

from tether.methods.winclip import WinclipDetector
from tether.methods.winclip.detector import few_shot_map, zero_shot_map
from tether.methods.winclip.token_windows import window_masks
from tether.tasks.anomaly.detector import ImageFeatures
from tether.tasks.anomaly.harmonic import harmonic_map, harmonic_mean
from tether.tasks.anomaly.memory import association

V = load("winclip")
HYPER = V.meta["hyper"]
RTOL = 1e-9
ALT_RTOL = 1e-4
GRID = tuple(HYPER["grid"])
SCALES = HYPER["scales"]
MASKS = [window_masks(GRID, side=side) for side in SCALES]


def array(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def check(ours: Tensor, name: str, *, rtol: float = RTOL) -> None:
    np.testing.assert_allclose(ours.numpy(), V[name], rtol=rtol, atol=rtol * 1e-3)


def detector() -> WinclipDetector:
    found = WinclipDetector(scales=SCALES, temperature=HYPER["temperature"])
    found.texts = torch.nn.functional.normalize(array("text_embeddings"), dim=1)
    found.scale = 1 / HYPER["temperature"]
    return found


def test_windows() -> None:
    for side, masks in zip(SCALES, MASKS, strict=True):
        np.testing.assert_array_equal(masks.numpy(), V[f"masks_{side}"])
    np.testing.assert_array_equal(window_masks((5, 4), side=3, stride=2).numpy(), V["masks_5x4_k3_s2"])


def test_scores_and_maps_from_words() -> None:
    score = detector().defect_scores
    check(score(array("image_embeddings")), "image_scores")
    windows = [score(array(f"window_embeddings_{side}")) for side in SCALES]
    for side, masks, scores in zip(SCALES, MASKS, windows, strict=True):
        check(scores, f"window_scores_{side}")
        check(harmonic_map(scores, masks=masks, grid=GRID), f"zero_map_{side}")
    check(zero_shot_map(array("image_scores"), windows, masks=MASKS, grid=GRID), "zero_shot_map")


def test_maps_from_good_images() -> None:
    for side, masks in zip(SCALES, MASKS, strict=True):
        rows, known = array(f"window_embeddings_{side}"), array(f"ref_window_embeddings_{side}").flatten(0, 1)
        away = association(rows.flatten(0, 1), known).view(rows.shape[:2])
        check(harmonic_map(away, masks=masks, grid=GRID), f"few_map_{side}")
    names = ["patch_embeddings", *(f"window_embeddings_{side}" for side in SCALES)]
    patches, *windows = map(array, names)
    memory = [array(f"ref_{name}").flatten(0, 1) for name in names]
    few = few_shot_map(patches, windows, memory=memory, masks=MASKS, grid=GRID)
    check(few, "few_shot_map")
    check((array("zero_shot_map") + few) / 2, "combined_map")
    check((array("image_scores") + few.amax(dim=(1, 2))) / 2, "combined_image_score")


def test_the_detector_puts_them_together() -> None:
    """The whole of ``judge``, whose maps are float32."""
    found = detector()
    found._model, found._masks, found.grid = object(), tuple(MASKS), GRID  # rows in the place of a model's
    names = ["image_embeddings", "patch_embeddings", *(f"window_embeddings_{side}" for side in SCALES)]
    looks = [
        ImageFeatures((8, 8), GRID, tuple(array(name)[one].reshape(-1, V[name].shape[-1]) for name in names))
        for one in range(2)
    ]
    plain = [found.judge(look) for look in looks]
    np.testing.assert_allclose([one.score for one in plain], V["image_scores"], rtol=RTOL)
    np.testing.assert_allclose([one.values for one in plain], V["zero_shot_map"], rtol=1e-6)
    good = [
        ImageFeatures((8, 8), GRID, (array("image_embeddings")[:1], *(array(f"ref_{name}")[one] for name in names[1:])))
        for one in range(HYPER["K"])
    ]
    both = [found.remember(good).judge(look) for look in looks]
    np.testing.assert_allclose([one.score for one in both], V["combined_image_score"], rtol=RTOL)
    np.testing.assert_allclose([one.values for one in both], V["combined_map"], rtol=1e-6)


def test_a_score_of_zero() -> None:
    check(harmonic_map(array("agg_in"), masks=window_masks((3, 3), side=2), grid=(3, 3)), "agg_out_3x3")


def test_the_other_direction_is_ours_of_one_minus_the_scores() -> None:
    """caoyunkang/WinClip takes the harmonic mean of normality; its third scale is one window, the whole image."""
    texts = torch.nn.functional.normalize(array("text_embeddings"), dim=1)
    maps = []
    for side in HYPER["alt_scales"]:
        rows = array(f"window_embeddings_{side}") if side in SCALES else array("image_embeddings")[:, None]
        cosine = torch.nn.functional.normalize(rows, dim=-1) @ texts.T
        normal = (HYPER["alt_logit_scale"] * cosine).softmax(dim=-1)[..., 0]
        maps.append(harmonic_map(normal, masks=window_masks(GRID, side=side), grid=GRID))
    check(1 - harmonic_mean(maps), "alt_zero_shot_map", rtol=ALT_RTOL)
