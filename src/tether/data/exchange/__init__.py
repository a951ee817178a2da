"""Findings about images in the formats of tools that label them: Label Studio and FiftyOne."""

from tether.data.exchange.suspect import Suspect

__all__ = ["Suspect"]
