"""`python -m qbench.report DIR [DIR ...]`: a page, tables and figures of runs."""

import argparse
from pathlib import Path

from qbench.records import RunFolderError
from qbench.report import extras, folders, rows, sheets, stats, write
from qbench.report.reference import PublishError
from qbench.report.table import print_rows


def main(argv: list[str] | None = None) -> None:
    """Print one table over all folders, and write one report."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sync and not args.wandb:
        parser.exit(2, "--sync uploads for a Weights & Biases Report: add --wandb.\n")
    out = args.out or args.dirs[0] / write.FOLDER_NAME
    try:
        run_dirs = folders.find_run_dirs(args.dirs)
        write.check_out(out)
        extras.check(args)
    except (RunFolderError, write.OutError, PublishError) as error:
        parser.exit(2, f"{error}\n")
    made = rows.make(run_dirs, tolerance=1 - args.threshold)
    print_rows(made, tolerance=1 - args.threshold)
    fault = write.missing_packages()
    try:
        if fault:
            sheets.write(out, made)
        else:
            print(f"report: {write.write_report(made, out, args.threshold)}")
    except OSError as error:
        parser.exit(1, f"The report could not be written: {error}.\n")
    code = extras.run(args, [row.cell for row in made], out)
    if fault:
        parser.exit(1, f"{fault}\n")
    if code:
        parser.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qbench.report",
        description="Print a table of runs and write a report of them: index.html, cells.csv,"
        " seeds.csv, and every figure as SVG and PNG.",
    )
    parser.add_argument(
        "dirs", nargs="+", type=Path, metavar="DIR", help="a sweep folder or a run folder"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to write (default: report/ in DIR)"
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        default=1 - stats.TOLERANCE,
        metavar="SHARE",
        help="share of float's return that a network must keep (default: %(default)s)",
    )
    extras.add_options(parser)
    return parser


def _share(text: str) -> float:
    """A number above 0 and at most 1."""
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give a number such as 0.95")
    return share


if __name__ == "__main__":
    main()
