"""`python -m qbench`: train one cell or a grid of cells."""

import sys


def main() -> None:
    """The command; plain help does without Hydra."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        from qbench.train.conf import help_text

        print(help_text())
        return
    from qbench.train import cli

    cli.main()


if __name__ == "__main__":
    main()
