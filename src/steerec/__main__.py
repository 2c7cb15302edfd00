"""`python -m steerec` is the command line."""

from steerec.cli import main

if __name__ == "__main__":
    main()
