"""Metadata matching, balancing and whole curation against the official MetaCLIP rules.

    python benchmarks/metaclip.py            # about 3 minutes on one core
    python benchmarks/metaclip.py --quick    # about 30 seconds

The baseline is the official sub-string rule (a test of every spaced entry in every spaced caption); the peer is
pyahocorasick used as the official code uses it (one ``iter`` for each caption, entry ids in a set). Each round runs
every variant once, in rotating order, in one thread; times are processor time of this process, and all variants must
find the same matches. Captions have about 75 characters. The last part curates
a generated Parquet pool with ``curate``.

Last measured in full (five rounds, a million pairs) on a quiet two-core x86 machine, Python 3.11, pyahocorasick 2.3,
pyarrow 26; captions a second, and how many times the naive rule and pyahocorasick (medians):

    entries   pyahocorasick   tether, list              tether, Arrow column      one by one
      2,048   326,599         523,412 (x77, x1.60)      597,827 (x87, x1.82)      162,117 (x24, x0.49)
     20,000   175,127         388,441 (x545, x2.19)     444,985 (x610, x2.41)     97,921 (x138, x0.55)
    200,000    67,063         261,397 (x4,656, x3.85)   270,511 (x4,774, x3.99)   49,022 (x875, x0.73)

Spreads: list x1.55..1.67, x2.14..3.81, x3.66..5.59 of pyahocorasick. Balancing: probabilities 30.9 M, numpy draws
6.0 M, Python draws 1.7 M captions a second. Whole runs from Parquet: 61,994 pairs a second at 10,000 pairs, 92,624 at
100,000, 93,088 at a million; resident peak 385, 397 and 397 MiB.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ahocorasick
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tether.data.curate import Balancer, MetaClipCurator, SubstringMatcher, entry_counts
from tether.data.curate.engine.run import curate
from tether.data.curate.metaclip.spacing import spaced
from tether.data.curate.pools.opening import open_pool

SYLLABLES = [first + last for first in "bdfgklmnprstvz" for last in "aeiou"]
CASES = ((2_048, 6_000, 100), (20_000, 12_000, 20), (200_000, 12_000, 3))  # entries, words, captions for the naive rule


def make_corpus(captions: int, *, entries: int, words: int, seed: int = 7) -> tuple[list[str], list[str]]:
    """Entries and captions over one vocabulary with a Zipf head; an eighth of the captions hold marks or line ends."""
    rng = np.random.default_rng(seed)
    vocabulary: dict[str, None] = {}
    while len(vocabulary) < words:
        vocabulary.setdefault("".join(rng.choice(SYLLABLES, rng.integers(1, 4))))
    known = np.array(list(vocabulary))
    weights = 1.0 / np.arange(1, words + 1) ** 1.05
    weights /= weights.sum()
    listed: dict[str, None] = dict.fromkeys(map(str, range(100)))
    for word in known[rng.permutation(words)[: int(entries * 0.6)]]:
        listed.setdefault(str(word))
    while len(listed) < entries:
        drawn = rng.choice(known, (20_000, 3), p=weights)
        for row, size in zip(drawn, rng.integers(2, 4, len(drawn)), strict=True):
            if len(listed) < entries:
                listed.setdefault(" ".join(row[:size]))
    texts = []
    for _ in range(captions):
        row = rng.choice(known, rng.integers(3, 22), p=weights)
        mark = (", " if rng.random() < 0.5 else "\n") if rng.random() < 0.125 else " "
        texts.append(" ".join(row[:-1]) + mark + row[-1])
    return list(listed), texts


def naive(entries: list[str], captions: list[str]) -> list[list[int]]:
    wrapped = [f" {entry} " for entry in entries]
    found = []
    for caption in captions:
        text = spaced(caption)
        found.append([index for index, entry in enumerate(wrapped) if entry in text])
    return found


def automaton(entries: list[str]) -> ahocorasick.Automaton:
    made = ahocorasick.Automaton()
    for index, entry in enumerate(entries):
        made.add_word(f" {entry} ", index)
    made.make_automaton()
    return made


def official(made: ahocorasick.Automaton, captions: list[str]) -> list[list[int]]:
    return [list({index for _, index in made.iter(spaced(caption))}) for caption in captions]


def rounds(variants: dict[str, Callable[[], object]], *, count: int) -> dict[str, list[float]]:
    """Seconds of processor time of each variant in each round; the order rotates."""
    names = list(variants)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            variants[name]()
            taken[name].append(time.process_time() - start)
    return taken


def timed(function: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def matching(captions: int, *, count: int) -> list[dict]:
    results = []
    for size, words, few in CASES:
        entries, texts = make_corpus(captions, entries=size, words=words)
        build, matcher = timed(lambda entries=entries: SubstringMatcher(entries))
        build_peer, made = timed(lambda entries=entries: automaton(entries))
        column = pa.array(texts)
        indptr, ids = matcher.match_many(texts)
        rows = [row.tolist() for row in np.split(ids, indptr[1:-1])]
        assert [sorted(row) for row in official(made, texts)] == rows
        assert naive(entries, texts[:few]) == rows[:few] == [matcher.match(text) for text in texts[:few]]
        taken = rounds(
            {
                "naive": lambda e=entries, t=texts[:few]: naive(e, t),
                "pyahocorasick": lambda m=made, t=texts: official(m, t),
                "tether, list": lambda m=matcher, t=texts: m.match_many(t),
                "tether, Arrow column": lambda m=matcher, t=column: m.match_many(t),
                "tether, one by one": lambda m=matcher, t=texts: [m.match(text) for text in t],
            },
            count=count,
        )
        seconds = {name: [s / (few if name == "naive" else captions) for s in each] for name, each in taken.items()}
        for name, each in seconds.items():
            to_naive = [a / b for a, b in zip(seconds["naive"], each, strict=True)]
            to_peer = [a / b for a, b in zip(seconds["pyahocorasick"], each, strict=True)]
            build_seconds = {"pyahocorasick": build_peer, "naive": 0.0}.get(name, build)
            results.append(
                {
                    "entries": size,
                    "variant": name,
                    "captions_per_second": 1 / statistics.median(each),
                    "times_naive": spread(to_naive),
                    "times_pyahocorasick": spread(to_peer),
                    "build_seconds": build_seconds,
                }
            )
    return results


def spread(ratios: list[float]) -> list[float]:
    """Median, least, greatest."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def balancing(captions: int, *, count: int) -> dict[str, float]:
    entries, texts = make_corpus(captions, entries=2_048, words=6_000)
    indptr, ids = SubstringMatcher(entries).match_many(texts)
    balancer = Balancer(t=100).fit(entry_counts(indptr, ids, n=len(entries)))
    taken = rounds(
        {
            "pair_prob": lambda: balancer.pair_prob(indptr, ids),
            "sample, numpy": lambda: balancer.sample(indptr, ids, random_state=0),
            "sample, python": lambda: balancer.sample(indptr, ids, random_state=random.Random(0)),
        },
        count=count,
    )
    return {name: captions / statistics.median(each) for name, each in taken.items()}


