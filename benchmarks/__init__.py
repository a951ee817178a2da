"""Comparisons with other libraries, each a script; a package of its own, as others install one of this name."""
