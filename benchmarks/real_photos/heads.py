"""The papers on labels: heads and maps that learn the classes of CIFAR-10 on frozen rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.core.hash_rng import hash_uniform
from tether.core.types import Batch
from tether.data.curate import MetaClipCurator
from tether.data.curate.engine.step import PAIR_SCHEMA
from tether.evaluate.imbalance import ImbalanceReport, imbalance_report
from tether.losses import ClipLoss
from tether.methods.beyond_tail import CosineHead
from tether.methods.clipood import class_texts, tune_images_
from tether.methods.logitclip import LogitClipLoss
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_images, encode_texts
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.card import Claim, Condition, Trial

from .captions import taught
from .frozen import CAPTIONS, CIFAR_TRAIN, DIM, Photos, as_images, encoder, learn
from .row import Row

NOISE, TAU, EPOCHS, LAST = 0.4, 0.25, 40, 10
MOST, ZIPF, T_IN_MEDIANS = 140, 1.2, 2.0
"""Photographs of the most frequent class of a long tail, its exponent, and metaclip's threshold."""
TEMPLATES = ("a photo of a {}", "{}", "one {} in a photo", "a small {}", "the {}", "a picture of my {}")
PROMPT = "a photo of a {}"
HEAD_STEPS, HEAD_BATCH, CLIP_STEPS, CLIP_BATCH = 800, 64, 200, 256
CURATED_STEPS, CURATED_BATCH = 300, 64
LEARNT, SHIFT_STEPS, SHIFT_BATCH, SHIFT_RATE = 5, 400, 36, 3e-4
CLASSES = "CIFAR-10 through starter's locked image tower"


def logitclip(photos: Photos, seed: int) -> Trial:
    """A net of three layers on rows with wrong labels, with and without the cap."""
    draw = torch.Generator().manual_seed(seed)
    image, labels = photos.train.image, photos.train.label.clone()
    wrong = torch.randperm(len(labels), generator=draw)[: round(NOISE * len(labels))]
    classes = len(photos.names)
    labels[wrong] = (labels[wrong] + torch.randint(1, classes, (len(wrong),), generator=draw)) % classes

    def trained(loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = image.shape[1]
            net = nn.Sequential(
                nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)
            )
        optimizer, order = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), torch.Generator().manual_seed(seed)
        scores = []
        for _ in range(EPOCHS):
            for some in torch.randperm(len(labels), generator=order).split(64):
                optimizer.zero_grad()
                loss(net(image[some]), labels[some]).backward()
                optimizer.step()
            with torch.no_grad():
                scores.append(float((net(photos.test.image).argmax(1) == photos.test.label).float().mean()))
        with torch.no_grad():
            given_back = float((net(image[wrong]).argmax(1) == labels[wrong]).float().mean())
        return {"accuracy": float(np.mean(scores[-LAST:])), "best": max(scores), "memorised": given_back}

    arms = {"plain": trained(F.cross_entropy), "capped": trained(LogitClipLoss(tau=TAU))}
    notes = {f"{figure}_{name}": value for name, found in arms.items() for figure, value in found.items()}
    return Trial(notes["accuracy_plain"], notes["accuracy_capped"], notes)


def long_tail(photos: Photos, seed: int) -> tuple[Tensor, np.ndarray, list[str]]:
    """Rows of a long-tailed pool in random order, how often each class stands in it, and a caption of each row."""
    rng = np.random.default_rng([seed, 2])
    order = rng.permutation(len(photos.names))
    frequencies = np.zeros(len(order), np.int64)
    frequencies[order] = np.round(MOST / np.arange(1, len(order) + 1) ** ZIPF)
    rows = [
        rng.choice(np.flatnonzero(photos.train.label.numpy() == label), count, replace=False)
        for label, count in enumerate(frequencies)
    ]
    chosen = torch.from_numpy(rng.permutation(np.concatenate(rows)))
    labels = photos.train.label[chosen].tolist()
    return chosen, frequencies, [str(rng.choice(TEMPLATES)).format(photos.names[label]) for label in labels]


def clip_of(photos: Photos, seed: int, rows: Tensor, texts: list[str], *, steps: int, size: int) -> ComposedEncoder:
    """Maps that CLIP's loss taught on a pool."""
    said = [template.format(name) for template in TEMPLATES for name in photos.names]
    model = encoder(photos, said, seed=seed)
    image, ids = as_images(photos.train.image[rows]), model.tokenizer(texts)

    def batches() -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            some = torch.randint(len(texts), (size,), generator=draw)
            yield Batch(image[some], ids[some])

    return learn(model, ContrastiveStep(ClipLoss(), steps=steps, seed=seed), batches(), steps=steps)


def named(model: ComposedEncoder, photos: Photos) -> np.ndarray:
    """The class whose prompt lies nearest, of each test photograph."""
    image = F.normalize(encode_images(model, [as_images(photos.test.image)]), dim=1)
    text = F.normalize(encode_texts(model, [PROMPT.format(name) for name in photos.names]), dim=1)
    return (image @ text.T).argmax(dim=1).numpy()


