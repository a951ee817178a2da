"""A few labelled images: what each way to learn from them gives, on the classes learnt and on classes never shown.

    python benchmarks/few_shot.py [TRAIN.parquet] [--test TEST.parquet] [--model starter] [--label label]
        [--template "a photo of a {}."] [--arms zero-shot,gda,...] [--recipes lora,svd,...] [--shots 1,2,4,8,16]
        [--draws 5] [--tables all,unseen] [--against lda] [--ask 50] [--quick] [--json OUT]

One run, the same draws for all arms. Without ``--test`` two fifths of each class are held out. The first table learns
all classes; the second learns the first half of them and asks both halves apart (base-to-new). Arms on embeddings
are estimators; CPU seconds are those of the fit, and what it costs to embed an image is printed beside them. Any
recipe of ``tether adapt`` that takes labelled images is an arm of ``--recipes``, ``NAME:key=value:...`` with settings;
its seconds hold all it computes, but rows of the base that lie in the feature cache. ``wise-NAME:...`` is the recipe
followed by WiSE-FT: of the weights between the base and the tuned model, those that do best on the validation images.
``--against ARM`` adds, for every other arm, its accuracy less that of ARM, draw by draw, and its seconds over ARM's.
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

import tether
from tether.adaptation.recipes import RECIPES, Given, Outcome
from tether.adaptation.weights import interpolate
from tether.core.allocator import keep_freed_memory
from tether.core.component import build
from tether.core.errors import UnsupportedModelError
from tether.data import open_source
from tether.data.in_order import ordered
from tether.data.labelled import LabelledRows, draw_parts, read_labels
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
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.embed import encode_images
from tether.tasks.classify.prompts import own_templates
from tether.tasks.classify.zero_shot import class_weights
from tether.workflows.adaptation.interpolation import SHARES
from tether.workflows.adaptation.run import run
from tether_lab.worlds import few_shot_heads as heads
from tether_lab.worlds.few_shot_heads import EmbeddedSets

HELD_OUT = 0.4
BATCH = 64


class Bench:
    """A model, the images, and their embeddings."""

    def __init__(self, model, train: LabelledRows, test: LabelledRows, *, templates: tuple[str, ...]) -> None:
        """Embed class names and test images."""
        self.model, self.templates = model, templates
        self.prompts = tuple(tuple(each.replace("{}", name) for each in templates) for name in train.classes)
        self.cached = CachedEncoder(model)
        text = class_weights(model, train.classes, templates=templates).double().numpy()
        rows = np.full((1, len(train.labels), text.shape[1]), np.nan)
        asked = self._unit(test, range(len(test.labels)))
        self.at = EmbeddedSets(train, test, rows, asked, text, float(model.logit_scale.detach()))

    def embed(self, draws: list[Draw]) -> None:
        """Embed what will be drawn."""
        places = sorted({place for draw in draws for place in (*draw.train, *draw.validation)})
        self.at.rows[0, places] = self._unit(self.at.train, places)

    def seconds_an_image(self) -> float:
        """Of processor time, without the cache."""
        test = self.at.test
        with torch.no_grad():
            some = rows_at(test, range(min(32, len(test.labels))))
            source = some.part(range(len(some.labels)), prompts=self.prompts, name="timed")
            begun = time.process_time()
            for _, pixels in ordered(source, image_spec=self.model.image_spec, batch_size=BATCH):
                self.model.encode_image(pixels)
        return (time.process_time() - begun) / len(some.labels)

    def _unit(self, rows: LabelledRows, places) -> np.ndarray:
        part = rows.part(list(places), prompts=self.prompts, name="embedded")
        found = torch.cat([image for _, image in self.cached.rows_of(part, batch_size=BATCH)])
        return F.normalize(found.double(), dim=1).numpy()


def else_by_text(arm: Method, at: EmbeddedSets) -> Method:
    """The same, which tells other classes than it learnt by their texts alone."""

    def method(draw: Draw) -> FewShotAnswer | None:
        learnt = arm(draw)
        return learnt and (lambda rows, classes: (learnt if classes == draw.classes else at.by_text)(rows, classes))

    return method


ARMS: dict[str, Callable[[EmbeddedSets], Method]] = {
    "zero-shot": heads.zero_shot,
    "nearest-mean": heads.means_alone,
    "lda": heads.lda,
    "logistic": heads.logistic,
    "tip-adapter": lambda at: else_by_text(heads.tip_adapter(at), at),
    "tip-adapter-f": lambda at: else_by_text(heads.tip_adapter(at, keys="tuned"), at),
    "gda": heads.gda,
}


def reader_of(bench: Bench, model):
    """A model to embed images by: from the cache where its image side is the base's."""
    rests = side_digest(model, "image") == side_digest(bench.model, "image")
    return CachedEncoder(model) if rests else model


