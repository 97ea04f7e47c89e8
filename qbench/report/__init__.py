"""Run folders in, tables out; imports no torch and nothing of training."""

from qbench.report.load import Cell, load_cell, load_cells

__all__ = ["Cell", "load_cell", "load_cells"]
