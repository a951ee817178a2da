"""The steps of ``tether caption``, and of ``tether adapt`` where a captioner comes of it."""
