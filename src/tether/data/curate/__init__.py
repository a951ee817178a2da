"""Which pairs of a pool are kept."""