def beyond_tail(photos: Photos, seed: int) -> Trial:
    """A linear map with a cosine head, and maps of images and texts under CLIP's loss, on one long-tailed pool."""
    rows, frequencies, texts = long_tail(photos, seed)
    image, labels = photos.train.image[rows], photos.train.label[rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = nn.Linear(image.shape[1], 128)
    head = CosineHead(len(frequencies), dim=128, generator=torch.Generator().manual_seed(seed))
    learning = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)
    for _ in range(HEAD_STEPS):
        some = torch.randint(len(labels), (HEAD_BATCH,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(head(tower(image[some])), labels[some]).backward()
        optimizer.step()
        head.clamp_scale_()
    with torch.inference_mode():
        told = head(tower(photos.test.image)).argmax(1).numpy()
    truth = photos.test.label.numpy()
    model = clip_of(photos, seed, rows, texts, steps=CLIP_STEPS, size=CLIP_BATCH)
    found = {
        name: imbalance_report(predicted, truth=truth, frequencies=frequencies)
        for name, predicted in (("supervised", told), ("clip", named(model, photos)))
    }
    notes = {f"accuracy_{name}": 100 * report.mean_accuracy for name, report in found.items()}
    return Trial(_followed(found["supervised"]), _followed(found["clip"]), notes)


def _followed(report: ImbalanceReport) -> float:
    if report.rho_predictions is None:
        raise ValueError("every class is predicted equally often: no correlation with frequency exists")
    return report.rho_predictions


def metaclip(photos: Photos, seed: int) -> Trial:
    """Maps on the whole long-tailed pool and on what balancing keeps of it."""
    rows, frequencies, texts = long_tail(photos, seed)
    pool = pa.record_batch([[f"row {number}" for number in range(len(texts))], texts], schema=PAIR_SCHEMA)
    t = T_IN_MEDIANS * float(np.median(frequencies))
    chance = MetaClipCurator(entries=photos.names, t=t).partial_fit(pool).keep(pool)
    kept = np.flatnonzero(hash_uniform(pool.column("key").to_pylist(), seed=seed, salt="metaclip") < chance)
    truth = photos.test.label.numpy()
    rare = np.isin(truth, np.argsort(frequencies, kind="stable")[: len(frequencies) // 2])
    notes = {"kept_percent": 100 * len(kept) / len(texts), "t": t}
    for name, some in (("raw", np.arange(len(texts))), ("balanced", kept)):
        told = [texts[row] for row in some.tolist()]
        model = clip_of(photos, seed, rows[torch.from_numpy(some)], told, steps=CURATED_STEPS, size=CURATED_BATCH)
        right = named(model, photos) == truth
        by_class = [right[truth == label].mean() for label in range(len(frequencies))]
        notes |= {f"accuracy_{name}": 100 * float(np.mean(by_class)), f"rarer_half_{name}": 100 * right[rare].mean()}
    return Trial(notes["accuracy_raw"], notes["accuracy_balanced"], {key: float(one) for key, one in notes.items()})


def clipood(photos: Photos, seed: int) -> Trial:
    """Tune the image map of a CLIP of other photographs on five classes in another light, and ask the other five."""
    captions = photos.captioned.captions
    draw = torch.Generator().manual_seed(seed)

    def said(row: int) -> str:
        return captions[row][int(torch.randint(CAPTIONS, (1,), generator=draw))]

    every = [PROMPT.format(name) for name in photos.names]
    start = taught(photos, seed, said, [*every, *(text for some in captions for text in some)])
    order = torch.randperm(len(photos.names), generator=draw)
    texts = class_texts(start, photos.names, template=PROMPT)

    def ask(model: ComposedEncoder, name: str) -> dict[str, float]:
        asked: list[tuple[Literal["open", "seen_light"], Tensor, Tensor, Tensor]] = [
            ("open", order[LEARNT:], photos.test.image, photos.test.label),
            ("seen_light", order[:LEARNT], photos.dim[1].image, photos.dim[1].label),
        ]
        found = {}
        for what, among, rows, label in asked:
            chosen = torch.isin(label, among)
            image = F.normalize(encode_images(model, [as_images(rows[chosen])]), dim=1)
            told = among[(image @ texts[among].T).argmax(dim=1)]
            found[f"{what}_{name}"] = float((told == label[chosen]).float().mean())
        return found

    rows = torch.isin(photos.dim[0].label, order[:LEARNT]).nonzero()[:, 0]
    place = torch.argsort(order)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            some = rows[torch.randperm(len(rows), generator=generator)[:SHIFT_BATCH]]
            yield as_images(photos.dim[0].image[some]), place[photos.dim[0].label[some]]

    notes = ask(start, "start")
    for suffix, margin in (("", 0.3), ("_no_margin", 0.0)):
        model = copy.deepcopy(start)
        tuned = tune_images_(
            model,
            batches(),
            class_text=texts[order[:LEARNT]],
            steps=SHIFT_STEPS,
            margin=margin,
            learning_rate=SHIFT_RATE,
        )
        notes |= ask(model, f"last{suffix}") | ask(tuned.model, f"average{suffix}")
        halfway = copy.deepcopy(start)
        with torch.no_grad():
            for weight, other in zip(halfway.parameters(), model.parameters(), strict=True):
                weight.lerp_(other, 0.5)
        notes |= ask(halfway, f"halfway{suffix}")
    for name, suffix in (("average", ""), ("halfway", "_no_margin")):
        notes[f"both_{name}"] = (notes[f"open_{name}{suffix}"] + notes[f"seen_light_{name}{suffix}"]) / 2
    return Trial(notes["open_last_no_margin"], notes["open_average"], notes)


ROWS = (
    Row(
        slug="logitclip",
        claim=Claim(
            says="With 40 % of the training labels wrong, a cap of 0.25 on the logits' norm keeps clean accuracy "
            "higher than plain cross-entropy does.",
            metric=f"accuracy on clean held-out photographs, mean of the last {LAST} epochs",
            better="higher",
            margin=0.04,
            baseline="cross-entropy on raw logits, everything else equal",
            scale=f"{CLASSES}: {CIFAR_TRAIN:,} for training, net 1280-256-256-10, SGD 0.1, {EPOCHS} epochs",
            equal="first weights, labels, batches, steps, learning rate",
        ),
        differs=f"margin, cap and net are the card's; {EPOCHS} epochs instead of 100; one rate, and the baseline is "
        "plain cross-entropy, without the label smoothing of the card",
        measure=logitclip,
    ),
    Row(
        slug="beyond-tail",
        claim=Claim(
            says="Trained on the same long-tailed photographs, a CLIP's number of predictions of a class follows the "
            "class's frequency less than a supervised classifier's does.",
            metric="Spearman correlation of class frequency and number of predictions on a test set",
            better="lower",
            margin=0.04,
            baseline="the same image map with a cosine head and cross-entropy, on as many images seen",
            scale=f"{CLASSES}: {MOST} photographs of the most frequent of ten classes, Zipf {ZIPF}; "
            f"{HEAD_STEPS * HEAD_BATCH:,} images seen",
            equal="photographs, images seen, first image map up to its seed, learning rate",
        ),
        differs="metric and margin are the card's; ten classes instead of 90, and the towers rest",
        measure=beyond_tail,
    ),
    Row(
        slug="metaclip",
        claim=Claim(
            says="Trained for the same number of steps, the balanced part of a long-tailed pool teaches more classes "
            "than the whole pool does.",
            metric="zero-shot accuracy, mean over classes, percentage points",
            better="higher",
            margin=1.0,
            baseline="the same maps, seed and steps on the whole pool",
            scale=f"{CLASSES}: {MOST} photographs of the most frequent of ten classes, Zipf {ZIPF}; maps, "
            f"{CURATED_STEPS} steps of {CURATED_BATCH}",
            equal="first maps, steps, batch, learning rate",
            conditions=(
                Condition(
                    says="The rarer half of the classes gains.",
                    ours="rarer_half_balanced",
                    than="rarer_half_raw",
                    better="higher",
                ),
            ),
        ),
        differs="metric, margin and threshold are the card's; ten classes of everyday names instead of 90 of invented "
        "ones; the rarer half is asked besides",
        measure=metaclip,
    ),
    Row(
        slug="clipood",
        claim=Claim(
            says="Fine-tuned on some classes in another light as released, with the margin and the Beta moving average "
            "of the weights, the model tells the other classes in the original light better than after plain "
            "fine-tuning.",
            metric="accuracy among classes that were not trained, in the original light",
            better="higher",
            margin=0.01,
            baseline="plain fine-tuning: the same run without the margin, weights of the last step",
            scale=f"{CLASSES}, its image map taught on 600 photographs of Flickr8k; then those of {DIM} dim and noisy "
            f"photographs that show {LEARNT} of the classes, {SHIFT_STEPS} steps of {SHIFT_BATCH} at {SHIFT_RATE:g}; "
            "the other five are asked",
            equal="start, images of every batch, steps, learning rate",
            conditions=(
                Condition(
                    says="The average in the released run is 1 point above the last weights of that run.",
                    ours="open_average",
                    than="open_last",
                    better="higher",
                    least=0.01,
                ),
                Condition(
                    says="Trained classes in the trained light are told at most 1 point less often than after plain "
                    "fine-tuning.",
                    ours="seen_light_average",
                    than="seen_light_last_no_margin",
                    better="higher",
                    least=-0.01,
                ),
                Condition(
                    says="The mean of both accuracies is at least that of the point halfway between the start and the "
                    "last weights of plain fine-tuning, which needs no average.",
                    ours="both_average",
                    than="both_halfway",
                    better="higher",
                ),
            ),
        ),
        differs="metric, margin, rate and steps are the card's, and three of its conditions; a linear map learns "
        "instead of a tower",
        measure=clipood,
    ),
)
