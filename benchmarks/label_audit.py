"""Planted errors in labels and captions: tether audit's scores against cleanlab's and against the plain CLIP score.

    python benchmarks/label_audit.py [--cifar FILE] [--flickr FILE] [--model starter --model runs/mine] [--rows 2000]
        [--seeds 5] [--cleanlab FOLDER] [--quick] [--json OUT]

Labels: 5 % of the labels are exchanged for another class at random. Every score sees the same embeddings; cleanlab's
three scores (``self_confidence``, its default, ``normalized_margin`` and the first with ``adjust_pred_probs``) and
ours of the probe alone see the same out-of-fold probabilities. ``audit`` is what ``tether audit`` sorts by: the
probe, the neighbours and, where classes have names, the names, pooled. Sets: scikit-learn's digits as 64 numbers, and
images of a Parquet file with ``image`` and ``label``, such as CIFAR-10, by each model.

Captions: of a Parquet file with ``image`` and ``captions``, such as Flickr8k, the first caption of 5 % of the images
goes round among these. ``caption_fit`` against the plain score (the cosine, as CLIPScore).

AUROC and precision at 50 (or at as many as are wrong), mean over seeds. The difference to the best of cleanlab's, or
to the plain score, is paired over seeds, with Student's 95 % interval. Seeds 10 and 11 were the pilots' (strength of
the probe, the score, how captions are compared), so seeds start at 0 here and stop before 10. cleanlab is not among
Tether's dependencies: ``pip install --target FOLDER --no-deps cleanlab termcolor`` beside pandas and tqdm, and give it
as ``--cleanlab``; without it those lines are left out.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import tether
from tether.evaluate.audit import caption_fit, doubt, neighbours, out_of_fold
from tether.evaluate.audit.suspects import judge
from tether.evaluate.inspect.pairing import pair_up
from tether.tasks.classify.zero_shot import class_weights

SHARE, AT = 0.05, 50
Found = dict[str, tuple[float, float]]


def measured(score: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """AUROC, and precision among the most suspect; at most as many as are wrong."""
    at = min(AT, int(wrong.sum()))
    return float(roc_auc_score(wrong, score)), float(wrong[np.argsort(-score, kind="stable")[:at]].mean())


def planted_labels(labels: np.ndarray, *, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.permutation(len(labels))[: round(SHARE * len(labels))]] = True
    given = labels.copy()
    given[wrong] = (given[wrong] + 1 + rng.integers(classes - 1, size=wrong.sum())) % classes
    return given, wrong


def of_labels(
    image: torch.Tensor, labels: np.ndarray, *, names: list[str], zero_shot: np.ndarray | None, seed: int, peer: Any
) -> Found:
    given, wrong = planted_labels(labels, classes=len(names), seed=seed)
    probe = out_of_fold(image, given, classes=len(names), seed=seed)
    judged = judge(given, classes=names, probe=probe, near=neighbours(image), zero_shot=zero_shot)
    scores = {"audit": judged.doubt, "probe alone": doubt(probe, given)}
    if peer is not None:
        scores["cleanlab"] = 1 - peer(given, probe)
        scores["cleanlab margin"] = 1 - peer(given, probe, method="normalized_margin")
        scores["cleanlab adjusted"] = 1 - peer(given, probe, adjust_pred_probs=True)
    found = {name: measured(score, wrong) for name, score in scores.items()}
    flagged = judged.wrong
    hit = float((flagged & wrong).sum())
    found["listed (precision, recall)"] = hit / max(1, int(flagged.sum())), hit / int(wrong.sum())
    return found


def of_captions(image: torch.Tensor, text: torch.Tensor, *, scale: float, seed: int) -> Found:
    rng = np.random.default_rng(seed)
    count = len(image)
    chosen = rng.permutation(count)[: round(SHARE * count)]
    order = np.arange(count)
    order[chosen] = np.roll(chosen, 1)
    wrong = np.zeros(count, bool)
    wrong[chosen] = True
    captions = [str(row) for row in range(count)]
    pairing = pair_up(image, text[order], owner=torch.arange(count), captions=captions)
    at = pairing.image.numpy()
    scores = {"audit": -caption_fit(pairing, image, scale=scale), "plain score": -pairing.similarity}
    return {name: measured(score.numpy(), wrong[at]) for name, score in scores.items()}


def images_of(path: Path, *, rows: int, seed: int = 0) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    table = pq.read_table(path)
    picked = np.sort(np.random.default_rng(seed).permutation(len(table))[:rows])
    records = table.take(picked).to_pylist()
    return [np.array(Image.open(io.BytesIO(one["image"]["bytes"])).convert("RGB")) for one in records], records


def embedded(model: Any, things: list[Any]) -> torch.Tensor:
    return F.normalize(torch.as_tensor(model.embed(things, long_text="cut")).float(), dim=1)


def summary(title: str, runs: list[Found], *, own: str, against: list[str]) -> dict[str, Any]:
    """Print one line a score, and the paired difference to the best of the others."""
    values = defaultdict(list)
    for one in runs:
        for name, pair in one.items():
            values[name].append(pair)
    print(f"\n{title} ({len(runs)} seeds)")
    told: dict[str, Any] = {}
    for name, pairs in values.items():
        told[name] = [statistics.mean(column) for column in zip(*pairs, strict=True)]
        print(f"  {name:28s} {told[name][0]:.4f}  {told[name][1]:.3f}")
    others = [name for name in against if name in values]
    if others and len(runs) > 1:
        best = max(others, key=lambda name: told[name][0])
        gain = np.array([one[own][0] - one[best][0] for one in runs])
        half = float(student.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)))
        told["difference"] = {
            "to": best,
            "mean": float(gain.mean()),
            "low": gain.mean() - half,
            "high": gain.mean() + half,
        }
        print(f"  {own} - {best}: {gain.mean():+.4f} ({gain.mean() - half:+.4f} to {gain.mean() + half:+.4f}) AUROC")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cifar", type=Path, help="Parquet with image and label")
    parser.add_argument("--flickr", type=Path, help="Parquet with image and captions")
    parser.add_argument("--model", action="append", help="what tether.load takes; several times for several")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cleanlab", type=Path, help="folder that holds it")
    parser.add_argument("--quick", action="store_true", help="300 digits, two seeds, no model")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cleanlab is not None:
        sys.path.append(str(given.cleanlab))
    try:
        from cleanlab.rank import get_label_quality_scores as peer
    except ImportError:
        peer = None
        print("cleanlab is not here: its columns stay empty")
    if given.quick:
        given.rows, given.seeds, given.cifar, given.flickr = 300, 2, None, None
    seeds = range(min(given.seeds, 10))
    cleanlabs = ["cleanlab", "cleanlab margin", "cleanlab adjusted"]
    digits = load_digits()
    pixels, labels = torch.tensor(digits.data[: given.rows]).float(), digits.target[: given.rows]
    names = [str(number) for number in range(10)]
    runs = [of_labels(pixels, labels, names=names, zero_shot=None, seed=seed, peer=peer) for seed in seeds]
    told = {"digits": summary("digits as 64 numbers: AUROC, precision at 50", runs, own="audit", against=cleanlabs)}
    for name in (given.model or ["starter"]) if given.cifar or given.flickr else ():
        model = tether.load(name)
        if given.cifar is not None:
            images, records = images_of(given.cifar, rows=given.rows)
            classes = sorted({str(one["label"]) for one in records})
            numbers = np.array([classes.index(str(one["label"])) for one in records])
            image = embedded(model, images)
            logits = float(model.logit_scale.detach()) * image @ F.normalize(class_weights(model, classes), dim=1).T
            by_name = logits.double().softmax(dim=1).numpy()
            runs = [of_labels(image, numbers, names=classes, zero_shot=by_name, seed=seed, peer=peer) for seed in seeds]
            told[f"labels {name}"] = summary(f"{given.cifar.name}, {name}", runs, own="audit", against=cleanlabs)
        if given.flickr is not None:
            images, records = images_of(given.flickr, rows=given.rows)
            image, text = embedded(model, images), embedded(model, [one["captions"][0] for one in records])
            runs = [of_captions(image, text, scale=float(model.logit_scale.detach()), seed=seed) for seed in seeds]
            title = f"{given.flickr.name}, {name}"
            told[f"captions {name}"] = summary(title, runs, own="audit", against=["plain score"])
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
