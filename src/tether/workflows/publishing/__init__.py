"""What ``tether push`` is made of: facts of a run, folders that other libraries open, a model card, the hub."""
