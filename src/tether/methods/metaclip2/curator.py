"""MetaCLIP 2 curation as one step of a recipe: find the language, match with its list, count, balance each alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.model_digest import texts_digest
from tether.core.ranges import checked
from tether.data.curate.engine.step import column_of, texts_of
from tether.data.curate.metaclip.balance import Threshold, tail_share
from tether.data.curate.metaclip.balanced_step import BalancedStep
from tether.data.curate.metaclip.matcher import Backend
from tether.data.curate.metaclip.metadata import read_entries
from tether.data.curate.steps.language import LanguageDetector
from tether.methods.metaclip2.balance import WorldBalancer
from tether.methods.metaclip2.multilingual import FALLBACK, WorldMatcher

_ENDINGS = (".txt", ".json")
_NAMED = 20  # languages without a list that the report names


class WorldCurator(BalancedStep):
    """Balances a pool in many languages: rare entries of every language are kept whole, frequent ones are thinned.

    A caption counts for the list of its own language. The reference language has the threshold t; each other
    language gets the one that leaves it the same share of tail matches.

    Source: arXiv 2507.22062 section 3. The released code draws one of an image's matching texts and then whether it
    stays; here every (image, caption) pair is drawn for itself, by a hash of its key, with the same probability
    (``choose_text`` is the other rule).
    """

    refusal = "no entry of the metadata of its language stands in the caption"

    @checked
    def __init__(
        self,
        *,
        entries: str | Mapping[str, str | Sequence[str]],
        t: Threshold,
        reference: str = "en",
        language: str | None = None,
        language_map: Mapping[str, str] | None = None,
        fallback: str = FALLBACK,
        backend: Backend = "auto",
    ) -> None:
        """Read the lists and build the matchers.

        Args:
            entries: a folder with ``en.txt``, ``zh.json``, ... (one entry a line, or a JSON list), or for each
                language its list or the path of its file.
            t: matches up to which an entry of the reference language is kept whole, at least 1.
            reference: the language whose tail share all take over; it needs a list.
            language: name of a column of the pool that holds the language; None: it is detected from the caption.
            language_map: from the codes in the pool, or of the detector, to names of lists; None: equal codes, or
                what is left of ``zh-TW`` without its region.
            fallback: name of the list for captions of any other language; without one they are refused.
            backend: of the matchers.
        """
        listed = _folder(Path(entries)) if isinstance(entries, str) else entries
        self.matcher = WorldMatcher(
            {code: read_entries(Path(each)) if isinstance(each, str) else each for code, each in listed.items()},
            language_map=language_map,
            fallback=fallback,
            backend=backend,
        )
        self.balancer = WorldBalancer(t=t, reference=reference)
        if reference not in self.matcher.matchers:
            known = ", ".join(self.matcher.codes)
            raise InputError(f"reference: expected a language with a list ({known}), got {reference!r}")
        self.language = language
        self.columns: tuple[str, ...] = () if language is None else (language,)
        self.digest = texts_digest(f"{code} {digest}" for code, digest in self.matcher.digests.items())
        self._detector = LanguageDetector()
        self._clear(sum(self.matcher.sizes))

    def _sizes(self) -> dict[str, int]:
        return dict(zip(self.matcher.codes, self.matcher.sizes, strict=True))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with the lists as their digests."""
        return {
            "entries_sha256": dict(self.matcher.digests),
            "entries": self._sizes(),
            "t": self.balancer.t,
            "reference": self.balancer.reference,
            "language": self.language,
            "language_map": self.matcher.language_map,
            "fallback": self.matcher.fallback,
        }

    def partial_fit(self, rows: pa.RecordBatch) -> WorldCurator:
        """Add the matches of one batch."""
        languages = self._languages(rows)
        found = self.matcher.match_many(texts_of(rows), languages=languages)
        self.hits += np.concatenate(list(found.counts().values()))
        names = np.array([*found.codes, ""])[found.code]
        self.rows.update(names.tolist())
        self.unmatched.update(names[np.diff(found.indptr) == 0].tolist())
        self.fell_back.update(languages.filter(pa.array(found.fell_back)).fill_null("").to_pylist())
        self._fitted = False
        return self

    def _probability(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        return self.balancer.pair_prob(self.matcher.match_many(texts_of(rows), languages=self._languages(rows)))

    def _languages(self, rows: pa.RecordBatch) -> pa.StringArray:
        """The language of each pair, in small letters and without its region unless a list is called just so."""
        if self.language is None:
            return self._detector.detect_many(texts_of(rows)).codes
        given = column_of(rows, self.language)
        kind = given.type.value_type if pa.types.is_dictionary(given.type) else given.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise InputError(f"column {self.language!r}: expected texts such as en, got {given.type}")
        coded = given.cast(pa.string()).dictionary_encode()
        names = [name if self.matcher.knows(name) else _primary(name) for name in coded.dictionary.to_pylist()]
        return pc.take(pa.array(names, pa.string()), coded.indices)

    def _by_language(self) -> dict[str, np.ndarray]:
        edges = np.cumsum(self.matcher.sizes)[:-1]
        return dict(zip(self.matcher.codes, np.split(self.hits, edges), strict=True))

    def _fit(self) -> None:
        reference, hits = self.balancer.reference, self._by_language()
        if not hits[reference].any():
            raise InputError(
                f"none of the {self.rows[reference]} captions in the reference language {reference!r} holds any "
                f"of its {len(hits[reference])} entries, so there is no tail share for the others to take "
                f"over; languages counted: {', '.join(sorted(filter(None, self.rows))) or 'none with a list'}"
            )
        self.balancer.fit({code: counts for code, counts in hits.items() if counts.any()})

    def report(self) -> dict[str, Any]:
        """The tail share, and for each language its rows, matches and threshold."""
        self._fit()
        languages = {}
        for code, hits in self._by_language().items():
            t = self.balancer.thresholds_.get(code)
            languages[code] = {
                "rows": self.rows[code],
                "unmatched": self.unmatched[code],
                "matches": int(hits.sum()),
                "entries": len(hits),
                "entries_hit": int(np.count_nonzero(hits)),
                "t": t,
                "tail_share": None if t is None else tail_share(hits, t=t),
            }
        fallen = sorted(self.fell_back.items(), key=lambda item: (-item[1], item[0]))
        return {
            "tail_share": self.balancer.share_,
            "languages": languages,
            "without_a_list": {"rows": self.fell_back.total(), "refused": self.rows[""]},
            "languages_without_a_list": dict(fallen[:_NAMED]),
        }


def _primary(name: str) -> str:
    """``zh`` of ``zh-TW`` or ``ZH_tw``."""
    return re.split("[-_]", name.strip().lower(), maxsplit=1)[0]


def _folder(folder: Path) -> dict[str, str]:
    """The file of each language in a folder; its stem is the language."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with one file for each language, such as en.txt")
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in _ENDINGS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise InputError(f"{folder}: two lists of {path.stem!r}: {Path(found[path.stem]).name} and {path.name}")
        found[path.stem] = str(path)
    if not found:
        raise InputError(f"{folder}: expected one file for each language, such as en.txt or zh.json; there is none")
    return found
