"""``rf.publish``: purify a workspace by one method, as ``raffinate purify`` does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cards.card import write_card
from purifiers import run
from schemas.workspace import Workspace

if TYPE_CHECKING:
    from purifiers.base import Purified, Purifier
    from schemas.corpus import Corpus


def publish(
    workspace: Workspace | str | os.PathLike[str], purifier: Purifier, *, folds: int = run.FOLDS, seed: int = 0
) -> tuple[Corpus, Purified]:
    """`purifiers.run.publish`, and bring the card up to date: through it `datasets` finds the rows.

    Args:
        workspace: one that is open, or its folder.
        purifier: an unfitted method.
        folds: see `purifiers.run.purify`.
        seed: likewise.

    Raises:
        InputError: see `purifiers.run.publish` and `cards.card.write_card`.
        WorkspaceError: likewise, or the folder is no workspace.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
    done = run.publish(opened, purifier, folds=folds, seed=seed)
    write_card(opened)
    return done
