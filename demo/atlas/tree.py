"""The subdivisions of a country as a tree, made in Python from one query."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.models import Subdivision


@dataclass
class Branch:
    """A subdivision and those inside it."""

    subdivision: Subdivision
    inside: list[Branch] = field(default_factory=list)


def tree(subdivisions: Iterable[Subdivision]) -> dict[str, list[Branch]]:
    """Return the outermost subdivisions by kind, each with what is inside it.

    :param subdivisions: all those of one country; the order among brothers is kept.
    """
    branches = {one.pk: Branch(one) for one in subdivisions}
    roots: dict[str, list[Branch]] = defaultdict(list)
    for branch in branches.values():
        parent = branches.get(branch.subdivision.parent_id)
        if parent is None:
            roots[branch.subdivision.kind].append(branch)
        else:
            parent.inside.append(branch)
    return dict(roots)
