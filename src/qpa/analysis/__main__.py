"""`python -m qpa.analysis`: the command is `qpa.commands.analysis`."""

from qpa.commands.analysis import script

script()
