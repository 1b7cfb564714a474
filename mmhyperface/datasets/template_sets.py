"""What the test sets made of templates have in common: IJB-B and IJB-C.

A template is all that is known of a person at one occasion: some images, some of them
frames of one video, which is one medium. A data set tells a metric of them in
``metainfo['test_sets']``, a dict from the name of a set (see :mod:`.test_sets`) to ::

    dict(kind='templates',
         offset=0,                    # sample_idx of image 0 of this set
         num_images=N,
         template_ids=int64[N],       # of each image
         media_ids=int64[N],
         detector_scores=float32[N],  # how sure a detector was of the face
         protocol=TemplateProtocols)  # what is compared with what
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmhyperface.utils.errors import UserError, some

Ints: TypeAlias = npt.NDArray[np.integer]
Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TemplateProtocols:
    """What is compared with what. Templates are rows of the ascending distinct ids.

    The arrays are read-only, and a deep copy is the object itself: mmengine copies what
    a data set tells again and again, and here that can be 15.66 million pairs.

    Attributes:
        subjects: int64 [T], whose template it is, as far as galleries and probes tell;
            else -1.
        pairs: 1:1, rows int32 [P], rows int32 [P] and bool [P], of one person?
        probes: 1:N, rows int64 [Q] and their subjects int64 [Q].
        galleries: by name, rows int64 [G] and their subjects int64 [G], which are
            distinct, also between galleries. A subject has one template there.
    """

    subjects: Ints
    pairs: tuple[Ints, Ints, Bools] | None = None
    probes: tuple[Ints, Ints] | None = None
    galleries: Mapping[str, tuple[Ints, Ints]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [self.pairs or (), self.probes or (), *self.galleries.values()]
        for array in (self.subjects, *(array for part in parts for array in part)):
            array.flags.writeable = False

    def __deepcopy__(self, memo: dict) -> 'TemplateProtocols':
        return self


def subjects_of_templates(
    ids: Ints, parts: Mapping[str, tuple[Ints, Ints]], probes: str
) -> Ints:
    """Whose template each one is, int64 [T]; -1 where nothing tells.

    Args:
        ids: of the templates, int64 [T], for errors.
        parts: galleries and probes by where they come from, rows and subjects; each
            row once.
        probes: which of the parts is not a gallery.

    Raises:
        UserError: a template with two subjects; a subject with two templates in a
            gallery, or in two galleries; a template of a gallery that is a probe too.
    """
    subjects = np.full(len(ids), -1, np.int64)
    in_gallery = np.zeros(len(ids), bool)
    in_galleries: set[int] = set()
    for source, (rows, own) in parts.items():
        known = subjects[rows]
        other = ids[rows[(known >= 0) & (known != own)]]
        refuse(source, 'templates with another subject in another file', other)
        subjects[rows] = own
        if source == probes:
            continue
        distinct, counts = np.unique(own, return_counts=True)
        refuse(source, 'subjects with more than one template', distinct[counts > 1])
        shared = [s for s in distinct.tolist() if s in in_galleries]
        refuse(source, 'subjects that are in another gallery too', shared)
        in_galleries.update(distinct.tolist())
        in_gallery[rows] = True
    rows, _ = parts[probes]
    refuse(probes, 'probes that are in a gallery too', ids[rows[in_gallery[rows]]])
    return subjects


def refuse(source: str, what: str, ids: Sequence[int] | Ints) -> None:
    """Raises a UserError if there are such ids; `what` they are."""
    if len(ids):
        raise UserError(f'{source}: {what}: {some(ids)}')
