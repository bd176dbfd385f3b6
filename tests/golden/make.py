"""Write golden.json anew: `python -m tests.golden.make` in the root of the repository.

Figures are this package's own, on inputs that formulas give (`cases.py`). Before committing a new file, say in the
message which figures moved and why; `test_golden.py` first checks each against arithmetic written down a second time
(`formulas.py`), so that a wrong figure cannot be made golden.
"""

import json
from pathlib import Path

FILE = Path(__file__).with_name("golden.json")


def main() -> None:
    """Write the file."""
    from tests.golden.cases import everything

    rounded = {
        section: {name: [float(f"{value:.9g}") for value in values] for name, values in figures.items()}
        for section, figures in everything().items()
    }
    lines = ",\n".join(f'"{section}": {json.dumps(figures)}' for section, figures in rounded.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
