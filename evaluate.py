"""Test a finished run again, or ask what it sees in images of your own: the same as `ffbp evaluate`.

python evaluate.py run=logs/ff/2026-01-01_12-00-00-000000
python evaluate.py run=logs/ff/2026-01-01_12-00-00-000000 images=seven.png
python evaluate.py run=logs/ff/2026-01-01_12-00-00-000000 'images=[seven.png,digits/]'
"""

from ffbp.cli.commands import main

if __name__ == "__main__":
    main("evaluate")
