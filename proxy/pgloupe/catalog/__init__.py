"""Reads the server's catalogs for the rules, over a connection of its own."""