def interpolated(bench: Bench, tuned, given: Given):
    """The best of the weights on the way to a tuned model, the nearest to the base of equals."""
    best = (-1.0, tuned)
    for share in SHARES:
        model = interpolate(bench.model, tuned, share=share)
        loaded = ordered(given.validation, image_spec=model.image_spec, batch_size=BATCH)
        reader, rows, labels = reader_of(bench, model), [], []
        for some, pixels in loaded:
            rows.append(encode_images(reader, [pixels]))
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
    made, at = build(spec, RECIPES, where="--recipes", finite=True), bench.at
    try:
        made.check(bench.model)
    except UnsupportedModelError as reason:
        print(f"{asked}: refused, {reason}")
        return lambda draw: None

    def method(draw: Draw) -> FewShotAnswer:
        prompts = tuple(bench.prompts[label] for label in draw.classes)
        parts = {
            key: rows_at(at.train, sorted(places), classes=draw.classes)
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
            class_text=torch.from_numpy(at.text[list(draw.classes)]).float(),
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
                image = torch.from_numpy(at.asked[rows]).float()
            else:
                if not images:
                    whole = at.test.part(range(len(at.test.labels)), prompts=bench.prompts, name="test")
                    loaded = ordered(whole, image_spec=bench.model.image_spec, batch_size=BATCH)
                    images.append(encode_images(reader_of(bench, outcome.model), (pixels for _, pixels in loaded)))
                image = images[0][torch.from_numpy(rows)]
            if outcome.head is not None:
                logits = outcome.head.logits(image)
            else:
                names = [at.train.classes[label] for label in classes]
                logits = F.normalize(image, dim=1) @ class_weights(outcome.model, names, templates=bench.templates).T
            return np.array(classes)[logits.argmax(dim=1).numpy()]

        return answer

    return method


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("train", type=Path, nargs="?", default=Path("digits"))
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
    parser.add_argument("--against", action="append", default=[], help="an arm that all others are compared with")
    parser.add_argument("--ask", type=int, help="test images a class; all if not given")
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
    ask, labels = 20 if given.quick else given.ask, np.array(test.labels)
    if ask is not None:
        few = [place for label in range(len(test.classes)) for place in np.flatnonzero(labels == label)[:ask]]
        test = rows_at(test, sorted(map(int, few)))
    return train, test


def compared(table: FewShotTable, against: str) -> list[str]:
    """Every other method with one: the difference in points with its interval over draws, and seconds as a multiple."""
    rows = table.rows()
    base = {row.shots: row for row in rows if row.method == against and row.accuracy}
    lines = []
    for row in rows:
        if row.method == against or row.accuracy is None or row.shots not in base:
            continue
        less = table.difference(row.method, against, shots=row.shots)
        half = "" if less.high is None else f" +- {100 * (less.high - less.value):.1f}"
        lines.append(
            f"{row.method} less {against}, {row.shots} shots: {100 * less.value:+.1f}{half}, "
            f"{row.seconds / base[row.shots].seconds:.3g} times its seconds"
        )
    return lines


def main() -> None:
    given = parse(argparse.ArgumentParser(description=__doc__.partition("\n")[0]))
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=UserWarning)
    shots = [1, 2] if given.quick else [int(count) for count in given.shots.split(",")]
    draws = 2 if given.quick else given.draws
    train, test = opened(given)
    model = tether.load(given.model).eval()
    bench = Bench(model, train, test, templates=tuple(given.template or own_templates(model)))
    every = tuple(range(len(train.classes)))
    bench.embed([draw_of(train, classes=every, shots=count, seed=seed) for seed in range(draws) for count in shots])
    methods = {name: ARMS[name](bench.at) for name in given.arms.split(",") if name}
    methods |= {f"adapt {asked}": recipe_arm(bench, asked) for asked in given.recipes.split(",") if asked}
    an_image = bench.seconds_an_image()
    print(
        f"{given.train.name}: {len(train.labels)} to draw from, {len(test.labels)} to ask about, {len(every)} classes"
    )
    print(f"{given.model}: logit scale {bench.at.scale:.1f}, {1000 * an_image:.1f} CPU ms to embed an image")

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
        print(f"\n{title}", *table.lines(), *(line for one in given.against for line in compared(table, one)), sep="\n")
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
