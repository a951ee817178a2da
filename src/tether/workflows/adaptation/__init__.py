"""The steps of ``tether adapt``: what the data are, which recipe fits, playing it, measuring before and after."""
