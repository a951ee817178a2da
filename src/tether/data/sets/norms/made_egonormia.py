"""Scenes in EgoNormia's format by templates of ours, in words alone; what is right in them is what we wrote."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from tether.core.atomic_io import write_json
from tether.core.ranges import Count, checked

_FILE = "made_scenes.tsv"
_WHO = ("You come in from the left", "You stand a few steps away", "You have just arrived", "You carry a small bag")
_WHEN = ("early in the morning", "shortly after noon", "late in the evening", "on a rainy day")


@checked
def made_egonormia(
    path: str | Path, *, items: Count = 80, scenes: tuple[int, int] = (0, 16), start: int = 0, seed: int = 0
) -> Path:
    """Write a JSON file of scenes with five options: right, plausible but wrong, off the scene (two), and none.

    The wrong one speaks of things of the scene, as the right one does. That right options of scenes of one kind are
    alike, so that neighbours help, is by construction; the texts were written before any chooser saw them.

    Args:
        path: of the file.
        items: how many.
        scenes: first and last but one kind of scene that is drawn; others give an index of scenes that are unrelated.
        start: number of the first id.
        seed: of all draws.
    """
    rng, known = np.random.default_rng(seed), _scenes()
    found = {}
    for number in range(start, start + items):
        place = int(rng.integers(*scenes))
        scene = known[place]
        others = rng.choice([at for at in range(len(known)) if at != place], size=2, replace=False)
        good = rng.permutation(len(scene.right))
        options = [
            (scene.right[good[0]], scene.why, [scene.kind]),
            (scene.wrong, f"it is quicker to {scene.wrong.split()[0]} and go on", []),
            *((known[at].right[int(rng.integers(3))], known[at].why, [known[at].kind]) for at in others),
            ("", "", []),
        ]
        second = rng.random() < 0.3
        if second:  # another way to do right is sensible, too
            options[2] = (scene.right[good[1]], f"it also works, since {scene.why}", [scene.kind])
        order = [*rng.permutation(4).tolist(), 4]
        sensible = {order.index(0), *([order.index(2)] if second else [])}
        desc = f"{rng.choice(_WHO)} {rng.choice(_WHEN)}: {scene.where.format(rng.choice(scene.places))}."
        found[f"made-{number}"] = {
            "id": f"made-{number}",
            "behaviors": [options[at][0] for at in order],
            "justifications": [options[at][1] for at in order],
            "correct": order.index(0),
            "sensibles": sorted(sensible),
            "taxonomy": {str(at): options[which][2] for at, which in enumerate(order)},
            "desc": desc,
        }
    write_json(Path(path), found)
    return Path(path)


@dataclass(frozen=True, slots=True)
class _Scene:
    where: str
    kind: str
    right: tuple[str, ...]
    wrong: str
    why: str
    places: tuple[str, ...]


def _scenes() -> list[_Scene]:
    text = resources.files("tether.data.sets.norms").joinpath(_FILE).read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return [_Scene(row[0], row[1], tuple(row[2:5]), row[5], row[6], tuple(row[7:10])) for row in rows]
