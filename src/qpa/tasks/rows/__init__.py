"""Rows of files and data sets, read one after the other: what tasks learn from."""

from qpa.tasks.rows.faults import Faults
from qpa.tasks.rows.reading import Rows, read
from qpa.tasks.rows.row import Row
from qpa.tasks.rows.split import first_rows, shuffled_split

__all__ = ["Faults", "Row", "Rows", "first_rows", "read", "shuffled_split"]
