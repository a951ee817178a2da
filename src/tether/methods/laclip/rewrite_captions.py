"""Captions said in other words, as the last step of a recipe: more texts for each image, or others."""

from __future__ import annotations

from typing import Any, Literal, final

import pyarrow as pa

from tether.core.component import build
from tether.core.ranges import Count, checked
from tether.data.captions import REWRITERS, Rewriter
from tether.data.captions.rng import of_key
from tether.data.curate.engine.step import Gives, column_of
from tether.methods.laclip.dataset import one_line


@final
class RewriteCaptions:
    """Gives each caption rewrites, which training draws from (LaCLIP), or puts one rewrite in its place.

    Rewrites are drawn by a hash of the pair's key and caption, so any engine and any order write the same. Blank
    rewrites and repeats are left out; a caption without any stays as it is.

    Source: arXiv 2305.20088, section 4. Training draws with ``caption: rewritten`` (or ``random``).
    """

    columns: tuple[str, ...] = ()

    @checked
    def __init__(
        self,
        *,
        rewriter: str | dict[str, Any] = "template",
        count: Count = 4,
        mode: Literal["add", "replace"] = "add",
        seed: int = 0,
    ) -> None:
        """Take the settings.

        Args:
            rewriter: ``template``, ``augment`` or ``language_model``, with its settings; ``data.captions.REWRITERS``.
            count: rewrites of each caption (>= 1); ``replace`` writes one.
            mode: ``add`` keeps the caption first and adds rewrites; ``replace`` writes one in its place.
            seed: of the draws.
        """
        self.rewriter: Rewriter = build(rewriter, REWRITERS, where="rewrite_captions: rewriter")
        self._name = rewriter if isinstance(rewriter, str) else str(rewriter["name"])
        self.mode, self.seed = mode, seed
        self.count = count if mode == "add" else 1

    @property
    def gives(self) -> Gives:
        """``several`` texts where rewrites are added."""
        return "several" if self.mode == "add" else "one"

    @property
    def settings(self) -> dict[str, Any]:
        """Mode, count, seed, and the rewriter with its settings."""
        return {
            "rewriter": {"name": self._name, **self.rewriter.settings},
            "count": self.count,
            "mode": self.mode,
            "seed": self.seed,
        }

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        """(n,) lists: the caption and its rewrites, or one rewrite."""
        keys, texts = (column_of(rows, name).to_pylist() for name in ("key", "text"))
        made = [[None] if text is None else self._said(key, text) for key, text in zip(keys, texts, strict=True)]
        return pa.array(made, pa.list_(pa.string()))

    def _said(self, key: str, text: str) -> list[str]:
        if not text.strip():
            return [text]
        generator = of_key(f"{key}\x00{text}", seed=self.seed, salt="rewrite captions")
        found = map(one_line, self.rewriter.rewrite(text, count=self.count, generator=generator))
        new = [other for other in dict.fromkeys(found) if other and other != text]
        if self.mode == "replace":
            return new or [text]
        return [text, *new]
