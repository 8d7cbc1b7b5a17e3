"""`python -m loradex` is the same as `loradex`."""

from loradex.cli.app import main

if __name__ == "__main__":
    main()
