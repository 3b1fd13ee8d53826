"""Sans-I/O state of one frontend/backend pair."""
