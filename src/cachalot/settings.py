"""The import path of the settings that existing projects use; see :mod:`cachalot.conf`."""

from __future__ import annotations

from cachalot.conf import cachalot_settings

__all__ = ["cachalot_settings"]
