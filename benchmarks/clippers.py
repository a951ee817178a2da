"""Clippers and clip-plus-optimiser against ``torch.nn.utils.clip_grad_norm_`` on the shapes of ViT-B/16.

Command: ``python benchmarks/clippers.py`` (about 1 CPU minute; ``--quick`` for 3 rounds instead of 9).
152 tensors, 86 M parameters, float32, one thread, CPU time, variants in rotating order; the ratio is the median of
the per-round ratios to ``clip_grad_norm_``. "Triggered" means that every gradient is rewritten, or its factor folded;
the gradients are put back, untimed, before each form. Every clipper of ``CLIPPERS`` must be among the forms.

Last measured on one core of an Intel Xeon with other work beside it, 9 rounds (torch's clip_grad_norm_: 58 ms).
Untriggered: NoClip, GlobalNorm, ZClip, AdaGC with either scope, and AutoClip with a short history, one of 100,000 steps
or a window of 10,000, all 0.48 (0.46..0.86 over all rounds); AGC 1.21 (1.16..1.29), timm's 6.67 (5.86..7.67).
Triggered: GlobalNorm 1.00 (0.96..1.05), ZClip 1.02 (0.97..1.05), AutoClip 1.01 (0.97..1.06), with 100,000 steps 1.01
(0.98..1.05), AdaGC 1.02 (0.97..1.05), global 1.01 (0.99..1.17); AGC with one unit in ten 1.26 (1.22..1.32), with every
unit 1.85 (1.78..1.94), timm's 6.21 (5.54..6.72). With fused AdamW (alone 1.76): GlobalNorm untriggered 2.22
(2.13..2.26), triggered 2.77 (2.71..2.94), triggered and folded 2.28 (2.25..2.34), AdaGC triggered 2.79 (2.72..3.06);
clip_grad_norm_ and fused AdamW 2.77 (2.69..2.80), and with torch's default AdamW 8.93 (8.14..9.69).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm.utils.agc
import torch
from torch import nn

from tether.core.norms import gradient_norms
from tether.core.protocols import GradClipper
from tether.methods.adagc import AdaGC
from tether.methods.autoclip import AutoClip
from tether.methods.nfnet_agc import AGC
from tether.methods.nfnet_agc.unit_norms import unit_norms
from tether.methods.zclip import ZClip
from tether.optim import AdamW, clip_and_step
from tether.optim.clip import CLIPPERS, GlobalNorm, NoClip

WIDTH, LAYERS, PATCHES, CLASSES = 768, 12, 196, 1000


def shapes() -> list[tuple[int, ...]]:
    """ViT-B/16, as timm builds it."""
    block = [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH,), (WIDTH,)]
    block += [(4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    stem = [(1, 1, WIDTH), (1, PATCHES + 1, WIDTH), (WIDTH, 3, 16, 16), (WIDTH,)]
    return [*stem, *(LAYERS * block), (WIDTH,), (WIDTH,), (CLASSES, WIDTH), (CLASSES,)]


LONG = 100_000
"""Steps in AutoClip's long history."""
HALF = 0.5
"""What a triggered clipper leaves of every norm."""

Named = list[tuple[str, nn.Parameter]]
Form = Callable[[], object]


def autoclip(percentile: float, norms: list[float], *, window: int | None = None) -> AutoClip:
    """One that has seen these norms."""
    clipper = AutoClip(percentile, window=window, eps=0.0)
    clipper.load_state_dict({**clipper.state_dict(), "history": torch.tensor(norms, dtype=torch.float64)})
    return clipper


def adagc(named: Named, scope: str, *, gamma: float) -> AdaGC:
    """One past its warm-up whose every statistic is this share of the norm at hand."""
    clipper = AdaGC(warmup_steps=1, max_norm=1e9, clip_ratio=1.0, scope=scope)  # pyrefly: ignore
    clipper.clip_(named, step=0)
    state = clipper.state_dict()
    clipper.load_state_dict({**state, "gamma": state["gamma"] * gamma})
    return clipper


def zclip(norm: float, *, mean: float) -> ZClip:
    """One whose mean is this share of the norm at hand; its spikes go to the mean, which they do not move."""
    clipper = ZClip(max_grad_norm=None, warmup_steps=1, clip_option="mean")
    figures = {"mean": norm * mean, "variance": 0.0, "first_mean": norm * mean, "recorded": 1}
    clipper.load_state_dict({**clipper.state_dict(), **figures})
    return clipper


