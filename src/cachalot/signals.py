"""The signal that tells a project which tables have changed."""

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
