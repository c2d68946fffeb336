"""Walk through the demonstration site with the cache off and on, and print what it brings.

Exit code 1 means that a page differed from its uncached twin, or that a write was not seen.
``ATLAS_QUICK=1`` makes a shorter walk.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import django


def main() -> int:
    """Walk through the site.

    :returns: the exit code.
    """
    sys.stdout.reconfigure(errors="replace")  # a difference may hold names that the terminal cannot show
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atlas_site.settings")
    # A database of its own, made anew each time: the one of the served site has its visitors' notes.
    os.environ.update(ATLAS_DEBUG="0", ATLAS_DB="walk.sqlite3")
    django.setup()
    return import_module("walking.run").run()  # its imports need the settings


if __name__ == "__main__":
    sys.exit(main())
