"""Learning to read words by ``tether adapt``."""
