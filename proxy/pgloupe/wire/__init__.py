"""The protocol's bytes and their meaning; no state of a session, no I/O."""
