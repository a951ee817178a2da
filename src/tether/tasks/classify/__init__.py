"""Name images: zero-shot classification with prompts, calibrated confidence and the right to abstain."""
