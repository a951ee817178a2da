"""A paper's check measured over paired seeds, its verdict, and the pages that show it."""
