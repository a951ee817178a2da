"""The first steps of a run once with each clipper: ``tether train --clipper compare``."""
