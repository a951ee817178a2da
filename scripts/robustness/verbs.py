"""Verbs that write, with small inputs: how each is run, and what it must leave."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROWS, DIM = 60, 16
Facts = dict[str, Any]
"""``rows``: key and content of each, in order; ``other``: the rest that must be equal."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One command.

    Attributes:
        name: of the scenario.
        make: fills the folder of inputs.
        command: its words; ``{inputs}`` is that folder, and it runs in the folder of its output.
        facts: what it left in the folder it ran in.
        resume: words added when it runs again.
        standing: what stands before the first run: a folder of the inputs, or nothing.
        store: whether a store at ``store`` must be the old or the new one at any time.
        may_refuse: whether a second run may be refused because the first was complete.
    """

    name: str
    make: Callable[[Path], object]
    command: tuple[str, ...]
    facts: Callable[[], Facts]
    resume: tuple[str, ...] = ()
    standing: str = "nothing"
    store: bool = False
    may_refuse: bool = False

    def start(self, inputs: Path) -> Path:
        """The folder that a run begins in, to be copied."""
        (inputs / "nothing").mkdir(exist_ok=True)
        return inputs / self.standing

    def run(self, inputs: Path, *, again: bool = False) -> None:
        """Run the command here; ends in SystemExit."""
        from tether.cli import main

        if "index" in self.command:
            _small_commits()
        main([word.format(inputs=inputs) for word in (*self.command, *(self.resume if again else ()))])

    def between(self, wanted: Facts) -> str:
        """What is wrong with the store that stands here after a kill, if anything."""
        if not self.store:
            return ""
        from tether.core.errors import TetherError

        old = Facts() if self.standing == "nothing" else json.loads(Path("old.json").read_text(encoding="utf-8"))
        try:
            found = store_facts()
        except TetherError as error:
            return "" if not old else f"the old store does not open: {error}"
        keys = {key for key, _ in found["rows"]}
        if len(keys) < len(found["rows"]):
            return "keys twice"
        if "merge" in self.command:  # updates may come before additions, but nothing is lost
            return "" if keys >= {key for key, _ in old["rows"]} else "rows of the old store are lost"
        return "" if found["rows"] in (old.get("rows"), wanted["rows"]) else f"a store of {len(keys)} rows opens"

    def compare(self, wanted: Facts, found: Facts) -> dict[str, str]:
        """Kinds of difference, each with an example."""
        if "unreadable" in found:
            return {"different": found["unreadable"]}
        before, after = (Counter(key for key, _ in facts["rows"]) for facts in (wanted, found))
        wrong: dict[str, str] = {}
        if lost := before - after:
            wrong["lost"] = f"{lost.total()} rows, such as {next(iter(lost))}"
        if more := after - before:
            wrong["twice"] = f"{more.total()} rows, such as {next(iter(more))}"
        if not wrong and (wanted["rows"] != found["rows"] or wanted["other"] != found["other"]):
            pairs = zip(wanted["rows"], found["rows"], strict=True)
            row = next((pair for pair in pairs if pair[0] != pair[1]), None)
            names = [name for name in wanted["other"] if wanted["other"][name] != found["other"].get(name)]
            wrong["different"] = f"{row or ''} {', '.join(names)}"
        return wrong

    def is_leftover(self, path: Path) -> bool:
        """Whether a file is something unfinished; files of locks stay, and those in a table are LanceDB's own."""
        if path.name in (".lock", ".lock.json") or any(part.endswith(".lance") for part in path.parts[:-1]):
            return False
        hidden = path.name.startswith(".") and path.name != ".curate"
        return hidden or path.name.endswith((".tmp", ".parts", ".lock")) or path.name.startswith("writing-")


def _small_commits() -> None:
    """Several commits for few rows, where the size of one is a constant of its module."""
    from tether.tasks.retrieve import index

    if hasattr(index, "ROWS_PER_COMMIT"):
        vars(index)["ROWS_PER_COMMIT"] = 64


def _lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _images(inputs: Path) -> None:
    from PIL import Image

    for n in range(ROWS):
        noise = np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(inputs / f"{n:02d}.png")
    (inputs / "07.png").write_bytes(b"broken")
    lines = "".join(f"{n:02d}.png,image {n},{n % 3}\n" for n in range(ROWS))
    (inputs / "pairs.csv").write_text("filepath,title,label\n" + lines, encoding="utf-8")


def _model(inputs: Path) -> None:
    import tether
    from tether.models import create

    _images(inputs)
    tether.save(create("tiny"), inputs / "model")


