"""`python -m qpa.report`: the command is `qpa.commands.report`."""

from qpa.commands.report import script

script()
