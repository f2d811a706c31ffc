"""`python -m qpa.analysis`: the command is `qpa.commands.analysis`."""

import sys

from qpa.commands.analysis import main
from qpa.commands.cli import one_line_errors

with one_line_errors():
    main(sys.argv[1:])
