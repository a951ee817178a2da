"""One of two gloo processes: compares losses and clippers with what one process computes on the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tether.core.gather import LOCAL, Gather, process_gather
from tether.core.geometry import GEOMETRIES, is_hyperbolic
from tether.core.types import Batch, Encoded, Features
from tether.losses import OBJECTIVES, clip_loss, siglip_loss
from tether.methods.adagc import AdaGC
from tether.methods.autoclip import AutoClip
from tether.methods.euclip import geometry_loss
from tether.methods.specs import SpecsLoss
from tether.methods.zclip import ZClip
from tether.optim import AdamW, clip_and_step
from tether.optim.clip import CLIPPERS, Clipper

WORLD, ROWS = 2, 5
ROUND = ("clip", "elliptic")
"""Geometries without entailment."""
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
DUPLICATES = ({"duplicates": "negatives"}, {"duplicates": "positives"})
HARD = (*DUPLICATES, {"duplicates": "left_out"})
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "neg_clip": HARD,
    "info_nce": (*HARD, {"tau": 0.05}),
    "triplet_clip": HARD,
    "symmetric_negatives": tuple({"scope": scope, **one} for scope in ("own", "batch", "pair") for one in HARD),
    "clip": DUPLICATES,
    "siglip": DUPLICATES,
    "logit_clip": (
        {"tau": 4.0},
        {"inner": {"name": "clip", "duplicates": "positives"}, "tau": 3.0, "p": 3.0},
        {"inner": "siglip", "tau": 5.0},
    ),
    "contrastive_gap": ({}, {"cross_uniform": 1.0, "duplicates": "positives"}),
    "align_clip": (*DUPLICATES, {"weighting": "none", "duplicates": "positives"}),
    "local_alignment": ({}, {"inner": "siglip", "attention": "dot", "block": 3}),
    "multi_positive": ({}, {"credit": "any", "same_patient": "negatives"}),
    "matryoshka": ({}, {"of": "siglip", "dims": [2, 6]}, {"of": "neg_clip", "dims": [2, 4, 6], "dims_per_step": 2}),
    "soft_targets": ({}, {"tau": None, "form": "shares"}),
    "m2_mix": (
        {"m2": 1.0, "v": 0.5, "l": 0.5, "vl": 0.3, "duplicates": "positives", "tau1": None},
        {"m2": 0.5, "vl": 0.3, "negatives": "original", "tau1": None, "tau2": None},
    ),
}
"""Of each objective; one that is not listed is tried with its defaults."""


SHORT = {
    "zclip": lambda: ZClip(warmup_steps=2, max_grad_norm=None),
    "autoclip": lambda: AutoClip(70.0),
    "adagc": lambda: AdaGC(warmup_steps=2),
}
"""Settings under which eight steps show what a clipper does; the others stand with their defaults."""


def make_clipper(name: str) -> Clipper:
    return SHORT.get(name, CLIPPERS[name])()  # pyrefly: ignore


def check_losses() -> None:
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(WORLD * ROWS, 6, generator=generator, dtype=torch.float64) for _ in range(4)]
    labels = torch.tensor([0, 1, 2, 0, 4, 5, 1, 1, 8, 9])
    words = labels[:, None] + 1
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    leaves = [row.requires_grad_() for row in whole]

    def through(loss: Callable[..., Tensor], part: slice, gather: Gather) -> Tensor:
        image, text, more_image, more_text = (F.normalize(leaf[part], dim=1) for leaf in leaves)
        return loss(image, text, more_image, more_text, labels[part], words[part], gather)

    def objective(name: str, settings: dict[str, Any]) -> Callable[..., Tensor]:
        part = OBJECTIVES[name](**settings)

        def loss(i: Tensor, t: Tensor, mi: Tensor, mt: Tensor, la: Tensor, w: Tensor, g: Gather) -> Tensor:
            findings = (la[:, None] >> torch.arange(2)) & 1
            further = {"semantic": mt.detach(), "short_text": mt, "masked_image": mi}
            extra = {"negative_text": w % 7 + 1, "findings": findings, "patient": la, **further}
            batch = Batch(torch.zeros(len(i), 3, 1, 1), w, extra)
            negative = {"negative_image": Features(mi), "negative_text": Features(mt)}
            width = 2 + (g.rank if g.world > 1 else 1)  # reports of one process may be longer than another's
            real = torch.arange(width)[None] < (1 + la % 2)[:, None]
            sides = (
                Features(i, torch.stack([i, i.flip(1)], 1)),
                Features(t, torch.stack([t.roll(k, 1) for k in range(width)], 1), real),
            )
            return part(Encoded(*sides, scale.exp(), bias, **negative), batch, gather=g).total

        return loss

    losses: dict[str, Callable[..., Tensor]] = {
        f"{name} {settings}": objective(name, settings) for name in OBJECTIVES for settings in SETTINGS.get(name, ({},))
    }
    losses |= {
        f"clip {directions} {reduction}": lambda i, t, mi, mt, la, w, g, d=directions, r=reduction: clip_loss(
            i, t, scale.exp(), gather=g, directions=d, reduction=r
        )
        for directions, reduction in (
            ("sum", "mean"),
            ("mean", "sum"),
            ("image_to_text", "mean"),
            ("text_to_image", "sum"),
        )
    }
    losses["clip, all options"] = lambda i, t, mi, mt, la, w, g: clip_loss(
        i, t, scale.exp(), gather=g, labels=la, label_smoothing=0.1, extra_img=mi, extra_txt=mt
    )
    losses["siglip with labels"] = lambda i, t, mi, mt, la, w, g: siglip_loss(
        i, t, scale.exp(), bias, gather=g, labels=la
    )
    for geometry in GEOMETRIES:
        losses[f"geometry {geometry}"] = lambda i, t, mi, mt, la, w, g, name=geometry: (
            geometry_loss(
                i,
                t,
                scale.exp(),
                geometry=name,
                curvature=scale.exp() if is_hyperbolic(name) else None,
                entailment_weight=0.0 if name in ROUND else 0.3,
                labels=la,
                gather=g,
            ).total
        )
    losses["specs"] = lambda i, t, mi, mt, la, w, g: (
        SpecsLoss()(i, caption=t, base=mi, detail=mt, neg=mi.flip(1), logit_scale=scale.exp(), gather=g).total
    )
    # Two rows of the first process count in the hinges, and none of the second.
    losses["specs, unequal halves"] = lambda i, t, mi, mt, la, w, g: (
        SpecsLoss()(
            i, caption=t, base=mi, detail=mt, neg=mi.flip(1), logit_scale=scale.exp(), valid=la == 0, gather=g
        ).total
    )
    losses["specs, nothing valid"] = lambda i, t, mi, mt, la, w, g: (
        SpecsLoss()(i, caption=t, base=mi, detail=mt, neg=mi, logit_scale=scale.exp(), valid=la < 0, gather=g).total
    )
    variables = [*leaves, scale, bias]
    for name, loss in losses.items():
        reference = through(loss, slice(None), LOCAL)
        wanted = torch.autograd.grad(reference, variables, allow_unused=True)
        local = through(loss, mine, process_gather())
        total = local.detach() / WORLD
        dist.all_reduce(total)
        torch.testing.assert_close(total, reference.detach(), **CLOSE, msg=lambda m, n=name: f"{n}: {m}")
        for got, want in zip(torch.autograd.grad(local, variables, allow_unused=True), wanted, strict=True):
            assert (got is None) == (want is None), name
            if got is not None and want is not None:
                average = got / WORLD
                dist.all_reduce(average)
                torch.testing.assert_close(average, want, **CLOSE, msg=lambda m, n=name: f"gradient of {n}: {m}")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def batch_at(step: int) -> Tensor:
    size = 300.0 if step in (3, 6) else 1.0
    return torch.randn(WORLD * ROWS, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64) * size


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_clippers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    rank = dist.get_rank()
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    for name in CLIPPERS:
        alone, shared, folded = network(), wrap(network()), wrap(network())
        clippers = [make_clipper(name) for _ in range(3)]
        optimizers = [AdamW(module.parameters(), lr=0.01, eps=1e-3) for module in (alone, shared, folded)]
        scales = set()
        for step in range(8):
            rows = batch_at(step)
            for module, part in ((alone, slice(None)), (shared, mine), (folded, mine)):
                module.zero_grad()
                (module(rows[part]).square().sum(dim=1).mean() * 0.1).backward()
            if step == 5:
                for module in (alone, shared, folded):
                    poison(module, rank)
            reports = [clippers[i].clip_(m.named_parameters(), step=step) for i, m in enumerate((alone, shared))]
            gradients = [[whole(p.grad) for p in module.parameters()] for module in (alone, shared)]
            reports.append(
                clip_and_step(optimizers[2], clipper=clippers[2], named_params=folded.named_parameters(), step=step)
            )
            scales.add(float(reports[0].scale))
            # Folded, the factor travels in float32, as the fused kernels want it.
            for report, close in zip(reports[1:], (CLOSE, {"rtol": 1e-5, "atol": 1e-6}), strict=True):
                for key in ("norm", "scale", "threshold", "skip"):
                    torch.testing.assert_close(getattr(report, key), getattr(reports[0], key), equal_nan=True, **close)
            torch.testing.assert_close(gradients[1], gradients[0], **CLOSE)
            assert bool(reports[0].skip) == (step == 5)
            if not reports[0].skip:
                optimizers[0].step()
                optimizers[1].step()
            for module in (shared, folded):
                for want, got in zip(alone.parameters(), module.parameters(), strict=True):
                    torch.testing.assert_close(whole(got), want.detach() * 1, rtol=1e-5, atol=1e-6)
        assert name == "none" or len(scales) > 2, f"{name} never clipped: {scales}"
        states = [clipper.state_dict() for clipper in clippers[:2]]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(states[1][key], value, equal_nan=True, **CLOSE)
            else:  # names too: a state saved under a wrapper is found again without it
                assert states[1][key] == value, f"{name}: {key}"


def poison(module: nn.Module, rank: int) -> None:
    """One NaN in the last row of the first weight, which under sharding only the last process holds."""
    gradient = next(iter(module.parameters())).grad
    if isinstance(gradient, DTensor):
        if rank == WORLD - 1:
            gradient.to_local()[-1, 0] = torch.nan
    elif gradient is not None:
        gradient[-1, 0] = torch.nan


def sharded(module: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(module[0], mesh=mesh)  # pyrefly: ignore
    return fully_shard(module, mesh=mesh)