def curation(sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Pairs a second of a whole run from Parquet, pictures of 1 kB copied along, and the resident peak after it."""
    import resource

    results = []
    entries, texts = make_corpus(20_000, entries=20_000, words=12_000)
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            pool = Path(folder) / "pool.parquet"
            picture = np.random.default_rng(0).bytes(1_000)
            schema = pa.schema([("key", pa.string()), ("image", pa.binary()), ("caption", pa.string())])
            with pq.ParquetWriter(pool, schema) as writer:
                for start in range(0, rows, 10_000):
                    some = range(start, min(start + 10_000, rows))
                    columns = [[f"k{i}" for i in some], [picture] * len(some), [texts[i % len(texts)] for i in some]]
                    writer.write_table(pa.table(columns, schema=schema))
            steps = [("metaclip", MetaClipCurator(entries=entries, t=max(1, rows / 20_000)))]
            seconds, manifest = timed(
                lambda pool=pool, steps=steps, folder=folder: curate(
                    open_pool(str(pool)), steps=steps, out=Path(folder) / "out"
                )
            )
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            kept = manifest["pairs"]["kept"] / rows
            results.append({"rows": rows, "pairs_per_second": rows / seconds, "kept": kept, "peak_mib": peak})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer captions and rounds")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures there")
    options = parser.parse_args()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    captions, count = (4_000, 3) if options.quick else (20_000, 5)
    # First, so that its peak is its own.
    curated = curation((20_000,) if options.quick else (10_000, 100_000, 1_000_000))
    for row in curated:
        print(
            f"curate, {row['rows']:,} pairs from Parquet: {row['pairs_per_second']:,.0f} pairs/s, "
            f"kept {row['kept']:.0%}, peak {row['peak_mib']:,.0f} MiB"
        )
    print()
    matched = matching(captions, count=count)
    print(f"{'entries':>8} {'variant':<22} {'captions/s':>11} {'x naive':>24} {'x pyahocorasick':>20} {'build s':>8}")
    for row in matched:
        naive_, low, high = row["times_naive"]
        peer, peer_low, peer_high = row["times_pyahocorasick"]
        print(
            f"{row['entries']:>8} {row['variant']:<22} {row['captions_per_second']:>11,.0f} "
            f"{naive_:>8,.1f} ({low:,.1f}..{high:,.1f}){'':<2} {peer:>8.2f} ({peer_low:.2f}..{peer_high:.2f}) "
            f"{row['build_seconds']:>8.2f}"
        )
    balanced = balancing(captions, count=count)
    print("\nbalancing, captions/s:", ", ".join(f"{name} {rate:,.0f}" for name, rate in balanced.items()))
    if options.json:
        options.json.write_text(json.dumps({"matching": matched, "balancing": balanced, "curation": curated}, indent=2))


if __name__ == "__main__":
    main()
