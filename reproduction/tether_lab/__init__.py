"""Who said so, and does it hold here: a card for each paper, its test bed, and what measures and prints the result."""
