"""The command `knowledge-transfer`, and `python -m knowledge_transfer`."""

from __future__ import annotations

import sys

from knowledge_transfer.place import enter, refusal


def main() -> int:
    """Run a command.

    Returns:
        The exit status, as in `flows.__main__.main`.
    """
    refused = refusal(sys.platform)
    if refused is not None:
        print(f"knowledge-transfer: {refused}", file=sys.stderr)
        return 2
    enter()
    from flows.__main__ import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
