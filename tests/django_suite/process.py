"""One process of Django's tests: ``python -m tests.django_suite.process MODULE …`` in Django's own tests/.

Everything else it is told by the variables ``DJANGO_SUITE_*``. It runs Django's runtests.py as a module, for
that knows how to put the modules into INSTALLED_APPS; cachalot becomes one more of the apps that are always
installed.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(modules: Sequence[str]) -> int:
    """Run modules.

    :returns: 0; how the tests ended is in the file of results.
    """
    with tempfile.TemporaryDirectory(prefix="django_") as folder:
        # Django's tests share files below TMPDIR, and runtests.py sets it only when it is a script.
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        runtests = importlib.import_module("runtests")
        if os.environ["DJANGO_SUITE_CACHALOT"] == "1":
            runtests.ALWAYS_INSTALLED_APPS.append("cachalot")
        runtests.django_tests(
            verbosity=1,
            interactive=False,
            failfast=False,
            keepdb=False,
            reverse=False,
            test_labels=list(modules),
            debug_sql=False,
            parallel=1,
            tags=None,
            exclude_tags=None,
            test_name_patterns=None,
            start_at=None,
            start_after=None,
            pdb=False,
            buffer=True,
            timing=False,
            shuffle=False,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
