"""What `python -m qbench.report` does on request; each option loads its own libraries."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qbench.records import RunFolderError
from qbench.report import reference
from qbench.report.folders import Cell


def add_options(parser: argparse.ArgumentParser) -> None:
    """--paper, --wandb with --sync, --reference and --against."""
    parser.add_argument(
        "--paper", action="store_true", help="write paper.html: the seed paper, side by side"
    )
    parser.add_argument(
        "--wandb", action="store_true", help="save a Weights & Biases Report of the runs"
    )
    parser.add_argument(
        "--sync", action="store_true", help="with --wandb: upload runs logged offline first"
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="publish small copies in multirun/reference/NAME"
    )
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="compare with the published cells in DIR"
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done whatever the cells are, before any work.

    Raises:
        PublishError: a bad name, or nothing to compare with.
    """
    if args.reference is not None:
        reference.check_name(args.reference)
    if args.against:
        reference.load(args.against)


def run(args: argparse.Namespace, cells: Sequence[Cell], folder: Path) -> int:
    """Do what was asked for, each whatever becomes of the others; returns the exit code.

    Args:
        args: with the options of `add_options`.
        cells: all cells of the command.
        folder: where a page is written.
    """
    codes = [0]
    if args.paper:
        codes.append(_write_paper(cells, folder))
    if args.reference is not None:
        codes.append(_publish(cells, args.reference))
    if args.against:
        codes.append(_check(cells, args.against))
    if args.wandb:
        codes.append(_save_wandb(cells, sync=args.sync))
    return max(codes)


def _write_paper(cells: Sequence[Cell], folder: Path) -> int:
    from qbench.report import paper, paper_page

    try:
        print(f"The paper, side by side: {paper_page.write(cells, folder)}")
    except (paper.PaperError, RunFolderError) as error:
        return _refuse(error, 2)
    return 0


def _publish(cells: Sequence[Cell], name: str) -> int:
    try:
        print(f"Published: {reference.publish(cells, name)}")
    except reference.PublishError as error:
        return _refuse(error, 2)
    return 0


def _check(cells: Sequence[Cell], published: Path) -> int:
    try:
        passes, sentences = reference.check(cells, reference.load(published))
    except reference.PublishError as error:
        return _refuse(error, 2)
    print("\n".join(sentences))
    return 0 if passes else 1


def _save_wandb(cells: Sequence[Cell], *, sync: bool) -> int:
    from qbench.report import wandb

    try:
        for address in wandb.publish(cells, sync=sync):
            print(f"Weights & Biases Report: {address}")
    except wandb.WandbError as error:
        return _refuse(error, 1)
    return 0


def _refuse(error: Exception, code: int) -> int:
    print(error, file=sys.stderr)
    return code
