"""Texts that an encoder reads in other ways: learnt vectors, prompts, new words and long texts."""
