"""The models of the programs with Django."""
