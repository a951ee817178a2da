"""Which pairs do I learn from: sets, sources, images, loading and curation."""

from tether.data.opening import SOURCES, open_source

__all__ = ["SOURCES", "open_source"]
