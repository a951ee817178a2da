"""Clippers in other people's training loops: one file for each library, which alone imports it."""
