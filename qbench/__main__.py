"""`python -m qbench`: train one cell or a grid of cells."""

import sys


def main() -> None:
    """The command; help does without Hydra."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        from qbench.train.conf import help_text

        print(help_text())
        return
    from qbench.train import cli

    cli.main()


if __name__ == "__main__":
    main()
