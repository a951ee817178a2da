"""Class names to a zero-shot classifier: tether against clip_benchmark on the same weights.

    python benchmarks/zero_shot.py [--classes 30] [--templates 80] [--rounds 3] [--quick] [--json OUT]

A text tower of 4 layers, width 192, context 77 (random weights, exported to open_clip), one thread, CPU seconds, the
two interleaved in alternating order, median ratio and range over the rounds. clip_benchmark encodes one class at a
time padded to 77 tokens; tether encodes every distinct prompt once, trimmed and sorted by length. The two classifiers
must agree within 1e-6. Costs about a minute for 30 classes; ``--classes 100`` is the size of a small published set.

Measured last, on one core of an Intel Xeon with AVX-512, other work running beside it, ``--classes 20``:
clip_benchmark 5.98 CPU-s (5.21 to 6.14), tether 0.66 (0.65 to 0.71), ratio 8.4 (8.0 to 9.4), difference 4.5e-8.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import emoji
import torch

import tether
from tether.models import create
from tether.tasks.classify.zero_shot import class_weights

AGREE = 1e-6
OPENINGS = (
    "a photo of",
    "a dim picture of",
    "a drawing of",
    "a close-up of",
    "art of",
    "a small copy of",
    "itap of",
    "",
)
ENDINGS = ("{}.", "a {}.", "the {}.", "my {}.", "one {} outdoors.", "a {} on a plain wall.", "many {}.", "a clean {}.")


def prompts(count: int) -> list[str]:
    whole = [f"{left} {right}".strip() for left, right in itertools.product(OPENINGS, ENDINGS)]
    whole += [template.replace("{}", "old {}") for template in whole]
    return whole[:count]


def names(count: int) -> list[str]:
    every = sorted(entry["en"].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values())
    distinct = list(dict.fromkeys(every))
    return distinct[:: len(distinct) // count][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--templates", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="5 classes, 10 templates, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.classes, given.templates, given.rounds = 5, 10, 1
    torch.set_num_threads(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
        from clip_benchmark.metrics.zeroshot_classification import zero_shot_classifier

    text = {"width": 192, "layers": 4, "heads": 6, "hidden": 768, "context": 77}
    model = create("small", text=text).eval()
    with tempfile.TemporaryDirectory() as folder:
        tether.export(model, folder, format="open_clip")
        theirs = open_clip.create_model(f"local-dir:{folder}").eval()
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    classes, templates = names(given.classes), prompts(given.templates)
    peer_templates = [template.replace("{}", "{c}") for template in templates]

    def peer() -> torch.Tensor:
        with contextlib.redirect_stderr(io.StringIO()):
            return zero_shot_classifier(theirs, tokenizer, classes, peer_templates, "cpu", amp=False).T

    def ours() -> torch.Tensor:
        return class_weights(model, classes, templates=templates)

    seconds: dict[str, list[float]] = {"clip_benchmark": [], "tether": []}
    results: dict[str, torch.Tensor] = {}
    variants = {"clip_benchmark": peer, "tether": ours}
    class_weights(model, classes[:1], templates=templates[:1])
    for turn in range(given.rounds):
        for name in list(variants) if turn % 2 == 0 else reversed(variants):
            started = time.process_time()
            results[name] = variants[name]()
            seconds[name].append(time.process_time() - started)
    difference = float((results["tether"] - results["clip_benchmark"]).abs().max())
    ratios = [a / b for a, b in zip(seconds["clip_benchmark"], seconds["tether"], strict=True)]
    print(f"{len(classes)} classes x {len(templates)} templates")
    for name, some in seconds.items():
        print(f"  {name:15s} {statistics.median(some):7.2f} CPU-s  ({min(some):.2f} to {max(some):.2f})")
    print(f"  ratio {statistics.median(ratios):.1f}  ({min(ratios):.1f} to {max(ratios):.1f})")
    print(f"  largest difference {difference:.1e}")
    assert difference < AGREE, f"the classifiers differ by {difference}"
    if given.json:
        result = {"seconds": seconds, "ratios": ratios, "difference": difference}
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
