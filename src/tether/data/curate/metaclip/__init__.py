"""Balancing by metadata: MetaCLIP and MetaCLIP 2."""
