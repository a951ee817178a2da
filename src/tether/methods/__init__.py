"""One folder a paper: its parts, and ``method.toml``, which names and registers them; the kernel imports none."""
