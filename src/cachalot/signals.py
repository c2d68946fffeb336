"""The signals that tell a project which tables have changed, and what an audit has found."""

from __future__ import annotations

from typing import Final

from django.dispatch import Signal

#: Sent once per database alias and table after an invalidation: in a transaction after the commit and before
#: the project's own ``on_commit`` hooks, not at all after a rollback.
#:
#: The sender is the name of the table as the database has it, and ``db_alias`` is the database alias::
#:
#:     @receiver(post_invalidation, sender=Book._meta.db_table)
#:     def forget_pages(sender: str, *, db_alias: str, **kwargs: object) -> None: ...
#:
#: Keep ``**kwargs``: more may be sent later.
post_invalidation: Final = Signal()

#: Sent when an audited hit differs from the database although no write was announced: see
#: ``CACHALOT_AUDIT_RATE``.
#:
#: The sender is the database alias. ``sql`` and ``params`` are the statement (the parameters may be secret),
#: ``tables`` the names of its tables, ``tags`` what would have ended the result, ``difference`` a sentence
#: without values::
#:
#:     @receiver(audit_failed)
#:     def alarm(sender: str, *, sql: str, tables: frozenset[str], **kwargs: object) -> None: ...
#:
#: Keep ``**kwargs``: more may be sent later.
#:
#: .. versionadded:: 3.0
audit_failed: Final = Signal()
