"""Write a page on which one draws a digit and trained models answer: the same as `ffbp demo`.

python demo.py 'runs=[logs/ff/2026-01-01_12-00-00-000000,logs/bp/2026-01-01_12-00-00-000000]'
"""

from ffbp.cli.commands import main

if __name__ == "__main__":
    main("demo")
