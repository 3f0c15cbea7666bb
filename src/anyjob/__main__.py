"""`python -m anyjob` is the `anyjob` command."""

from anyjob.cli import main

if __name__ == "__main__":
    main()