def _trained() -> Facts:
    from safetensors.numpy import load_file

    lines = [line for line in _lines(Path("run/metrics.jsonl")) if "loss" in line]
    rows = [[str(line["step"]), [line["loss"], line["grad_norm"], line["lr"], line["skipped"]]] for line in lines]
    bad = sorted(line["key"] for line in _lines(Path("run/bad_rows.jsonl")))
    summary = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    tensors = load_file("run/model.safetensors")  # not the file's bytes: its metadata have no order
    weights = hashlib.sha256(b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
    other = {"weights": weights, "bad rows": bad}
    return {"rows": rows, "other": other | {"steps": summary["steps"], "loss": summary["loss"]}}


def _pool(inputs: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    texts = [[" ".join(rng.choice(["red", "blue", "fox", "owl", "nothing"], 3))] for _ in range(200)]
    rows = [{"bytes": b"\x89PNG %d" % n, "path": f"{n}.png"} for n in range(200)]
    keys = [f"k{n}" for n in range(199)] + ["k0"]  # one comes twice
    pq.write_table(
        pa.table({"image": rows, "captions": texts, "key": keys}), inputs / "pool.parquet", row_group_size=50
    )
    steps = "- {name: exact_duplicates, of: [text]}\n- {name: metaclip, entries: [red, blue, fox, owl], t: 20}\n"
    (inputs / "recipe.yaml").write_text(f"steps:\n- tidy_text\n{steps}", encoding="utf-8")


def _curated() -> Facts:
    import pyarrow.parquet as pq

    rows = [
        [row["key"], row["captions"]]
        for part in sorted(Path("out").glob("part-*.parquet"))
        for row in pq.read_table(part, columns=["key", "captions"]).to_pylist()
    ]
    dropped = [path.read_text(encoding="utf-8") for path in sorted(Path("out/dropped").glob("*.csv"))]
    other = {"manifest": json.loads(Path("out/manifest.json").read_text(encoding="utf-8")), "dropped": dropped}
    other |= {"bad rows": sorted(line["key"] for line in _lines(Path("out/bad_rows.jsonl")))}
    return {"rows": rows, "other": other | {"datasheet": sorted(p.name for p in Path("out").glob("*.md"))}}


def _embedded() -> Facts:
    import pyarrow.parquet as pq

    rows = pq.read_table("e.parquet", columns=["key", "embedding", "texts"]).to_pylist()
    bad = sorted(line["key"] for line in _lines(Path("e.bad_rows.jsonl")))
    # a batch of another size may differ in the last bits
    near = [[row["key"], [np.round(row["embedding"], 4).tolist(), row["texts"]]] for row in rows]
    return {"rows": sorted(near), "other": {"bad rows": bad}}


def vectors(path: Path, first: int, last: int, *, seed: int) -> None:
    """Embeddings of keys from first to last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = np.random.default_rng(seed).standard_normal((last - first) * DIM).astype(np.float32)
    columns = {"key": [f"k{n}" for n in range(first, last)], "label": [f"seed {seed}"] * (last - first)}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), DIM)
    metadata = {"tether.digest": "abc", "tether.model": "tiny", "tether.format": "1"}
    pq.write_table(pa.table(columns, metadata=metadata), path)


def _embeddings(inputs: Path) -> None:
    from tether.tasks.retrieve.index import build_index

    vectors(inputs / "new.parquet", 150, 450, seed=1)
    vectors(inputs / "old.parquet", 0, 300, seed=0)
    (inputs / "standing").mkdir()
    build_index(inputs / "old.parquet", out=inputs / "standing" / "store")
    os.chdir(inputs / "standing")
    Path("old.json").write_text(json.dumps(store_facts()), encoding="utf-8")


def store_facts() -> Facts:
    """Rows of the store that stands here, sorted, and what a search finds."""
    from tether.tasks.retrieve.store import Store

    store = Store.open("store")
    mirror = store.warm()
    keys = [key for key, alive in zip(mirror.keys, mirror.vectors.alive, strict=True) if alive]
    labels = dict(zip(keys, store.records(keys, columns=["label"])["label"].to_pylist(), strict=True)) if keys else {}
    found = store.search(np.ones(DIM, np.float32), top=9)
    answer = [found.keys, [round(float(score), 5) for score in found.scores]]
    tables = sorted(path.name for path in Path("store").iterdir() if path.is_dir())
    other = {"rows": len(store), "search": str(answer), "tables": tables}
    return {"rows": sorted([key, labels[key]] for key in keys), "other": other}


_TRAIN = (
    "data={inputs}/pairs.csv",
    "size=tiny",
    "steps=8",
    "batch_size=8",
    "save_every=2",
    "threads=1",
    "clipper=zclip",
)
_INDEX = ("index", "{inputs}/new.parquet", "--out", "store")
_ALL = (
    Verb("train", _images, ("train", *_TRAIN, "ema=0.9", "--out", "run"), _trained, resume=("--resume",)),
    Verb("curate", _pool, ("curate", "{inputs}/pool.parquet", "--recipe", "{inputs}/recipe.yaml", "--out", "out",
                           "--workers", "1"), _curated),
    Verb("embed", _model, ("embed", "{inputs}/pairs.csv", "--model", "{inputs}/model", "--out", "e.parquet",
                           "--part-rows", "8", "--batch-size", "8"), _embedded),
    Verb("index new", _embeddings, _INDEX, store_facts, store=True, may_refuse=True),
    Verb("index replace", _embeddings, (*_INDEX, "--existing", "replace"), store_facts, (), "standing", True),
    Verb("index merge", _embeddings, (*_INDEX, "--existing", "merge"), store_facts, (), "standing", True),
)  # fmt: skip
VERBS = {verb.name: verb for verb in _ALL}
