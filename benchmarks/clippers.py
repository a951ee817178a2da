"""Clippers and clip-plus-optimiser against ``torch.nn.utils.clip_grad_norm_`` on the shapes of ViT-B/16.

Command: ``python benchmarks/clippers.py`` (about 1 CPU minute; ``--quick`` for 3 rounds instead of 9).
152 tensors, 86 M parameters, float32, one thread, CPU time, variants in rotating order; the ratio is the median of
the per-round ratios to ``clip_grad_norm_``. "Triggered" means that every gradient is rewritten or its factor folded.

Last measured on one core of an Intel Xeon with other work beside it, 9 rounds (torch's clip_grad_norm_: 66 ms):
NoClip 0.51 (0.49..0.57), GlobalNorm untriggered 0.51 (0.49..0.58), ZClip untriggered 0.52 (0.49..0.57), GlobalNorm
triggered 1.07 (1.01..1.13). With fused AdamW (alone 1.56): GlobalNorm untriggered 2.02 (1.98..2.17), triggered 2.59
(2.53..2.69), triggered and folded 2.13 (2.03..2.20); clip_grad_norm_ and fused AdamW 2.56 (2.49..2.62), and with
torch's default AdamW 9.27 (8.41..10.34).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tether.core.norms import gradient_norms
from tether.core.types import ClipReport
from tether.optim import AdamW, clip_and_step
from tether.optim.clip import GlobalNorm, NoClip, ZClip

WIDTH, LAYERS, PATCHES, CLASSES = 768, 12, 196, 1000


def shapes() -> list[tuple[int, ...]]:
    """ViT-B/16, as timm builds it."""
    block = [(WIDTH,), (WIDTH,), (3 * WIDTH, WIDTH), (3 * WIDTH,), (WIDTH, WIDTH), (WIDTH,), (WIDTH,), (WIDTH,)]
    block += [(4 * WIDTH, WIDTH), (4 * WIDTH,), (WIDTH, 4 * WIDTH), (WIDTH,)]
    stem = [(1, 1, WIDTH), (1, PATCHES + 1, WIDTH), (WIDTH, 3, 16, 16), (WIDTH,)]
    return [*stem, *(LAYERS * block), (WIDTH,), (WIDTH,), (CLASSES, WIDTH), (CLASSES,)]


def variants(named: list[tuple[str, nn.Parameter]]) -> dict[str, Callable[[], object]]:
    parameters = [parameter for _, parameter in named]
    norms_before = [float(gradient_norms(named).total)]
    zclip = ZClip(max_grad_norm=None, warmup_steps=1)
    zclip.clip_(named, step=0)
    fused, loop = AdamW(parameters, lr=1e-9), torch.optim.AdamW(parameters, lr=1e-9)
    loose, tight = GlobalNorm(1e9), GlobalNorm(1e9)

    def torch_clip_and(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def both() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1e9)
            optimizer.step()

        return both

    def tighten() -> None:
        """A limit just below the norm, so that the next clip rewrites every gradient without shrinking it away."""
        tight.max_norm = float(norms_before[0]) * 0.999

    def remember(report: ClipReport) -> None:
        assert report.scale < 1
        norms_before[0] = float(report.norm * report.scale)

    def ours() -> None:
        tighten()
        remember(tight.clip_(named, step=0))

    def ours_then_step() -> None:
        ours()
        fused.step()

    def folded() -> None:
        tighten()
        remember(clip_and_step(fused, clipper=tight, named_params=named, step=0))

    return {
        "clip_grad_norm_ (torch)": lambda: torch.nn.utils.clip_grad_norm_(parameters, 1e9),
        "NoClip": lambda: NoClip().clip_(named, step=0),
        "GlobalNorm, untriggered": lambda: loose.clip_(named, step=0),
        "ZClip, untriggered": lambda: zclip.clip_(named, step=0),
        "GlobalNorm, triggered": ours,
        "fused AdamW alone": fused.step,
        "GlobalNorm untriggered + fused AdamW": lambda: clip_and_step(fused, clipper=loose, named_params=named, step=0),
        "GlobalNorm triggered, then fused AdamW": ours_then_step,
        "GlobalNorm triggered, folded into fused AdamW": folded,
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
    forms = variants(named)
    names = list(forms)
    for form in forms.values():
        form()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(3 if arguments.quick else 9):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
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