def clippers(named: Named) -> dict[str, dict[str, GradClipper]]:
    """Every clipper with limits far above the gradients, and with limits at half of their norms."""
    norm = float(gradient_norms(named).total)
    long = (torch.rand(LONG, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * norm).tolist()
    units = unit_norms(named)
    ratios = units.gradient / units.weight.clamp(min=1e-3)
    forms: dict[str, dict[str, GradClipper]] = {
        "untriggered": {
            "NoClip": NoClip(),
            "GlobalNorm": GlobalNorm(1e9),
            "ZClip": zclip(norm, mean=2.0),
            "AutoClip": autoclip(100.0, [norm]),
            "AutoClip, 100,000 steps": autoclip(100.0, long),
            "AutoClip, window of 10,000": autoclip(100.0, long[:10_000], window=10_000),
            "AdaGC": adagc(named, "tensor", gamma=2.0),
            "AdaGC, global": adagc(named, "global", gamma=2.0),
            "AGC": AGC(1e9),
        },
        "triggered": {
            "GlobalNorm": GlobalNorm(norm * HALF),
            "ZClip": zclip(norm, mean=HALF),
            "AutoClip": autoclip(0.0, [norm * HALF]),
            "AutoClip, 100,000 steps": autoclip(0.0, [norm * HALF] * LONG),
            "AdaGC": adagc(named, "tensor", gamma=HALF),
            "AdaGC, global": adagc(named, "global", gamma=HALF),
            "AGC, every unit": AGC(1e-6),
            "AGC, one unit in ten": AGC(float(ratios.quantile(0.9))),
        },
    }
    missing = set(CLIPPERS.values()) - {type(clipper) for group in forms.values() for clipper in group.values()}
    assert not missing, f"not measured: {missing}"
    return forms


def variants(named: Named) -> dict[str, Form]:
    """What is timed, by name; the first is the measure of the others."""
    parameters = [parameter for _, parameter in named]
    fused, loop = AdamW(parameters, lr=1e-9), torch.optim.AdamW(parameters, lr=1e-9)
    made = clippers(named)
    loose, tight = made["untriggered"]["GlobalNorm"], made["triggered"]["GlobalNorm"]
    each = made["triggered"]["AdaGC"]

    def clip(clipper: GradClipper, *, hit: bool) -> Form:
        def form() -> None:
            assert bool(clipper.clip_(named, step=0).scale < 1) == hit

        return form

    def clip_then_step(clipper: GradClipper) -> Form:
        def form() -> None:
            clipper.clip_(named, step=0)
            fused.step()

        return form

    def torch_clip_and(optimizer: torch.optim.Optimizer) -> Form:
        def form() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1e9)
            optimizer.step()

        return form

    def fold(clipper: GradClipper) -> Form:
        return lambda: clip_and_step(fused, clipper=clipper, named_params=named, step=0)

    forms: dict[str, Form] = {"clip_grad_norm_ (torch)": lambda: torch.nn.utils.clip_grad_norm_(parameters, 1e9)}
    for group, members in made.items():
        for title, clipper in members.items():
            forms[f"{title}, {group}"] = clip(clipper, hit=group == "triggered")
        limit = 1e9 if group == "untriggered" else 1e-6
        forms[f"AGC of timm, {group}"] = lambda limit=limit: timm.utils.agc.adaptive_clip_grad(parameters, limit)
    return forms | {
        "fused AdamW alone": fused.step,
        "GlobalNorm untriggered + fused AdamW": fold(loose),
        "GlobalNorm triggered, then fused AdamW": clip_then_step(tight),
        "GlobalNorm triggered, folded into fused AdamW": fold(tight),
        "AdaGC triggered + fused AdamW": fold(each),
        "clip_grad_norm_ + fused AdamW": torch_clip_and(fused),
        "clip_grad_norm_ + torch's default AdamW": torch_clip_and(loop),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    named = []
    for index, shape in enumerate(shapes()):
        parameter = nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
        parameter.grad = torch.randn(shape, generator=generator) * 1e-4
        named.append((f"tensor{index}", parameter))
    print(f"{len(named)} tensors, {sum(p.numel() for _, p in named) / 1e6:.1f} M parameters, one thread, CPU time")
    gradients = [parameter.grad for _, parameter in named if parameter.grad is not None]
    originals = [gradient.clone() for gradient in gradients]
    forms = variants(named)
    names = list(forms)
    for form in forms.values():
        torch._foreach_copy_(gradients, originals)
        form()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(3 if arguments.quick else 9):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            torch._foreach_copy_(gradients, originals)
            started = time.process_time()
            forms[name]()
            seconds[name].append(time.process_time() - started)
    results = []
    for name in names:
        ratios = [mine / base for mine, base in zip(seconds[name], seconds[names[0]], strict=True)]
        row = {
            "form": name,
            "milliseconds": statistics.median(seconds[name]) * 1e3,
            "ratio": statistics.median(ratios),
            "ratio_least": min(ratios),
            "ratio_most": max(ratios),
        }
        results.append(row)
        print(f"{name:<48} {row['milliseconds']:>8.1f} ms  {row['ratio']:>6.2f} ({min(ratios):.2f}..{max(ratios):.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
