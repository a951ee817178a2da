"""CLIP in medical imaging, a survey: what that field asks of a toolkit, and one check of its most portable advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from tether.evaluate.medical import MultilabelReport
    from tether.methods.medical_survey.prompt_pairs import Pair
    from tether.models.towers.clip import Clip
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.studies import Studies

STUDIES, LOCAL_STUDIES, HELD_OUT = 600, 2000, 400
STEPS, LOCAL_STEPS, BATCH = 400, 200, 64
SHARES = {"1": 0.01, "10": 0.1, "100": 1.0}
"""Of the textile photos that a probe learns from, in percent."""
RESAMPLES = 200
_SMOKE_STRIDE = 25

CARD = Card.of(
    "medical-survey",
    claim=Claim(
        says="Where half of all pairs share their findings, soft targets from finding vectors give a better zero-shot "
        "macro AUROC than InfoNCE after as many steps, plain or told which pairs have the same findings. The survey "
        "itself claims no figure.",
        metric="macro AUROC of prompt pairs on held-out studies",
        margin=0.02,
        baseline="the better, on each seed, of CLIP's loss and of the same with pairs of equal findings as each "
        "other's positives",
        scale="600 synthetic studies of 48 px with 4 findings, a tiny CLIP from scratch, 400 steps of 64; 400 held out",
        equal="model, seed, batches, steps and learning rate; of the second also the labels of findings",
        conditions=(
            Condition(
                says="At least 30 % of the pairs of studies share their findings.",
                ours="pairs_that_share_findings",
                than=0.3,
            ),
            Condition(
                says="With a local loss the warmest place of a map lies on the named finding 10 points more often than "
                "with CLIP's loss after as many steps, of either kind of map the better.",
                ours="pointing_local",
                than="pointing_global",
                least=0.10,
            ),
        ),
    ),
    tried={
        "The same bed on seeds 0 to 2, against CLIP's loss alone and without conditions.": (
            "0.90 against 0.84, not shown: the lower bound was -0.017. The local loss gained 0.014 at "
            "pointing by tokens; by the better kind of map CLIP's loss reached 0.27 and the local one 0.09."
        ),
        "Pilots on other seeds, in which a third of all pairs shared their findings, or half of them.": (
            "A third: a gain of 1 to 6 points after 300 steps and 0 to 14 after 600. Half: 9 to 19 after 400, "
            "where the claim was fixed. An earlier pilot on 600 studies at 64 px lost 1 point after 300."
        ),
    },
    differences=(
        "The survey trains nothing. The check is ours, on synthetic scenes with planted flaws: no medical evidence.",
        "Our studies have an entry 'normal' in their finding vectors. Without one they have a vector of zeros, whose "
        "target is even.",
        "Words are tokens of the text tower, not words of its pieces.",
        "The survey's items on graphs of knowledge and on VQA are not here; the guide says so.",
    ),
    minutes=7.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train with three kinds of targets, and global and local; ask for findings, places, and a few-shot probe."""
    from tether.losses import ClipLoss, MultiPositive
    from tether.methods.medical_survey import LocalAlignmentLoss, SoftTargetContrastive
    from tether_lab.worlds.studies import ABSENT, NORMAL, learn, same_findings, studies

    seen = studies(lab.steps(STUDIES, 40), seed=lab.seed, part=1)
    unseen = studies(lab.steps(HELD_OUT, 40), seed=lab.seed, part=2)
    steps, seed = lab.steps(STEPS, 2), lab.seed
    notes = {"pairs_that_share_findings": same_findings(seen)}
    plain, same, soft = (
        learn(objective, seen, seed=seed, steps=steps, batch=lab.steps(BATCH, 8))
        for objective in (ClipLoss(), MultiPositive(), SoftTargetContrastive())
    )
    for name, model in (("plain", plain), ("same_findings", same), ("soft", soft)):
        notes |= _findings(model, unseen, negative=ABSENT, name=name)
        # Negation in prompts is poorly understood in general, so the question is also asked without it.
        notes |= _findings(model, unseen, negative=NORMAL[1], name=f"{name}_without_negation")
    notes |= _textile(lab, soft)
    more = studies(lab.steps(LOCAL_STUDIES, 40), seed=lab.seed, part=3)
    short = {"seed": seed, "steps": lab.steps(LOCAL_STEPS, 2), "batch": lab.steps(BATCH, 8)}
    whole = learn(ClipLoss(), more, **short)
    local = learn(LocalAlignmentLoss(), more, **short, want="tokens")
    for name, model in (("global", whole), ("local", local)):
        notes |= _pointing(model, unseen, name=name)
        notes[f"pointing_{name}"] = max(notes[f"pointing_{name}_{method}"] for method in ("tokens", "parts"))
    notes["pointing_gain"] = notes["pointing_local"] - notes["pointing_global"]
    best = max(notes["auroc_plain"], notes["auroc_same_findings"])
    return Trial(baseline=best, ours=notes["auroc_soft"], notes=notes)


