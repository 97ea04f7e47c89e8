"""`python -m qbench.report DIR [DIR ...]`: print the table of the runs and write table.csv."""

import argparse
from pathlib import Path

from qbench.records import RunFolderError
from qbench.report import load
from qbench.report.table import print_table, write_csv


def main(argv: list[str] | None = None) -> None:
    """Print one table over all folders; every sweep folder gets its own table.csv."""
    parser = argparse.ArgumentParser(
        prog="python -m qbench.report",
        description="Print a table of runs; every sweep folder gets a table.csv.",
    )
    parser.add_argument(
        "dirs", nargs="+", type=Path, metavar="DIR", help="a sweep folder or a run folder"
    )
    args = parser.parse_args(argv)
    try:
        run_dirs = load.find_run_dirs(args.dirs)
    except RunFolderError as error:
        parser.exit(2, f"{error}\n")
    print_table(run_dirs)
    try:
        for sweep_dir in dict.fromkeys(run_dir.absolute().parent for run_dir in run_dirs):
            write_csv(sweep_dir)
    except OSError as error:
        parser.exit(1, f"table.csv could not be written: {error}.\n")


if __name__ == "__main__":
    main()
