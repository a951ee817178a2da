"""What other libraries would report to their makers is off, unless the environment asks for it."""

from __future__ import annotations

import os

_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime from 1.29 on: events, an identifier and a store in the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
}


def telemetry_off() -> None:
    """Turn it off where the environment says nothing of it; call it before onnxruntime or Ray is imported."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
