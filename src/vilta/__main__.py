"""``python -m vilta`` and ``torchrun -m vilta`` do what ``vilta`` does."""

from vilta.cli import main

if __name__ == "__main__":
    main()
