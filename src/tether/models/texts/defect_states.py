"""States of things that are as they should be and of damaged ones, and sentences around them.

Source: WinCLIP (arXiv 2303.14814), appendix A; AdaptCLIP (2505.09926) takes the same with the name ``object``.
"""

from __future__ import annotations

NORMAL = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
DEFECTIVE = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = tuple(
    f"a {kind}photo of {article} {{}}{purpose}."
    for kind, purpose in (
        ("cropped ", ""),
        ("close-up ", ""),
        ("bright ", ""),
        ("dark ", ""),
        ("jpeg corrupted ", ""),
        ("blurry ", ""),
        ("", ""),
        ("", " for visual inspection"),
        ("", " for anomaly detection"),
    )
    for article in ("a", "the")
) + tuple(f"a photo of {article} {size} {{}}." for size in ("small", "large") for article in ("a", "the"))
"""22 sentences; anomalib has 20 of them, one twice."""
