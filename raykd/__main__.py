"""`python -m raykd` is `raykd`."""

from raykd.cli import main

if __name__ == "__main__":
    main()
