"""`python -m fastlt` is the `fastlt` command."""

from .cli import main

if __name__ == "__main__":
    main()
