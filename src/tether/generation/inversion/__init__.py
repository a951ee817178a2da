"""What is shown, as words or codes, and back into images."""
