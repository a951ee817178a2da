"""Rules for one pair at a time, and duplicates."""
