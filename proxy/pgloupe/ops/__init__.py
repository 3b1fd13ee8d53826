"""What an operator sees: slow log, statistics."""
