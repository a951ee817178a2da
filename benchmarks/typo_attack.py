"""LEAF's attack against a loop over its candidates: the same changed texts, and how much faster.

Command:  OMP_NUM_THREADS=1 python benchmarks/typo_attack.py [--model NAME] [--rho 50] [--rounds 3]
Cost:     about 10 CPU seconds on one core.

Both are given the same draws, and it stops unless they choose the same texts. Beside it: how far the best of as many
random typos gets, and one random typo.

Measured last on one of two busy virtual cores, CPU time, 5 rounds: a small model with random weights 5.3 times faster
(4.6 to 5.8) at rho 50, on an idle machine 4.4 and 4.9 in two runs; 4.5 (4.1 to 4.5) and 5.7 (5.5 to 6.3) in two runs
at 20; a tiny one 13.2 and 15.1; ``starter`` 3.4 (3.3 to 3.5), whose tower has work enough with one text alone. Squared
distances at rho 20, starter: leaf 0.82, best of random 0.74, one random 0.35.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import tether
from tether.core.protocols import DualEncoder
from tether.methods.leaf.attack import encode_read, leaf_attack, random_typos
from tether.methods.leaf.typos import ALPHABET, edit, slot_count
from tether.models import create

TEXTS = (
    "a small red circle above a large blue square",
    "two dogs play on the beach in the evening",
    "the old man reads a newspaper on a bench",
    "a bowl of soup with bread beside it",
    "children run across a green field",
    "a train crosses the bridge over the river",
    "an empty street at night after the rain",
    "a cat sleeps on the keyboard of a computer",
)


@torch.no_grad()
def loop(model: DualEncoder, anchors: torch.Tensor, *, slots: torch.Tensor, chars: torch.Tensor) -> list[str]:
    """Every candidate by itself, as one would write it down; the first of those that are best but for rounding."""

    def value(text: str, row: int) -> float:
        found = model.encode_text(model.tokenizer([text])).pooled[0]
        return float((found - anchors[row]).square().sum())

    def best(values: list[float]) -> int:
        return next(place for place, one in enumerate(values) if one >= max(values) * (1 - 64 * 2.0**-23))

    out = []
    for row, text in enumerate(TEXTS):
        tried = [edit(text, slot, ord(" "), alternative=-1) for slot in slots[0, row].tolist()]
        slot = int(slots[0, row, best([value(one, row) for one in tried])])
        tried = [edit(text, slot, ALPHABET[place], alternative=-1) for place in chars[0, row].tolist()]
        out.append(tried[best([value(one, row) for one in tried])])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="any that tether.load takes; a small one with random weights if not given")
    parser.add_argument("--rho", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = create("small").eval() if given.model is None else tether.load(given.model)
    encode, asked = encode_read(model), 2 * given.rho * len(TEXTS)
    anchors, generator = encode(list(TEXTS)), torch.Generator().manual_seed(0)
    slots = torch.stack([torch.randperm(slot_count(text), generator=generator)[: given.rho] for text in TEXTS])[None]
    chars = torch.stack([torch.randperm(len(ALPHABET), generator=generator)[: given.rho] for _ in TEXTS])[None]
    ours, theirs = [], []
    for _ in range(given.rounds):
        start = time.process_time()
        found = leaf_attack(encode, TEXTS, anchors, rho=given.rho, slots=slots, chars=chars)
        ours.append(time.process_time() - start)
        start = time.process_time()
        expected = loop(model, anchors, slots=slots, chars=chars)
        theirs.append(time.process_time() - start)
        assert list(found.texts) == expected, (found.texts, expected)
    ratios = sorted(other / own for own, other in zip(ours, theirs, strict=True))
    print(f"{len(TEXTS)} texts, rho {given.rho}: {found.encodings} different candidates of {asked}, equal results")
    print(f"together {min(ours):.2f} CPU-s, one by one {min(theirs):.2f}: {statistics.median(ratios):.1f} times faster")
    print(f"(from {ratios[0]:.1f} to {ratios[-1]:.1f} in {given.rounds} rounds)")
    plain = random_typos(encode, TEXTS, anchors, tries=2 * given.rho, generator=generator)
    one = random_typos(encode, TEXTS, anchors, tries=1, generator=generator)
    for name, attack in (("leaf", found), ("best of random typos", plain), ("one random typo", one)):
        print(f"{name}: squared distance {float(attack.trace[0].values.mean()):.4f}, {attack.encodings} encodings")


if __name__ == "__main__":
    main()
