"""Whose centres are whose: the identities of a checkpoint and of a training set."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmhyperface.utils.errors import UserError

#: For messages: what to do where nobody can be mapped.
START_ANEW = 'let all start anew by --cfg-options load_centres=drop'


class Identities(NamedTuple):
    """The C identities that a head has, or had, a centre for."""

    owner: str  # what they are the identities of, for messages
    number: int  # C
    names: tuple[str, ...] | None  # ``metainfo['classes']``; None if not known
    # Of each of the sets: one, or those of a ``FaceSets``, whose names begin with the
    # number of the set.
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, owner: str, metainfo: dict | None, count: int) -> 'Identities':
        """Those that the ``metainfo`` of a training set tells, if it tells `count`."""
        metainfo = metainfo or {}
        names = metainfo.get('classes')
        if names is not None:
            names = tuple(map(str, names)) if len(names) == count else None
        sizes = tuple(metainfo.get('set_sizes') or (count,))
        return cls(owner, count, names, sizes if sum(sizes) == count else (count,))

    def sets(self) -> list[dict[Hashable, int]]:
        """Of each set the classes by name."""
        sets, start = [], 0
        for number, size in enumerate(self.sizes):
            names: Sequence[Hashable]
            if self.names is None:
                # A set without names is known by its size.
                names = [(size, i) for i in range(size)]
            else:
                prefix = f'{number}/' if len(self.sizes) > 1 else ''
                own = self.names[start : start + size]
                names = [name.removeprefix(prefix) for name in own]
            sets.append(_classes(names, start, self.owner))
            start += size
        return sets


def _classes(names: Sequence[Hashable], start: int, owner: str) -> dict[Hashable, int]:
    classes = {name: number for number, name in enumerate(names, start)}
    if len(classes) < len(names):
        numbered = enumerate(names, start)
        double = next(name for number, name in numbered if classes[name] != number)
        raise UserError(
            f'{owner} has two identities of the name {double!r}: their centres cannot '
            'be told apart; give one of them another name'
        )
    return classes


def places(here: Identities, there: Identities) -> Tensor | None:
    """Where the very same identities have their centres in a checkpoint.

    Returns:
        For each class [C] of `here` the one of `there`, -1 for who is not among them;
        None where all are the same in the same order, or names are not known.
    """
    if here.names is None or there.names is None or here.names == there.names:
        return None
    classes = _classes(there.names, 0, there.owner)
    _classes(here.names, 0, here.owner)
    return torch.tensor([classes.get(name, -1) for name in here.names])


def mapped(here: Identities, there: Identities) -> tuple[Tensor, str]:
    """Whose centres a training takes from a checkpoint of other identities, by name.

    A training set may be a ``FaceSets``, one or both of the two. People of the same
    name in different sets are different people: each set is taken for that one of the
    other side which has the most of its people.

    Returns:
        For each class [C] of `here` the one of `there`, or -1; and, for the log, how
        they were found.

    Raises:
        UserError: If names are missing, nobody is on both sides, or two sets have as
            many of the names.
    """
    several = len(here.sizes) > 1 or len(there.sizes) > 1
    named = here.names is not None and there.names is not None
    nameless = here.names is None and there.names is None
    if not named and not (nameless and several):
        owner = here if here.names is None else there
        raise UserError(
            f"load_centres='map' needs the names of {owner.number} identities of "
            f"{owner.owner}, whose metainfo['classes'] has none, or another number; "
            f'{START_ANEW}'
        )
    ours, theirs = here.sets(), there.sets()
    common = {
        (i, j): mine.keys() & other.keys()
        for i, mine in enumerate(ours)
        for j, other in enumerate(theirs)
    }
    origin = torch.full((here.number,), -1)
    twice = 0
    while most := max(map(len, common.values()), default=0):
        best = [pair for pair, names in common.items() if len(names) == most]
        i, j = _chosen(best, here, there)
        people = list(common[i, j])
        classes = torch.tensor([ours[i][name] for name in people])
        origin[classes] = torch.tensor([theirs[j][name] for name in people])
        rest = {p: names for p, names in common.items() if p[0] != i and p[1] != j}
        twice += sum(len(common[pair]) for pair in common.keys() - rest.keys()) - most
        common = rest
    if not (origin >= 0).any():
        first = [None if x.names is None else x.names[0] for x in (here, there)]
        raise UserError(
            f"load_centres='map': no identity of the training set ({first[0]!r}, ...) "
            f'is among those of {there.owner} ({first[1]!r}, ...); if they are others, '
            f'{START_ANEW}'
        )
    how = ' by name' if named else ' by number, for they have no names'
    if twice and named:
        how += f' ({twice} more have the name of one, but are in another set)'
    return origin, how


def _chosen(
    best: list[tuple[int, int]], here: Identities, there: Identities
) -> tuple[int, int]:
    """One of the pairs of sets that have the most in common."""
    if len(here.sizes) > 1 and len(there.sizes) > 1:
        # The number of the set is a part of the name.
        best = [pair for pair in best if pair[0] == pair[1]] or best
    first = best[0]
    for other in best[1:]:
        for side, a, b in zip((here, there), first, other, strict=True):
            # They share the set of the one side, and differ in that of the other.
            if a != b and (first[0] == other[0] or first[1] == other[1]):
                raise UserError(
                    f"load_centres='map': the sets {a} and {b} of {side.owner} have "
                    'as many people of the same names: whose centres are whose cannot '
                    'be told. Give the people of one of the two other names (of a '
                    'FaceFolder, other folder names)'
                )
    return first
