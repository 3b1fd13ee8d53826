"""A wire-level PostgreSQL proxy: fingerprints statements, finds N+1 queries, caches whitelisted reads, logs slow ones."""

from importlib.metadata import version

__version__ = version("pgloupe")


def compiled() -> bool:
    """The sans-I/O core runs compiled, and not as the Python that it is written in."""
    from pgloupe.wire import frames  # noqa: PLC0415 (most importers of the package need only its version)

    return not str(frames.__file__).endswith(".py")
