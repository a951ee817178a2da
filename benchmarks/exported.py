"""Exported folders beside torch: images and texts a second, and the recall that int8 keeps.

Command:  python benchmarks/exported.py [--quick] [--only speed|recall] [--model NAME] [--json FILE]
Cost:     some 8 CPU minutes on one core (``--quick``: 6), 2 of them recall.

Speed: a ViT-B/32 of CLIP's sizes with random weights, the tiny CLIP below, and ``starter``; 8 images (normalised
floats) and 32 captions of about 10 ids in one forward, float32 torch in inference mode, onnxruntime and OpenVINO with
float32 and with int8, one thread each, by turns; CPU seconds, the ratio to torch in the same round. Texts as ids.

Recall: a tiny CLIP trained 300 steps on emoji, exported in float32 and int8 for both runtimes, 128 rows of other emoji
for the ranges, and recall on all.

Measured last (1 December 2026, ``--quick``) on a busy AMD EPYC with VNNI; the figures stand in docs/guides/export.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tether
from tether.models import create
from tether.models.encoders.onnx import folder as folders
from tether.models.encoders.onnx.graphs import Graph, Side
from tether_lab.lab.lab import Lab
from tether_lab.worlds.small_clip import small_clip
from training_step import race

ROWS, TEXTS = 8, 32
HELD_OUT = "emoji:split=test,holdout=sequence,size=32"
WORDS, THINGS = ("red", "small", "old", "wet", "new", "tall", "soft", "loud"), ("cat", "boat", "tree", "house")
KINDS = [(runtime, int8) for int8 in (False, True) for runtime in ("onnx", "openvino")]


def exported(model: Any, folder: Path, calibration: dict[Side, list[Tensor]]) -> dict[str, Any]:
    """The model in torch and in every runtime and precision; each tower is traced once and compared once."""
    graphs: dict[Side, Graph] = {}
    write_graph, parity = folders.write_graph, folders.drawn_parity

    def once(encoder: Any, side: Side, path: Path) -> Graph:
        if side not in graphs:
            graphs[side] = write_graph(encoder, side, folder / path.name)
        path.write_bytes(graphs[side].path.read_bytes())
        return Graph(path, any_size=graphs[side].any_size)

    folders.write_graph = once
    models = {"torch float32": model}
    try:
        for runtime, int8 in KINDS:
            name = f"{runtime} {'int8' if int8 else 'float32'}"
            made = folders.export_graphs(
                model, folder / name, runtime=runtime, calibration=calibration if int8 else None
            )
            models[name] = tether.load(made)
            if folders.drawn_parity is parity:  # it takes longer than all else
                drawn = json.loads((made / "parity.json").read_text())["drawn"]
                far = [f"{values['max_difference']:.1e}" for values in drawn.values()]
                print(f"  {name}, largest difference of images and texts: {', '.join(far)}", flush=True)
                folders.drawn_parity = lambda *_, drawn=drawn: drawn
    finally:
        folders.write_graph, folders.drawn_parity = write_graph, parity
    return models


def speed(model: Any, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Images and texts a second, by turns."""
    folder.mkdir()
    images = torch.randn(ROWS, 3, *model.image_spec.size, generator=torch.Generator().manual_seed(0))
    ids = model.tokenizer([f"a photo of a {word} {thing} in the sun" for word in WORDS for thing in THINGS])
    assert len(ids) == TEXTS
    found: dict[str, Any] = {}
    models = exported(model, folder, {"image": [images], "text": [ids]})
    with torch.inference_mode():
        for what, encode, given in (("images", "encode_image", images), ("texts", "encode_text", ids)):
            seconds = race(
                {name: partial(getattr(one, encode), given) for name, one in models.items()},
                rounds=rounds,
            )
            for name, times in seconds.items():
                ratios = [base / mine for base, mine in zip(seconds["torch float32"], times, strict=True)]
                each = {"a_second": len(given) / statistics.median(times), "ratio": statistics.median(ratios)}
                found[f"{what}, {name}"] = each | {"range": [min(ratios), max(ratios)]}
                print(
                    f"  {what:7s} {name:17s} {each['a_second']:7.1f} a second, "
                    f"{each['ratio']:.2f} [{min(ratios):.2f}..{max(ratios):.2f}] times torch",
                    flush=True,
                )
    return found


def makers() -> dict[str, Callable[[], Any]]:
    """The models whose speed is measured."""
    return {
        "random ViT-B/32": lambda: create("base", seed=0).eval(),
        "small CLIP": lambda: small_clip(Lab(0)).eval(),
        "starter": lambda: tether.load("starter"),
    }


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
    parser.add_argument("--model", choices=list(makers()), help="the speed of one model alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        found: dict[str, Any] = {}
        if options.only != "speed":
            found["recall"] = recall(Path(name))
        chosen = {shown: make for shown, make in makers().items() if options.model in (None, shown)}
        for place, (shown, make) in enumerate(chosen.items() if options.only != "recall" else ()):
            print(shown, flush=True)
            found[shown] = speed(make(), Path(name) / str(place), rounds=3 if options.quick else 7)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
