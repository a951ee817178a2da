"""TROLL against GRPO's clipped ratio in TRL, on a task whose answers can be checked: put three digits in order.

Command: ``python benchmarks/troll_trl.py`` (about 4 CPU minutes; ``--quick`` for one seed and few steps).
A Llama of 132 thousand random weights learns from scratch; both trainers see the same weights, questions and settings,
and each batch of 64 completions is used for several steps. Reward is the share of places with the right digit.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, Literal

SETTINGS = {"usual": (1e-3, 4), "fast": (3e-3, 4), "many steps": (1e-3, 16)}
"""Learning rate, and steps on each batch of completions."""
STEPS, SEEDS = 480, 3


def train(method: Literal["GRPO", "TROLL"], **settings: Any) -> dict[str, float]:
    from tether_lab.worlds import verifiable

    begun = time.process_time()
    rewards = verifiable.train(method, **settings)
    spent = time.process_time() - begun
    return {
        "final": verifiable.last_tenth(rewards),
        "whole run": statistics.fmean(rewards),
        "ms a step": 1000 * spent / settings["steps"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 32 steps")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)  # TRL's defaults use names that transformers has replaced
    seeds, steps = (1, 32) if arguments.quick else (SEEDS, STEPS)
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    print(f"{'setting':18} {'method':6} {'final reward':24} {'whole run':>9} {'ms a step':>9}")
    for name, (rate, iterations) in SETTINGS.items():
        results[name] = {method: [] for method in ("GRPO", "TROLL")}
        for seed in range(seeds):
            for method, runs in results[name].items():
                settings = {"learning_rate": rate, "iterations": iterations}
                runs.append(train(method, seed=seed, steps=steps, **settings))
        for method, runs in results[name].items():
            finals = [run["final"] for run in runs]
            spread = f"{statistics.fmean(finals):.3f} ({min(finals):.3f}..{max(finals):.3f})"
            whole, cost = (statistics.fmean(run[key] for run in runs) for key in ("whole run", "ms a step"))
            print(f"{name:18} {method:6} {spread:24} {whole:9.3f} {cost:9.1f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
