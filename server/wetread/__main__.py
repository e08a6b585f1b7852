"""Where the program begins.

Of this module the processes of the group get a copy, so it imports commands when it runs one only.
"""

from __future__ import annotations

import sys

from wetread.errors import WetreadError
from wetread.processes import prepare, said


def main() -> None:
    """Runs the command; an error is one line on standard error, and status 2 where settings are to blame."""
    if sys.argv[1:2] == ["serve"] and "--help" not in sys.argv:
        prepare("wetread.preloaded")  # beside the import of the commands, which takes as long
    from wetread.commands.tree import cli

    try:
        cli()
    except* WetreadError as group:
        sys.exit(said(group))


if __name__ == "__main__":
    main()
