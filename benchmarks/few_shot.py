"""A few labelled images: what each way to learn from them gives, on the classes learnt and on classes never shown.

    python benchmarks/few_shot.py TRAIN.parquet [--test TEST.parquet] [--model starter] [--label label]
        [--template "a photo of a {}."] [--arms zero-shot,gda,...] [--recipes lora,svd,...] [--shots 1,2,4,8,16]
        [--draws 5] [--tables all,unseen] [--quick] [--json OUT]

One run, the same draws for all arms. Without ``--test`` two fifths of each class are held out. The first table learns
all classes; the second learns the first half of them and asks both halves apart (base-to-new). Arms on embeddings
are estimators; CPU seconds are those of the fit, and what it costs to embed an image is printed beside them. Any
recipe of ``tether adapt`` that takes labelled images is an arm of ``--recipes``, ``NAME:key=value:...`` with settings;
its seconds hold all it computes, but rows of the base that lie in the feature cache. ``wise-NAME:...`` is the recipe
followed by WiSE-FT: of the weights between the base and the tuned model, those that do best on the validation images.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

import tether
from tether.adapt.recipes import RECIPES, Given, Outcome
from tether.adapt.training_free import GDAClassifier, TipAdapter
from tether.adapt.weights import interpolate
from tether.core.allocator import keep_freed_memory
from tether.core.component import build
from tether.core.errors import UnsupportedModelError
from tether.data import open_source
from tether.data.labelled import LabelledRows, draw_parts, read_labels
from tether.data.loader import ordered
from tether.evaluate.few_shot import (
    Draw,
    FewShotAnswer,
    FewShotFigure,
    FewShotTable,
    Method,
    draw_of,
    few_shot,
    rows_at,
)
from tether.models.cached import CachedEncoder, side_digest
from tether.models.embed import encode_images
from tether.tasks.classify.prompts import own_templates
from tether.tasks.classify.zero_shot import class_weights
from tether.workflows.adaptation.interpolation import SHARES
from tether.workflows.adaptation.run import run

HELD_OUT = 0.4
STRENGTHS = tuple(10.0**power for power in range(-2, 5))
"""Of logistic regression, chosen on validation rows, as the recipe ``probe`` does."""
BATCH = 64


class Bench:
    """A model, the images, and their embeddings."""

    def __init__(self, model, train: LabelledRows, test: LabelledRows, *, templates: tuple[str, ...]) -> None:
        """Embed class names and test images."""
        self.model, self.train, self.test = model, train, test
        self.prompts = tuple(tuple(each.replace("{}", name) for each in templates) for name in train.classes)
        self.templates = templates
        self.cached = CachedEncoder(model)
        self.text = class_weights(model, train.classes, templates=templates).double().numpy()
        self.scale = float(model.logit_scale.detach())
        self.test_rows = self._unit(test, range(len(test.labels)))
        self.train_rows = np.full((len(train.labels), self.text.shape[1]), np.nan)
        self.labels = np.array(train.labels)

    def embed(self, draws: list[Draw]) -> None:
        """Embed what will be drawn."""
        places = sorted({place for draw in draws for place in (*draw.train, *draw.validation)})
        self.train_rows[places] = self._unit(self.train, places)

    def seconds_an_image(self) -> float:
        """Of processor time, without the cache."""
        with torch.no_grad():
            some = rows_at(self.test, range(min(32, len(self.test.labels))))
            source = some.part(range(len(some.labels)), prompts=self.prompts, name="timed")
            begun = time.process_time()
            for _, pixels in ordered(source, image_spec=self.model.image_spec, batch_size=BATCH):
                self.model.encode_image(pixels)
        return (time.process_time() - begun) / len(some.labels)

    def shown(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings and class numbers to learn from."""
        return self.train_rows[list(draw.train)], self.labels[list(draw.train)]

    def chosen(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """The same to choose settings on."""
        return self.train_rows[list(draw.validation)], self.labels[list(draw.validation)]

    def by_text(self, rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        """The class whose text is nearest."""
        return np.array(classes)[(self.test_rows[rows] @ self.text[list(classes)].T).argmax(axis=1)]

    def _unit(self, rows: LabelledRows, places) -> np.ndarray:
        part = rows.part(list(places), prompts=self.prompts, name="embedded")
        found = torch.cat([image for _, image in self.cached.rows_of(part, batch_size=BATCH)])
        return F.normalize(found.double(), dim=1).numpy()


def zero_shot(bench: Bench) -> Method:
    return lambda draw: bench.by_text


def of_sklearn(bench: Bench, fit: Callable[[Draw], object | None]) -> Method:
    """A classifier that knows the classes of its rows alone."""

    def method(draw: Draw) -> FewShotAnswer | None:
        made = fit(draw)
        if made is None:
            return None
        return lambda rows, classes: made.predict(bench.test_rows[rows]) if classes == draw.classes else None

    return method


def nearest_mean(bench: Bench) -> Method:
    return of_sklearn(bench, lambda draw: NearestCentroid().fit(*bench.shown(draw)))


def lda(bench: Bench) -> Method:
    def fit(draw: Draw):
        if draw.shots == 1:  # nothing scatters within a class
            return None
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(*bench.shown(draw))

    return of_sklearn(bench, fit)


def logistic(bench: Bench) -> Method:
    def fit(draw: Draw):
        made = [LogisticRegression(C=strength, max_iter=1000).fit(*bench.shown(draw)) for strength in STRENGTHS]
        return max(made, key=lambda one: one.score(*bench.chosen(draw)))

    return of_sklearn(bench, fit)


def tip_adapter(bench: Bench, **settings) -> Method:
    def method(draw: Draw) -> FewShotAnswer:
        head = TipAdapter(logit_scale=bench.scale, **settings)
        texts = bench.text[list(draw.classes)]
        head.fit(*bench.shown(draw), text_weights=texts, classes=draw.classes, validation=bench.chosen(draw))
        return lambda rows, classes: (
            head.predict(bench.test_rows[rows]) if classes == draw.classes else bench.by_text(rows, classes)
        )

    return method


def gda(bench: Bench, **settings) -> Method:
    def method(draw: Draw) -> FewShotAnswer:
        head = GDAClassifier(logit_scale=bench.scale, **settings)
        rows, labels = bench.shown(draw)
        texts = bench.text[list(draw.classes)]
        head.fit(rows, labels, text_weights=texts, classes=draw.classes, validation=bench.chosen(draw))

        def answer(test: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
            if classes == draw.classes:
                return head.predict(bench.test_rows[test])
            further = head.extend(rows, text_weights=bench.text[list(classes)], classes=classes, k=min(64, len(rows)))
            return further.predict(bench.test_rows[test])

        return answer

    return method


ARMS: dict[str, Callable[[Bench], Method]] = {
    "zero-shot": zero_shot,
    "nearest-mean": nearest_mean,
    "lda": lda,
    "logistic": logistic,
    "tip-adapter": tip_adapter,
    "tip-adapter-f": lambda bench: tip_adapter(bench, keys="tuned"),
    "gda": gda,
}


def interpolated(bench: Bench, tuned, given: Given):
    """The best of the weights on the way to a tuned model, the nearest to the base of equals."""
    best = (-1.0, tuned)
    for share in SHARES:
        model = interpolate(bench.model, tuned, share=share)
        loaded = ordered(given.validation, image_spec=model.image_spec, batch_size=BATCH)
        rows, labels = [], []
        for some, pixels in loaded:
            rows.append(encode_images(model, [pixels]))
            labels += [row.meta["label"] for row in some]
        texts = class_weights(model, given.classes, templates=bench.templates)
        right = (F.normalize(torch.cat(rows), dim=1) @ texts.T).argmax(dim=1) == torch.tensor(labels)
        if (score := float(right.float().mean())) > best[0]:
            best = (score, model)
    return best[1]


def recipe_arm(bench: Bench, asked: str) -> Method:
    """A recipe of ``tether adapt`` as an arm: ``NAME:key=value:...``; it numbers the classes learnt from 0."""
    name, *settings = asked.removeprefix("wise-").split(":")
    wise = asked.startswith("wise-")
    spec = {"name": name, **dict(yaml.safe_load(pair.replace("=", ": ", 1)).popitem() for pair in settings)}

    made = build(spec, RECIPES, where="--recipes", finite=True)
    try:
        made.check(bench.model)
    except UnsupportedModelError as reason:
        print(f"{asked}: refused, {reason}")
        return lambda draw: None

    def method(draw: Draw) -> FewShotAnswer:
        prompts = tuple(bench.prompts[label] for label in draw.classes)
        parts = {
            key: rows_at(bench.train, sorted(places), classes=draw.classes)
            for key, places in (("train", draw.train), ("validation", draw.validation))
        }
        sources = {key: some.part(range(len(some.labels)), prompts=prompts, name=key) for key, some in parts.items()}
        given = Given(
            "labels",
            sources["train"],
            len(draw.train),
            validation=sources["validation"],
            classes=parts["train"].classes,
            prompts=prompts,
            class_text=torch.from_numpy(bench.text[list(draw.classes)]).float(),
            seed=draw.seed,
            shots=draw.shots,
        )
        outcome = run(made, bench.model, given, folder=None).outcome
        if wise:
            outcome = Outcome(model=interpolated(bench, outcome.model, given))
        images: list[torch.Tensor] = []

        def answer(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray | None:
            if outcome.head is not None and classes != draw.classes:
                return None
            if outcome.model is None:
                image = torch.from_numpy(bench.test_rows[rows]).float()
            else:
                if not images:
                    whole = bench.test.part(range(len(bench.test.labels)), prompts=bench.prompts, name="test")
                    loaded = ordered(whole, image_spec=bench.model.image_spec, batch_size=BATCH)
                    rests = side_digest(outcome.model, "image") == side_digest(bench.model, "image")
                    reader = CachedEncoder(outcome.model) if rests else outcome.model
                    images.append(encode_images(reader, (pixels for _, pixels in loaded)))
                image = images[0][torch.from_numpy(rows)]
            if outcome.head is not None:
                logits = outcome.head.logits(image)
            else:
                names = [bench.train.classes[label] for label in classes]
                logits = F.normalize(image, dim=1) @ class_weights(outcome.model, names, templates=bench.templates).T
            return np.array(classes)[logits.argmax(dim=1).numpy()]

        return answer

    return method


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("train", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--label", default="label")
    parser.add_argument("--template", action="append", help="with {} for the class; the model's own if not given")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--recipes", default="", help="of tether adapt, with commas between them")
    parser.add_argument("--shots", default="1,2,4,8,16")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument(
        "--tables", default="all,unseen", help="all classes learnt, or half of them and both halves asked"
    )
    parser.add_argument("--quick", action="store_true", help="shots 1 and 2, two draws, 20 test images a class")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def opened(given: argparse.Namespace) -> tuple[LabelledRows, LabelledRows]:
    """Rows to draw from and rows to ask about."""
    train = read_labels(open_source(str(given.train), where="TRAIN"), column=given.label)
    if given.test is None:
        parts = draw_parts(train, shots=None, validation=False, test_share=HELD_OUT)
        train, test = rows_at(train, parts.train), rows_at(train, parts.test)
    else:
        test = read_labels(open_source(str(given.test), where="--test"), column=given.label, classes=train.classes)
    if given.quick:
        few = [
            place for label in range(len(test.classes)) for place in np.flatnonzero(np.array(test.labels) == label)[:20]
        ]
        test = rows_at(test, sorted(map(int, few)))
    return train, test


def main() -> None:
    given = parse(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", message="invalid value", category=RuntimeWarning)  # NearestCentroid on one shot
    shots = [1, 2] if given.quick else [int(count) for count in given.shots.split(",")]
    draws = 2 if given.quick else given.draws
    train, test = opened(given)
    model = tether.load(given.model).eval()
    bench = Bench(model, train, test, templates=tuple(given.template or own_templates(model)))
    every = tuple(range(len(train.classes)))
    bench.embed([draw_of(train, classes=every, shots=count, seed=seed) for seed in range(draws) for count in shots])
    methods = {name: ARMS[name](bench) for name in given.arms.split(",") if name}
    methods |= {f"adapt {asked}": recipe_arm(bench, asked) for asked in given.recipes.split(",") if asked}
    an_image = bench.seconds_an_image()
    print(
        f"{given.train.name}: {len(train.labels)} to draw from, {len(test.labels)} to ask about, {len(every)} classes"
    )
    print(f"{given.model}: logit scale {bench.scale:.1f}, {1000 * an_image:.1f} CPU ms to embed an image")

    def told(figure: FewShotFigure) -> None:
        shown = "-" if figure.accuracy is None else f"{100 * figure.accuracy:.1f}"
        print(f"  {figure.method}, {figure.shots} shots, draw {figure.seed}: {shown}", flush=True)

    tables: dict[str, FewShotTable] = {}
    halves = {"all": (), "unseen": train.classes[(len(every) + 1) // 2 :]}
    titles = {"all": "all classes", "unseen": "base to new"}
    for name in given.tables.split(","):
        print(f"{titles[name]}:")
        settings = {"shots": shots, "draws": draws, "unseen": halves[name]}
        tables[titles[name]] = few_shot(methods, train=train, test=test, on_figure=told, **settings)
    for title, table in tables.items():
        print(f"\n{title}", *table.lines(), sep="\n")
    if given.json:
        result = {
            "model": given.model,
            "seconds_an_image": an_image,
            "classes": train.classes,
            "templates": bench.templates,
            "tables": {title: table.as_dict() for title, table in tables.items()},
        }
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
