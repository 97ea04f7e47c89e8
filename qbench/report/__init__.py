"""Run folders in, tables and a page out; imports no torch and nothing of training."""

from qbench.report.folders import Cell, load_cell, load_cells
from qbench.report.frame import load

__all__ = ["Cell", "load", "load_cell", "load_cells"]
