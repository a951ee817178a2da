"""What a run's folder holds besides the model: the names of its files."""

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS, BEST = "checkpoints", "best"
ENVIRONMENT = "environment.json"
SUMMARY = "summary.json"
BAD_ROWS = "bad_rows.jsonl"
COMPARE, COMPARE_JSON, COMPARE_PAGE = "compare", "compare.json", "compare.html"
