"""Rows of files and data sets, read one after the other: what tasks learn from."""