def _findings(model: Clip, data: Studies, *, negative: str, name: str) -> dict[str, float]:
    """Macro AUROC of prompt pairs, with its interval; ``negative`` may name the finding or not."""
    from tether.evaluate.medical import multilabel_report
    from tether.methods.medical_survey import PromptPairZeroShot
    from tether_lab.worlds.studies import FINDINGS, PRESENT

    own: dict[str, Pair] = {kind: ((PRESENT.format(kind),), (negative.format(kind),)) for kind in FINDINGS}
    head = PromptPairZeroShot(own=own).prepare(model, FINDINGS)
    probability = head.predict(data.pixels).probability
    report = multilabel_report(probability, truth=data.truth.float(), findings=FINDINGS, resamples=RESAMPLES)
    return _figures(report, f"auroc_{name}")


def _figures(report: MultilabelReport, name: str) -> dict[str, float]:
    """The mean AUROC with its interval; chance where there is none, as in a smoke run."""
    found = report.auroc
    if found is None:
        return {name: 0.5}
    low, high = found.low, found.high
    ends = {} if low is None or high is None else {f"{name}_low": low, f"{name}_high": high}
    return {name: found.value, **ends}


def _pointing(model: Clip, data: Studies, *, name: str) -> dict[str, float]:
    """Share of named findings that the warmest pixel of their map lies on, by both kinds of map, and chance."""
    from tether.methods.medical_survey import localisation
    from tether.methods.medical_survey.similarity_map import similarity_map
    from tether_lab.worlds.studies import FINDINGS, PRESENT

    found: dict[str, float] = {}
    for method in ("tokens", "parts"):
        hits = asked = chance = 0.0
        for number, kind in enumerate(FINDINGS):
            rows = data.masks[:, number].flatten(1).any(dim=1)
            if not bool(rows.any()):
                continue
            maps = similarity_map(model, images=data.pixels[rows], phrases=[PRESENT.format(kind)], method=method)
            seen = localisation(maps.heat[:, 0], masks=data.masks[rows, number])
            hits += seen.hits.rate * seen.hits.n
            chance += seen.chance * seen.hits.n
            asked += seen.hits.n
        found |= {f"pointing_{name}_{method}": hits / max(asked, 1), "pointing_chance": chance / max(asked, 1)}
    return found


def _textile(lab: Lab, model: Clip) -> dict[str, float]:
    """AUROC of a linear probe, defect against normal, on photos of cloth, with few labels and many."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from tether.evaluate.medical import multilabel_report

    (learnt, labels), (asked, truth) = (_photos(lab, model, split=split) for split in ("train", "test"))
    found: dict[str, float] = {}
    order = np.random.default_rng([lab.seed, 3]).permutation(len(labels))
    for name, share in SHARES.items():
        count = max(2, round(share * len(labels) / 2))
        rows = np.concatenate([order[labels[order] == kind][:count] for kind in (0, 1)])
        mean, spread = learnt[rows].mean(axis=0), learnt[rows].std(axis=0) + 1e-6
        probe = LogisticRegression(max_iter=5000).fit((learnt[rows] - mean) / spread, labels[rows])
        score = probe.predict_proba((asked - mean) / spread)[:, 1:]
        report = multilabel_report(score, truth=truth[:, None], resamples=RESAMPLES)
        found |= _figures(report, f"textile_auroc_{name}_percent")
    return found


def _photos(lab: Lab, model: Clip, *, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings of the photos, and 1 where the cloth has a defect."""
    import numpy as np
    import torch.nn.functional as F

    from tether.models.embed import encode_images

    pixels, labels = _images(split, _SMOKE_STRIDE if lab.smoke else 1, model.image_spec.size)
    return F.normalize(encode_images(model, pixels.split(256)), dim=1).numpy(), np.array(labels)


def _images(split: str, stride: int, size: tuple[int, int]) -> tuple[Tensor, list[int]]:
    import torch

    from tether.core.types import ImageSpec
    from tether.data.images import load
    from tether.data.sets.textile import TextileSet

    source = TextileSet(split=split)  # pyrefly: ignore[bad-argument-type]
    rows = [source.row(index) for index in range(0, len(source), stride)]
    spec = ImageSpec(size)
    pixels = torch.stack([load(row.image, spec, name=row.key) for row in rows])  # pyrefly: ignore[bad-argument-type]
    return pixels, [int(row.meta["label"] != "normal") for row in rows]
