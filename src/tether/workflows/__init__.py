"""The verbs as Python functions: one call from data or a model to a result that says what it means."""
