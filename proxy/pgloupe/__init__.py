"""A wire-level PostgreSQL proxy: fingerprints statements, finds N+1 queries, caches whitelisted reads, logs slow ones."""

from importlib.metadata import version

__version__ = version("pgloupe")
