"""`python -m acmix`."""

from acmix.cli import entry_point

if __name__ == "__main__":
    entry_point()
