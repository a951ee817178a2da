"""What is shown, as words or codes: images turned back into what a generator is told."""
