"""People that faces are searched among."""

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmhyperface.evaluation.arrays import (
    Array,
    Floats,
    as_rates,
    as_rows,
    check_choice,
    check_lengths,
    floor_product,
    rounding,
    unit_rows,
    unusable_rows,
)
from mmhyperface.evaluation.highest import thresholds_among
from mmhyperface.utils.errors import UserError, some

from . import storage
from .rows import OwnedRows
from .search import Match, Search
from .storage import Origin, require_ids

if TYPE_CHECKING:
    from mmhyperface.weights.convention import Convention

SCORES = ('best', 'mean')
INDEXES = ('exact', 'faiss', 'auto')
# From here on FAISS is worth it for few queries of 512 values: for one it is 7 times as
# quick at 100,000 rows and 13 times at a million (18 against 228 ms of one thread), and
# 2 ms quicker at 10,000; for 16 it is twice as quick, for 100 no more, as the exact
# search shares its pass over the gallery among them. See
# tools/benchmarks/gallery_search.py.
AUTO_ROWS = 100_000
AUTO_QUERIES = 16


class FaceGallery:
    """People, each with the embeddings of one or more images, of one model.

    Scores are cosines. Embeddings are kept as float32 of length 1, in memory: 4·D bytes
    each, and up to thrice that while images are enrolled, twice while some are removed.
    Several threads may search a gallery while nobody changes it.

    A person's number is its place in the order in which people were first enrolled;
    equal scores are in this order.

    Args:
        fingerprint: Of the model that the embeddings are of.
        dimensions: D, of its embeddings.
        score: The score of a person is that of the ``best`` of its images, or of the
            ``mean`` of their unit embeddings, brought to length 1. The first search
            after a change takes longer with ``mean``.
    """

    def __init__(self, fingerprint: str, dimensions: int, score: str = 'best') -> None:
        if not isinstance(dimensions, int) or dimensions < 1:
            raise UserError(f'dimensions must be an integer from 1 on: {dimensions!r}')
        check_choice('score', score, SCORES)
        self.fingerprint = fingerprint
        self.dimensions = dimensions
        self.score = score
        # The number of each person.
        self._people: dict[str, int] = {}
        # Of each image, in the order of its rows.
        self._origins: dict[str, Origin] = {}
        self._enrolled = OwnedRows(
            np.empty((0, dimensions), np.float32), np.empty(0, np.int32)
        )
        # Of the files that this gallery was read from or written to.
        self._stamps: dict[str, storage.Stamp] = {}
        # True until the next change.
        self._known_search: Search | None = None

    @classmethod
    def of(cls, convention: 'Convention', score: str = 'best') -> 'FaceGallery':
        """An empty one for the embeddings of a model.

        Raises:
            UserError: If the model's weights are not loaded, so that its fingerprint
                is not known.
        """
        if not convention.fingerprint or not convention.embedding_size:
            raise UserError(
                'a gallery needs a model with weights: this convention tells no '
                'fingerprint or no embedding size'
            )
        return cls(convention.fingerprint, convention.embedding_size, score)

    @property
    def people(self) -> list[str]:
        """Their names, in the order in which they were first enrolled."""
        return list(self._people)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._origins)

    def images(self, person: str) -> list[str]:
        """Those of a person, in the order in which they were enrolled.

        Raises:
            UserError: If there is no such person.
        """
        rows = self._search.members.of(self._number(person))
        return [self._search.images[row] for row in rows]

    @property
    def origins(self) -> dict[str, Origin]:
        """Of each image, by its id."""
        return dict(self._origins)

    @property
    def alignments(self) -> set[str]:
        """How the faces of the gallery were found, as far as it is known."""
        return {origin.alignment for origin in self._origins.values()} - {''}

    def enrol(
        self,
        person: str,
        embeddings: Array,
        images: Sequence[str],
        origins: Sequence[Origin] | None = None,
    ) -> None:
        """Add images of one person, who may have some already.

        Args:
            embeddings: [n, D] of any lengths.
            images: [n], their ids, which the whole gallery has once.
            origins: [n], if they are known.

        Raises:
            UserError: If anything of it cannot be enrolled; then nothing is.
        """
        images = _listed(images, 'images')
        if not images:
            raise UserError(f'{person!r} has no images to enrol')
        self.enrol_many([person] * len(images), embeddings, images, origins)

    def enrol_many(
        self,
        people: Sequence[str],
        embeddings: Array,
        images: Sequence[str],
        origins: Sequence[Origin] | None = None,
    ) -> None:
        """Add images of many people at once.

        Args:
            people: [n], whom each image is of.
            embeddings: [n, D] of any lengths.
            images: [n], their ids, which the whole gallery has once.
            origins: [n], if they are known.

        Raises:
            UserError: If anything of it cannot be enrolled; then nothing is.
        """
        people, images = _listed(people, 'people'), _listed(images, 'images')
        rows = as_rows(embeddings, 'embeddings')
        known = [Origin()] * len(images) if origins is None else list(origins)
        check_lengths(people=people, embeddings=rows, images=images, origins=known)
        require_ids(people, 'person')
        require_ids(images, 'image')
        self._require_new(images)
        self._require_usable(rows, 'embeddings', images)
        new = dict.fromkeys(x for x in people if x not in self._people)
        numbers = {x: number for number, x in enumerate(new, len(self._people))}
        owners = [numbers[x] if x in numbers else self._people[x] for x in people]
        self._enrolled.add(rows, np.array(owners, np.int32))
        self._people |= numbers
        self._origins.update(zip(images, known, strict=True))
        self._known_search = None

    def remove(self, person: str, image: str | Collection[str] | None = None) -> int:
        """Remove one or some images of a person, or all, and whoever has none left.

        Returns:
            How many images were removed.

        Raises:
            UserError: If there is no such person, or an image is not of it.
        """
        there = self.images(person)
        chosen = there if image is None else image
        wanted = {chosen} if isinstance(chosen, str) else set(chosen)
        missing = wanted.difference(there)
        if missing:
            raise UserError(
                f'{person!r} has no image {some(sorted(map(repr, missing)))} in '
                'the gallery'
            )
        rows = self._search.members.of(self._number(person))
        self._enrolled.remove(rows[[name in wanted for name in there]])
        for name in wanted:
            del self._origins[name]
        if len(wanted) == len(there):
            number = self._people.pop(person)
            self._people = {name: place for place, name in enumerate(self._people)}
            owners = self._enrolled.owners
            owners[owners > number] -= 1
        self._known_search = None
        return len(wanted)

    def search(
        self,
        embeddings: Array,
        top_k: int = 5,
        threshold: float | None = None,
        index: str = 'exact',
    ) -> list[list[Match]]:
        """The people that faces are most like.

        Args:
            embeddings: [Q, D] of any lengths.
            top_k: At most so many people each.
            threshold: Only people that score so much or more; None: any.
            index: ``exact``; ``faiss``, which is quicker for few queries in a large
                gallery and may miss a person, and needs the extra ``faiss``; or
                ``auto``, which is ``faiss`` in galleries of AUTO_ROWS images or more
                for up to AUTO_QUERIES queries, where it is installed. The index
                is built by the first search after a change, in the time of hundreds
                of exact searches.

        Returns:
            For each query the matches, the best first; none for somebody unknown.
            Scores are the same whatever the index.

        Raises:
            UserError: If a query has no direction or another length, naming it.
        """
        queries = self._queries(embeddings)
        if not isinstance(top_k, int | np.integer) or top_k < 1:
            raise UserError(f'top_k must be an integer from 1 on, not {top_k!r}')
        if threshold is not None and math.isnan(threshold):
            raise UserError('the threshold is NaN')
        least = -math.inf if threshold is None else float(threshold)
        approximate = self._is_approximate(index, len(queries))
        if not len(self) or not len(queries):
            return [[] for _ in queries]
        wanted = min(int(top_k), len(self._people))
        return self._search.matches(queries, wanted, least, approximate)

    def calibrate(self, strangers: Array, fpir: float) -> float:
        """The threshold at which a share of strangers is taken for somebody.

        :meth:`search` finds at most ⌊FPIR·n⌋ of these n strangers from it on. The rule
        is that of :func:`mmhyperface.evaluation.functional.identify`: the
        (⌊FPIR·n⌋ + 1)-th highest score, which one must exceed by more than rounding.

        Args:
            strangers: Embeddings [n, D] of people who are not in the gallery.
            fpir: False positive identification rate, a fraction.

        Raises:
            UserError: If there are fewer than 1 / fpir strangers, or the gallery is
                empty.
        """
        queries = self._queries(strangers)
        if not len(self):
            raise UserError('the gallery is empty: nobody can be taken for somebody')
        (rate,) = as_rates([fpir], 'a false positive identification rate')
        count = len(queries)
        allowed = floor_product(np.array([rate]), count)
        if not allowed[0]:
            raise UserError(
                f'{count:,} strangers cannot tell of a false positive identification '
                f'rate of {rate:g}: give at least 1 / rate of them, or a higher fpir '
                '(--fpir)'
            )
        best = self._search.find(queries, 1, -math.inf, approximate=False)
        descending = np.sort(best.scores)[::-1]
        once = np.ones(count, np.int64)
        (highest,) = thresholds_among(descending, once, allowed, count)
        if math.isinf(highest):
            return -math.inf
        # The scores are of float64, but two runs of a network differ by this much.
        least = highest + rounding(np.empty(0, np.float32))
        return math.nextafter(least, math.inf)

    def save(self, path: str | Path, overwrite: bool = True) -> None:
        """Write it to a file, which has the old gallery or the new one at any time.

        A process that is killed leaves hidden files beside it, ``.NAME.PID.part`` and
        ``.NAME.lock``, which may be deleted. Where several processes change one file,
        :func:`.locked` lets each read, change and save it by itself.

        Raises:
            UserError: If the file cannot be written, is there and may not be replaced,
                or was changed by somebody else since this gallery was read from it or
                saved to it.
        """
        file = os.path.realpath(path)
        contents = storage.Contents(
            self.fingerprint,
            self.score,
            list(self._people),
            list(self._origins),
            self._enrolled.rows,
            self._enrolled.owners,
            list(self._origins.values()),
        )
        stamp = storage.write(str(path), contents, overwrite, self._stamps.get(file))
        self._stamps[file] = stamp

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> 'FaceGallery':
        """Read a gallery that was saved.

        Args:
            fingerprint: Of the model that it is to be used with.

        Raises:
            UserError: If the file is no gallery, is damaged, or is of another model.
        """
        contents, stamp = storage.read(str(path))
        if fingerprint is not None and contents.fingerprint != fingerprint:
            raise UserError(
                f'{path} is a gallery of another model: its fingerprint is '
                f'{contents.fingerprint[:8]}, that of the model {fingerprint[:8]}; '
                'enrol the images again with this model, in another file'
            )
        if contents.score not in SCORES:
            raise UserError(f'{path} is damaged: its score is {contents.score!r}')
        gallery = cls(contents.fingerprint, contents.rows.shape[1], contents.score)
        gallery._people = {name: place for place, name in enumerate(contents.people)}
        gallery._origins = dict(zip(contents.images, contents.origins, strict=True))
        gallery._enrolled = OwnedRows(contents.rows, contents.owners)
        gallery._stamps[os.path.realpath(path)] = stamp
        return gallery

    def _number(self, person: str) -> int:
        number = self._people.get(person)
        if number is None:
            raise UserError(f'there is no {person!r} in the gallery')
        return number

    def _queries(self, embeddings: Array) -> Floats:
        """float64 [Q, D] of length 1."""
        rows = as_rows(embeddings, 'embeddings')
        self._require_usable(rows, 'queries')
        return unit_rows(rows.astype(np.float64))

    def _require_new(self, images: Sequence[str]) -> None:
        there = sorted(self._origins.keys() & set(images))
        if there:
            raise UserError(
                f'the gallery has image {some(there)} already; remove it first '
                '(FaceGallery.remove), or give the new one another name'
            )
        twice = [image for image, count in Counter(images).items() if count > 1]
        if twice:
            raise UserError(f'image {some(twice)} is given more than once')

    def _require_usable(
        self, rows: Floats, what: str, names: Sequence[str] | None = None
    ) -> None:
        if rows.shape[1] != self.dimensions:
            raise UserError(
                f'{what} have {rows.shape[1]} values, those of the gallery '
                f'{self.dimensions}'
            )
        bad = unusable_rows(rows)
        if len(bad):
            first = f' ({names[bad[0]]})' if names else ''
            raise UserError(
                f'{what}: zero, NaN or infinite, counted from 0, is row {some(bad)}'
                f'{first}'
            )

    def _is_approximate(self, index: str, queries: int) -> bool:
        check_choice('index', index, INDEXES)
        if index == 'auto':
            there = importlib.util.find_spec('faiss') is not None
            return there and len(self) >= AUTO_ROWS and queries <= AUTO_QUERIES
        return index == 'faiss'

    @property
    def _search(self) -> Search:
        if self._known_search is None:
            self._known_search = Search(
                self._enrolled.rows,
                self._enrolled.owners,
                list(self._people),
                list(self._origins),
                self.score == 'mean',
            )
        return self._known_search


def _listed(names: Sequence[str], what: str) -> list[str]:
    """Refuses one string, which is a sequence of its letters."""
    if isinstance(names, str | bytes):
        raise UserError(f'{what} must be a list of names, not the string {names!r}')
    return list(names)
