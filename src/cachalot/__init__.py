"""An ORM cache for Django that keeps itself true.

Importing this package imports no models and needs no configured settings.
"""

from __future__ import annotations

from cachalot.conf import cachalot_settings

VERSION = (3, 0, 0)
__version__ = "3.0.0"

__all__ = ["VERSION", "__version__", "cachalot_settings"]
