"""Measurements of pgloupe against what stands beside it. `python -m bench` from the checkout; see README.md here."""
