"""A suite of test sets, against clip_benchmark: equal numbers, and CPU seconds.

Command: python benchmarks/suites.py [--quick] [--model FOLDER] [--suite FOLDER | --set NAME=PARQUET ...] [--json OUT]
Cost: three minutes of one core (--quick: about fifteen seconds).

Both read the same tars with the same open_clip weights: zero-shot on two sets (10 and 100 classes, 6 templates) and
retrieval on one (5 captions an image), all made here of random squares in JPEG unless --suite names a folder of sets,
or --set, as often as there are sets, photographs: a Parquet file with ``image`` and ``label``, or ``captions``, of
which --rows are taken at random. --write FOLDER keeps that suite and measures nothing. A set with captions gets
``NAME-order`` beside it, in the layout of ARO's orders of words: of each image's first caption, its groups of three
words shuffled, the words of each group, and all words (three of ARO's ways, those that need no tagger).

--model names a folder with open_clip_config.json and open_clip_model.safetensors; without it the towers are small and
random, so that the figure is of what surrounds them: with larger towers both sides tend to what the towers cost. The
peer's side is what its command line does for each set (dataset, loader without processes, metrics, --no_amp), Tether's
is workflows.suite without and with intervals. One thread, CPU seconds, variants in turn, ratio of each round.

clip_benchmark 1.6.2 calls float() on an array of one number, which NumPy 2.4 refuses; it is given a float() that takes
one. Nothing else of it is changed.

Last measured 2026-12-01, five rounds of 1,000 images a set, on a shared 2-core AMD EPYC: 12 numbers equal to 1e-6;
clip_benchmark 22.0 CPU s, Tether 4.0 (5.4 times less, 5.0 to 5.7), with intervals 4.3 (5.1 times, 5.0 to 5.3).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 4}
VISION = {"image_size": 64, "layers": 4, "width": 128, "head_width": 64, "patch_size": 16}
TEMPLATES = ["a photo of a {c}.", "a bad photo of a {c}.", "{c}", "a {c} in the wild.", "art of the {c}.", "my {c}."]
DEPTHS = [1, 5, 10]
BATCH = 64  # clip_benchmark's default


def jpeg(rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    squares = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    squares.resize((160, 120), Image.Resampling.NEAREST).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_set(folder: Path, rows: Sequence[tuple[bytes, str, str]]) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w") as file:
        for place, (image, ending, text) in enumerate(rows):
            for name, data in ((f"s{place:07d}.jpg", image), (f"s{place:07d}.{ending}", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))


def make_suite(folder: Path, *, images: int) -> None:
    rng = np.random.default_rng(0)
    for classes in (10, 100):
        one = folder / f"classes{classes}"
        write_set(one, [(jpeg(rng), "cls", str(i % classes)) for i in range(images)])
        (one / "classnames.txt").write_text("".join(f"thing number {i}\n" for i in range(classes)))
        (one / "zeroshot_classification_templates.txt").write_text("".join(f"{each}\n" for each in TEMPLATES))
    captions = ["\n".join(f"caption {c} of the squares in image {i}" for c in range(5)) for i in range(images)]
    write_set(folder / "found", [(jpeg(rng), "txt", text) for text in captions])
    (folder / "found" / "dataset_type.txt").write_text("retrieval")


def make_photos(folder: Path, files: dict[str, Path], *, rows: int) -> None:
    import pyarrow.parquet as pq

    for name, file in files.items():
        table = pq.read_table(file)
        rng = np.random.default_rng(0)
        records = table.take(np.sort(rng.permutation(len(table))[:rows])).to_pylist()
        images = [one["image"]["bytes"] for one in records]
        if "captions" in records[0]:
            texts = ["\n".join(map(str.strip, one["captions"])) for one in records]
            write_set(folder / name, [(image, "txt", text) for image, text in zip(images, texts, strict=True)])
            (folder / name / "dataset_type.txt").write_text("retrieval")
            order = folder / f"{name}-order"
            (order / "images").mkdir(parents=True)
            asked = []
            for place, (image, one) in enumerate(zip(images, records, strict=True)):
                (order / "images" / f"{place}.jpg").write_bytes(image)
                options = [one["captions"][0].strip(), *shuffled(one["captions"][0].split(), rng)]
                asked.append({"image": f"images/{place}.jpg", "caption_options": options})
            (order / "flickr30k_order.json").write_text(json.dumps(asked))
        else:
            classes = sorted({one["label"] for one in records})
            write_set(
                folder / name, [(one["image"]["bytes"], "cls", str(classes.index(one["label"]))) for one in records]
            )
            (folder / name / "classnames.txt").write_text("".join(f"{each}\n" for each in classes))
            lines = "".join(f"{each}\n" for each in TEMPLATES)
            (folder / name / "zeroshot_classification_templates.txt").write_text(lines)


def shuffled(words: list[str], rng: np.random.Generator) -> list[str]:
    """Groups of three in another order, each of them shuffled, and all words shuffled."""
    groups = [words[start : start + 3] for start in range(0, len(words), 3)]
    found = [
        [word for place in rng.permutation(len(groups)) for word in groups[place]],
        [word for group in groups for word in rng.permutation(group)],
        list(rng.permutation(words)),
    ]
    return [" ".join(map(str, some)) for some in found]


def make_model(folder: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    raw = open_clip.CLIP(64, VISION, TEXT)
    cfg = {"embed_dim": 64, "vision_cfg": VISION, "text_cfg": TEXT}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    weights = {name: value.contiguous() for name, value in raw.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def clip_benchmark(model: Path, suite: Path) -> dict[str, float]:
    import clip_benchmark.metrics.zeroshot_classification as classification
    import open_clip
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate as retrieval

    def number(value: Any) -> float:
        return float(value) if isinstance(value, str) else float(np.asarray(value).reshape(-1)[0])

    classification.float = number  # pyrefly: ignore - see the docstring
    raw, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
    raw.eval()
    found = {}
    for folder in sorted(path.parent.parent for path in suite.rglob("test/nshards.txt")):
        kind = folder / "dataset_type.txt"
        is_retrieval = kind.is_file() and kind.read_text().strip() == "retrieval"
        task = "zeroshot_retrieval" if is_retrieval else "zeroshot_classification"
        rows = build_dataset(f"wds/{folder.name}", root=str(folder), transform=transform, split="test", task=task)
        loader = torch.utils.data.DataLoader(rows.batched(BATCH), batch_size=None, shuffle=False, num_workers=0)
        if is_retrieval:
            numbers = retrieval(raw, loader, tokenizer, "cpu", amp=False, recall_k_list=DEPTHS)
        else:
            told = (rows.classes, rows.templates)
            numbers = classification.evaluate(raw, loader, tokenizer, *told, "cpu", amp=False)
        found |= {f"{folder.name} {name}": value for name, value in numbers.items() if value == value}
    return found


def tether(model: Path, suite: Path, *, bootstrap: int) -> dict[str, float]:
    from tether.workflows.suite import suite as measure

    measures = ["zero_shot", "retrieval"]
    result = measure(str(model), suite, measures=measures, bootstrap=bootstrap, workers=0, device="cpu")
    return {
        f"{name.rpartition('/')[2]} {metric}": each.value
        for (_, name), numbers in result.numbers.items()
        for metric, each in numbers.items()
    }


VARIANTS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "clip_benchmark": clip_benchmark,
    "tether": lambda model, suite: tether(model, suite, bootstrap=0),
    "tether, with intervals": lambda model, suite: tether(model, suite, bootstrap=1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=PARQUET")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    photos = {name: Path(file) for name, _, file in (each.partition("=") for each in options.set)}
    if options.write is not None:
        make_photos(options.write, photos, rows=options.rows)
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        model, suite = options.model or Path(place) / "model", options.suite or Path(place) / "suite"
        if options.model is None:
            make_model(model)
        if photos:
            make_photos(suite, photos, rows=options.rows)
        elif options.suite is None:
            make_suite(suite, images=120 if options.quick else 1000)
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        results = {}
        rounds = 1 if options.quick else 5
        for turn in range(-1, rounds):  # the first imports, and is not counted
            names = list(VARIANTS)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
                    start = time.process_time()
                    found = VARIANTS[name](model, suite)
                if turn >= 0:
                    seconds[name].append(time.process_time() - start)
                    results[name] = found
    peer = results["clip_benchmark"]
    for name in VARIANTS:
        worst = max(abs(results[name][key] - value) for key, value in peer.items())
        assert worst < 1e-6, f"{name} differs from clip_benchmark by {worst}"
    print(f"{len(peer)} numbers, equal to 1e-6")
    print(f"{'':26}{'CPU s':>9}{'times faster':>14}   spread")
    for name, times in seconds.items():
        ratios = [base / own for base, own in zip(seconds["clip_benchmark"], times, strict=True)]
        report[name] = {"seconds": times, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"{name:26}{statistics.median(times):9.3f}{report[name]['ratio']:14.1f}   {spread}")
    if options.json:
        options.json.write_text(json.dumps({"numbers": peer, "variants": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
