"""Exported folders beside torch: images and texts a second, and the recall that int8 keeps.

Command:  python benchmarks/exported.py [--quick] [--only speed|recall] [--json FILE]
Cost:     some 5 CPU minutes on one core (``--quick``: 3), 40 seconds of them recall (guessed: no whole run yet).

Speed: a ViT-B/32 of CLIP's sizes with random weights, 16 images of 224 x 224 (normalised floats) and 64 captions of
about 10 ids in one forward, float32 torch in inference mode, onnxruntime and OpenVINO with float32 and with int8, one
thread each, by turns; CPU seconds, the ratio to torch in the same round. Texts as ids.

Recall: a tiny CLIP trained 300 steps on emoji, exported in float32 and int8 for both runtimes, 128 rows of other emoji
for the ranges, and recall on all.

Measured last on a busy AMD EPYC with VNNI. Recall as below: 380 rows, the first 128 of which gave the ranges; R@10 text
to image 69.2 in float32, 68.7 in int8, image to text 69.2 and 68.9, both runtimes alike. A random ViT-B/32 in float32
lies within 1.2e-7 (images) and 1.9e-7 (texts). Images a second, of the same folders but 8 in one forward and four
rounds, since the whole run was stopped for time: torch 11.5, onnxruntime float32 1.01 [1.01..1.03] times that, int8
3.06 [2.97..3.19], OpenVINO float32 1.03 [1.02..1.06], int8 3.59 [3.54..3.63]. Texts were not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tether
from tether.models import create
from tether.models.onnx import folder as folders
from tether.models.onnx.graphs import Graph
from tether.papers.reproduction.lab import Lab
from tether.papers.testbeds.small_clip import small_clip
from training_step import race

ROWS, TEXTS = 16, 64
HELD_OUT = "emoji:split=test,holdout=sequence,size=32"
WORDS, THINGS = ("red", "small", "old", "wet", "new", "tall", "soft", "loud"), ("cat", "boat", "tree", "house")
KINDS = [(runtime, int8) for int8 in (False, True) for runtime in ("onnx", "openvino")]


def speed(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Images and texts a second of the random ViT-B/32."""
    model = create("base", seed=0).eval()
    images = torch.randn(ROWS, 3, *model.image_spec.size, generator=torch.Generator().manual_seed(0))
    said = [f"a photo of a {word} {thing} in the sun" for word in WORDS for thing in THINGS]
    ids = model.tokenizer([f"{text} {more}" for text in said for more in ("today", "again")])
    calibration = {"image": [images], "text": [ids]}
    graphs: dict[str, Path] = {}
    write_graph = folders.write_graph

    def once(encoder: Any, side: Any, path: Path) -> Graph:
        """Trace a tower once and copy its graph afterwards."""
        if side not in graphs:
            write_graph(encoder, side, folder / path.name)
            graphs[side] = folder / path.name
        path.write_bytes(graphs[side].read_bytes())
        return Graph(path)

    folders.write_graph = once
    models: dict[str, Any] = {"torch float32": model}
    parity = folders.drawn_parity
    for runtime, int8 in KINDS:
        name = f"{runtime} {'int8' if int8 else 'float32'}"
        made = folders.export_graphs(model, folder / name, runtime=runtime, calibration=calibration if int8 else None)
        models[name] = tether.load(made)
        if parity is folders.drawn_parity:  # once is enough: it takes longer than all else
            drawn = json.loads((made / "parity.json").read_text())["drawn"]
            far = [f"{values['max_difference']:.1e}" for values in drawn.values()]
            print(f"{name}, largest difference of images and texts: {', '.join(far)}", flush=True)
            folders.drawn_parity = lambda *_, drawn=drawn: drawn
    folders.write_graph, folders.drawn_parity = write_graph, parity

    def runs(encode: str, given: Tensor) -> dict[str, Callable[[], Tensor]]:
        return {name: lambda one=one: getattr(one, encode)(given).pooled for name, one in models.items()}

    found: dict[str, Any] = {}
    with torch.inference_mode():
        for what, encode, given in (("images", "encode_image", images), ("texts", "encode_text", ids)):
            seconds = race(runs(encode, given), rounds=rounds)
            for name, times in seconds.items():
                ratios = [base / mine for base, mine in zip(seconds["torch float32"], times, strict=True)]
                each = {"a_second": len(given) / statistics.median(times), "ratio": statistics.median(ratios)}
                found[f"{what}, {name}"] = each | {"range": [min(ratios), max(ratios)]}
                print(
                    f"{what:7s} {name:17s} {each['a_second']:7.1f} a second, "
                    f"{each['ratio']:.2f} [{min(ratios):.2f}..{max(ratios):.2f}] times torch",
                    flush=True,
                )
    return found


def recall(folder: Path) -> dict[str, Any]:
    """What the folders of a trained model keep of its recall."""
    model, found = small_clip(Lab(0)), {}
    for runtime, int8 in KINDS:
        name = f"{runtime} {'int8' if int8 else 'float32'}"
        made = tether.export(model, folder / f"small {name}", format=runtime, int8=int8, data=HELD_OUT, allow=100)
        said = json.loads((made / "parity.json").read_text())
        found[name] = {key: said[key] for key in ("drawn", "data", "recall")}
        before, after = (
            [100 * said["recall"][when][f"{way}_r10"] for way in ("text_to_image", "image_to_text")]
            for when in ("before", "after")
        )
        print(
            f"{name:17s} {said['data']['rows']} rows, R@10 text to image {before[0]:.1f} -> {after[0]:.1f}, image to "
            f"text {before[1]:.1f} -> {after[1]:.1f}; largest difference, drawn: image "
            f"{said['drawn']['image']['max_difference']:.1e}, text {said['drawn']['text']['max_difference']:.1e}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", choices=("speed", "recall"), help="one of the two")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = {}
        if options.only != "speed":
            found["recall"] = recall(Path(name))
        if options.only != "recall":
            found["speed"] = speed(Path(name), rounds=3 if options.quick else 7)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
