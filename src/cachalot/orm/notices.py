"""Sends ``post_invalidation`` for what was committed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.apps import apps

from cachalot.analysis.rawsql import canonical_table
from cachalot.core.tags import NOTHING
from cachalot.signals import post_invalidation

if TYPE_CHECKING:
    from cachalot.engine.session import Session


logger = logging.getLogger("cachalot")


def announce(session: Session) -> None:
    """Send the signal once per table for everything committed on a connection since the last time."""
    if not session.notices:
        return
    notices, session.notices = session.notices, []
    if not post_invalidation.receivers:
        return
    total = NOTHING
    for effects in notices:
        total |= effects
    models = apps.get_models(include_auto_created=True)
    names = {canonical_table(model._meta.db_table): model._meta.db_table for model in models}
    tables = set(names.values()) if total.everything else set()
    tables |= {names.get(table, table) for table in total.tables}
    for table in sorted(tables):
        for receiver, answer in post_invalidation.send_robust(table, db_alias=session.connection.alias):
            if isinstance(answer, Exception):
                # What is committed is committed: the hooks of the user that come after must run.
                logger.error("A receiver of post_invalidation raised: %r", receiver, exc_info=answer)
