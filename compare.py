"""Compare finished runs with a table, figures and one page: the same as `ffbp compare`.

python compare.py runs=logs
"""

from ffbp.cli.commands import main

if __name__ == "__main__":
    main("compare")
