"""Makes the files beside it, with the last commit before methods moved to folders of their own; see README.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import tether
from encoders import word_tokenizer
from memory_rows import boxed, captions, damaged, squares, without_words
from older_files import COMMIT, STEPS, USES, dated, vectors
from tether.adapt.debias import DEBIASERS
from tether.core.errors import StoppedError
from tether.core.protocols import Tokenizer
from tether.models import Clip
from tether.models.convert.tokenizers import transformers_tokenizer
from tether.models.presets import configure
from tether.space import ESTIMATORS
from tether.tasks.retrieve.index import build_index
from tether.train import RunConfig, train
from tether.workflows.compress import compress

WORDS = ("a", "photo", "of", "small", "large", "red", "green", "blue", "square", "on", "wall", "good", "bad", "damaged")
CONTEXT, VOCABULARY = 12, 20
LOOK = {
    "views": {"image": {"want": "tokens"}, "text": {"want": "tokens"}},
    "heads": {"decoder": {"name": "causal_decoder", "look": "tokens", "width": 16, "layers": 1}},
    "terms": ["objective", {"name": "caption", "look": "tokens"}],
}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "run_of_losses": {
        "objective": {"name": "align_clip", "weighting": "none"},
        "clipper": "zclip",
        "optimizer": "stable_spam",
    },
    "run_of_heads": {"step": LOOK, "clipper": "autoclip"},
}
HEADS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "linear_head": (squares(24, size=16), {"name": "probe", "strength": 1.0}),
    "kernel_head": (
        squares(24, size=16),
        {"name": "debias", "attribute": "size", "n_features": 20, "n_code_features": 10, "gamma": (0.01, 0.01)},
    ),
    "grouping_head": (without_words(squares(8, size=16)), {"name": "grouping", "steps": 2, "batch_size": 4, "dim": 8}),
    "relation_head": (
        boxed(9),
        {"name": "relation", "steps": 2, "batch_size": 4, "dim": 8, "hidden": 8, "depth": 1, "rounds": 2},
    ),
    "sharpener_head": (
        without_words(squares(8, size=16)),
        {"name": "sharpen", "steps": 2, "views": 1, "batch_size": 2, "kernel": 3, "window": 3, "statistics": 6},
    ),
    "anomaly_head": (
        damaged(24),
        {"name": "anomaly_adapters", "epochs": 1, "length": 2, "hidden": 8, "templates": ["a {}"]},
    ),
    "quality_model": (
        without_words(squares(8)),
        {"name": "quality", "kinds": ["gaublur"], "steps": 2, "batch_size": 4},
    ),
    "lora_model": (
        squares(12, size=16),
        {"name": "lora", "rank": 2, "steps": 2, "batch_size": 6, "learning_rate": 0.02},
    ),
    "region_model": (
        boxed(12),
        {"name": "regions", "steps": 2, "batch_size": 6, "rank": 2, "learning_rate": 0.05, "as_boxes": 1.0},
    ),
}


def main() -> None:
    """Write every file, and what uses of it give."""
    code = Path(tether.__file__).parents[2]
    at = subprocess.run(["git", "rev-parse", "HEAD"], cwd=code, capture_output=True, text=True, check=True).stdout
    if not at.startswith(COMMIT):
        raise SystemExit(f"expected the code of {COMMIT}, got {at.strip()} in {code}")
    kept = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # names of what lies beside are written into some of the files
        make(Path())
        for path in Path().rglob(".lock*"):
            path.unlink()
        for one in filter(Path.is_dir, kept.iterdir()):
            shutil.rmtree(one)
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        uses = {name: use(Path(), name) for name, use in USES.items()}
    given = {f"{name}/{key}": np.asarray(value) for name, found in uses.items() for key, value in found.items()}
    np.savez_compressed(kept / "given.npz", **given)


def make(place: Path) -> None:
    """Write every file."""
    word_tokenizer(place / "words", words=WORDS)
    tokens = transformers_tokenizer(place / "words", context=CONTEXT, vocabulary=VOCABULARY)
    model = model_of(tokens)
    tether.save(model, place / "model")
    tether.save(model_of(tokens, moe={"blocks": [1], "experts": 2}), place / "experts_model")
    shutil.rmtree(place / "words")
    for name, (data, recipe) in HEADS.items():
        made = tether.adapt(model, data, recipe=recipe, keep=squares(6, size=16, seed=5))
        if made.head is not None:
            made.head.save(place / name)
        if made.model is not None:
            tether.save(made.model, place / name)
    (place / "pairs").mkdir()
    lines = ["file,caption"]
    for row in squares(8, size=16).rows:
        name = f"{row.key.replace(' ', '-')}.png"
        Image.fromarray(row.image // 64 * 64).save(place / "pairs" / name)
        lines.append(f"{name},{row.texts[0]}")
    (place / "pairs" / "captions.csv").write_text("\n".join([*lines, ""]))
    dated(place / "pairs")
    for name, settings in RUNS.items():
        stopped(place, name, settings)
    adapted = {"name": "caption_from_texts", "width": 16, "n_queries": 2, "steps": 2}
    tether.adapt(model, captions(8), recipe=adapted).captioner.save(place / "captioner")
    edits = [{"name": "gate_norm", "n": 1}, {"name": "octav", "bits": 4}, {"name": "norm_tweak", "lr": 0.001}]
    few = {"calibrate": squares(8, size=16, seed=1), "rows": 4, "data": squares(8, size=16), "bootstrap": 10}
    compress(model, edits, out=place / "compressed_model", **few)
    compress(model, out=place / "protected_model", protect=place / "key", share=0.01, **few)
    tether.embed(squares(6, size=16), model=place / "model", out=place / "vectors.parquet")
    build_index(str(place / "vectors.parquet"), out=str(place / "store"))
    rows, labels = vectors(), np.arange(6) % 2
    fitted = {
        "outlier_clipper": ESTIMATORS["outlier_clipper"]().fit(rows),
        "concept_direction": ESTIMATORS["concept_direction"]().fit(rows, labels.astype(float)),
        "linear_mmcl": ESTIMATORS["linear_mmcl"]().fit(rows, rows[:, :4]),
        "fairer_clip": DEBIASERS["fairer_clip"](n_features=20, n_code_features=10, random_state=0).fit(
            rows, labels, s=np.arange(6) // 3
        ),
    }
    for name, estimator in fitted.items():
        estimator.save(place / "estimators" / f"{name}.safetensors")


def model_of(tokens: Tokenizer, **vision: Any) -> Clip:
    """A very small model."""
    tower = {"width": 16, "layers": 2, "heads": 2, "hidden": 32}
    text = tower | {"context": CONTEXT, "vocabulary": VOCABULARY, "end": 1}
    model = Clip(configure("tiny", image_size=16, patch=4, dim=16, vision=tower | vision, text=text), tokenizer=tokens)
    model.initialise_(torch.Generator().manual_seed(0))
    return model.eval()


def stopped(place: Path, name: str, settings: Mapping[str, Any]) -> None:
    """A run that was stopped halfway."""
    config = RunConfig(
        data="pairs/captions.csv",
        model={"load": "model"},
        steps=STEPS,
        batch_size=4,
        precision="fp32",
        keep=1,
        **settings,
    )
    left = iter([False, True])
    try:
        train(config, folder=place / name, should_stop=lambda: next(left))
    except StoppedError:
        return
    raise SystemExit(f"{name}: did not stop")


if __name__ == "__main__":
    main()
