"""`python -m qpa.report`: the command is `qpa.commands.report`."""

import sys

from qpa.commands.cli import one_line_errors
from qpa.commands.report import main

with one_line_errors():
    main(sys.argv[1:])
