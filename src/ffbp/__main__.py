"""The commands as a module: python -m ffbp train algo=ff."""

from ffbp.cli.commands import main

if __name__ == "__main__":
    main()
