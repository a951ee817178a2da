"""Cost of one optimiser step against torch's fused AdamW, on the shapes of ViT-B/16.

    python benchmarks/optimizers.py [--quick] [--json OUT]

152 tensors, 86 M parameters, one thread, CPU time. The variants of a round follow each other in rotating order; a ratio
is taken within each round, and median, least and most of the rounds are shown. About two minutes.
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

from clippers import shapes
from tether.methods.clip_radagrad import ClipAdaGrad, ClipAdaGradD, ClipAdam, ClipAdamD, ClipRAdaGradD
from tether.methods.stable_spam import SPAM, StableSPAM
from tether.optim import AdamW

WARM_UP = 3
"""Steps before the clock runs, so that SPAM's cap has begun."""

Form = tuple[Callable[[], object], Callable[[], object]]
"""What is done off the clock before a step, and the step."""


def variants(parameters: list[nn.Parameter]) -> dict[str, Form]:
    def plain(optimizer: torch.optim.Optimizer) -> Form:
        """A learning rate of zero might spare work; a tiny one keeps the weights where they are."""
        return lambda: None, optimizer.step

    clipping = StableSPAM(parameters, lr=1e-9)

    def forget() -> None:
        """Without a past the limit lies below the largest entry, so every tensor is clipped."""
        for state in clipping.state.values():
            state["largest_mean"] = torch.zeros((), dtype=torch.float64)

    return {
        "AdamW, fused": plain(AdamW(parameters, lr=1e-9)),
        "AdamW, torch's default loop": plain(torch.optim.AdamW(parameters, lr=1e-9)),
        "SPAM, its cap at work": plain(SPAM(parameters, lr=1e-9, accumulate_steps=2, reset_interval=0)),
        "SPAM, its cap at rest": plain(SPAM(parameters, lr=1e-9, accumulate_steps=10**6)),
        "StableSPAM, every tensor over its limit": (forget, clipping.step),
        "StableSPAM, none over": plain(StableSPAM(parameters, lr=1e-9)),
        "ClipRAdaGradD, norm": plain(ClipRAdaGradD(parameters, lr=1e-9)),
        "ClipRAdaGradD, coordinate": plain(ClipRAdaGradD(parameters, lr=1e-9, mode="coordinate")),
        "ClipAdaGrad": plain(ClipAdaGrad(parameters, lr=1e-9)),
        "ClipAdaGradD": plain(ClipAdaGradD(parameters, lr=1e-9)),
        "ClipAdam": plain(ClipAdam(parameters, lr=1e-9)),
        "ClipAdamD": plain(ClipAdamD(parameters, lr=1e-9)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for shape in shapes():
        parameter = nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
        parameter.grad = torch.randn(shape, generator=generator) * 1e-4
        parameters.append(parameter)
    count = sum(parameter.numel() for parameter in parameters)
    print(f"{len(parameters)} tensors, {count / 1e6:.1f} M parameters, one thread, CPU time")
    forms = variants(parameters)
    names = list(forms)
    for before, step in forms.values():
        for _ in range(WARM_UP):
            before()
            step()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(3 if arguments.quick else 9):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            before, step = forms[name]
            before()
            started = time.process_time()
            step()
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
        print(f"{name:<40} {row['milliseconds']:>8.1f} ms  {row['ratio']:>6.2f} ({min(ratios):.2f}..{max(ratios):.2f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
