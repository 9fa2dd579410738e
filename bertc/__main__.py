"""Where the process begins: Ctrl-C ends it without a traceback, also while the rest is still imported."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and exit with its code."""
    try:
        from bertc import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
