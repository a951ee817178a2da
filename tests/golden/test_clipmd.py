"""Sliding windows and their mean against ClipMD's released code."""

from __future__ import annotations

import numpy as np
import torch
from loading import load

from tether.losses import clip_loss
from tether.models.texts.text_windows import TextWindows, pool_windows, sliding_windows

V = load("clipmd")
CLOSE = {"rtol": V.meta["tolerance"]["float64"], "atol": V.meta["tolerance"]["float64"]}


def windows() -> TextWindows:
    size, padding = V["window_ids"].shape[1], V["window_ids"][V["window_mask"] == 0]
    ids, mask = (torch.from_numpy(V[name]) for name in ("input_ids", "attention_mask"))
    return sliding_windows(ids, mask, window=size, mode="raw", pad=int(padding[0]) if len(padding) else 0)


def test_windows() -> None:
    V.need("input_ids", "attention_mask", "window_ids", "window_mask", "windows_per_text")
    found = windows()
    np.testing.assert_array_equal(found.ids.numpy(), V["window_ids"])
    np.testing.assert_array_equal(found.mask.numpy(), V["window_mask"].astype(bool))
    np.testing.assert_array_equal(found.counts.numpy(), V["windows_per_text"])


def test_mean_of_windows() -> None:
    V.need("toy_table", "toy_pos", "embedding")
    found, table = windows(), torch.from_numpy(V["toy_table"])
    weight = found.mask * torch.from_numpy(V["toy_pos"])
    features = (weight[..., None] * table[found.ids % len(table)]).sum(dim=1)
    np.testing.assert_allclose(pool_windows(features, found).numpy(), V["embedding"], **CLOSE)


def test_loss_of_its_logits() -> None:
    V.need("logits_per_text", "clip_loss")
    logits = torch.from_numpy(V["logits_per_text"])
    image = torch.eye(len(logits), dtype=logits.dtype)
    length = torch.linalg.vector_norm(logits, dim=1)
    # rows of length 1 whose products are the logits up to one scale: [logits, rest] against unit vectors
    scale = 2 * float(length.max())
    rest = (1 - (logits / scale).square().sum(1)).sqrt()
    text = torch.cat([logits / scale, torch.diag(rest)], dim=1)
    found = clip_loss(torch.cat([image, torch.zeros_like(image)], dim=1), text, scale)
    np.testing.assert_allclose(found.item(), V["clip_loss"], **CLOSE)
