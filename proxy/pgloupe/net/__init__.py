"""Sockets: the only place that waits."""
