"""`python -m qbench`: train one cell or a grid of cells."""

import os
import sys


def print_to_the_end_or_until_closed(text: str) -> None:
    """Print; a reader such as `head` may leave before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The command; help does without Hydra."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        from qbench.train.conf import help_text

        print_to_the_end_or_until_closed(help_text())
        return
    from qbench.train import cli

    cli.main()


if __name__ == "__main__":
    main()
