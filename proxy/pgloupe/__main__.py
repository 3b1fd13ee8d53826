"""`python -m pgloupe`."""

from pgloupe.cli import main

if __name__ == "__main__":
    main()
