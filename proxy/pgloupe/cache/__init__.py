"""Answers kept as backend bytes, and what makes them unreachable."""
