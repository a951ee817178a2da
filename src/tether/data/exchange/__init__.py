"""Findings about images in the formats of tools that label them: Label Studio and FiftyOne."""
