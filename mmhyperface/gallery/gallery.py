"""People that faces are searched among."""

import importlib.util
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmhyperface.evaluation.functional.arrays import (
    Array,
    Floats,
    as_rows,
    check_lengths,
    unit_rows,
    unusable_rows,
)
from mmhyperface.utils.errors import UserError, some

from . import storage
from .calibration import threshold_at
from .ids import UNKNOWN, Origin, require_ids, require_list, require_new
from .matches import Match
from .rows import Members, OwnedRows
from .searching import Search

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
    each, and up to thrice that while images are enrolled. Several threads may search a
    gallery while nobody changes it.

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
        if score not in SCORES:
            raise UserError(f'score is {score!r}; it can be {SCORES}')
        self.fingerprint = fingerprint
        self.dimensions = dimensions
        self.score = score
        self._people: list[str] = []
        self._numbers: dict[str, int] = {}
        self._images: list[str] = []
        self._image_set: set[str] = set()
        self._origins: list[Origin] = []
        # Of the files that this gallery was read from or written to.
        self._stamps: dict[str, storage.Stamp] = {}
        self._enrolled = OwnedRows(dimensions)
        # True until the next change.
        self._known_members: Members | None = None
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
        return len(self._images)

    def images(self, person: str) -> list[str]:
        """Those of a person, in the order in which they were enrolled.

        Raises:
            UserError: If there is no such person.
        """
        return [self._images[row] for row in self._members.of(self._number(person))]

    @property
    def origins(self) -> dict[str, Origin]:
        """Of each image, by its id."""
        return dict(zip(self._images, self._origins, strict=True))

    @property
    def alignments(self) -> set[str]:
        """How the faces of the gallery were found, as far as it is known."""
        return {origin.alignment for origin in set(self._origins)} - {''}

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
        images = require_list(images, 'images')
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
        people, images = require_list(people, 'people'), require_list(images, 'images')
        rows = as_rows(embeddings, 'embeddings')
        known = [UNKNOWN] * len(images) if origins is None else list(origins)
        check_lengths(people=people, embeddings=rows, images=images, origins=known)
        require_ids(people, 'person')
        require_ids(images, 'image')
        require_new(images, self._image_set)
        self._require_usable(rows, 'embeddings', images)
        self._enrolled.reserve(len(rows))
        for person in people:
            if self._numbers.setdefault(person, len(self._people)) == len(self._people):
                self._people.append(person)
        owners = np.array([self._numbers[person] for person in people], np.int32)
        self._enrolled.add(rows, owners)
        self._images += images
        self._image_set.update(images)
        self._origins += known
        self._change()

    def remove(self, person: str, image: str | Collection[str] | None = None) -> int:
        """Remove one or some images of a person, or all, and whoever has none left.

        Returns:
            How many images were removed.

        Raises:
            UserError: If there is no such person, or an image is not of it.
        """
        number = self._number(person)
        rows = self._members.of(number)
        left = 0
        if image is not None:
            wanted = {image} if isinstance(image, str) else set(image)
            missing = wanted - {self._images[row] for row in rows}
            if missing:
                raise UserError(
                    f'{person!r} has no image {some(sorted(map(repr, missing)))} in '
                    'the gallery'
                )
            left = len(rows) - len(wanted)
            rows = rows[[self._images[row] in wanted for row in rows]]
        gone = set(rows.tolist())
        self._image_set.difference_update(self._images[row] for row in gone)
        self._images = [x for row, x in enumerate(self._images) if row not in gone]
        self._origins = [x for row, x in enumerate(self._origins) if row not in gone]
        self._enrolled.remove(rows)
        if not left:
            self._people.pop(number)
            self._numbers = {name: place for place, name in enumerate(self._people)}
            self._enrolled.renumber(number)
        self._change()
        return len(rows)

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
        matches: list[list[Match]] = [[] for _ in queries]
        if not len(self) or not len(queries):
            return matches
        wanted = min(int(top_k), len(self._people))
        found = self._search.find(queries, wanted, least, approximate)
        columns = (found.queries, found.owners, found.scores, found.rows)
        for query, owner, score, row in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            matches[query].append(Match(self._people[owner], score, self._images[row]))
        return matches

    def calibrate(self, strangers: Array, fpir: float) -> float:
        """The threshold at which a share of strangers is taken for somebody.

        :meth:`search` finds at most ⌊FPIR·n⌋ of these n strangers from it on. See
        :func:`.threshold_at`.

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
        found = self._search.find(queries, 1, -math.inf, approximate=False)
        return threshold_at(found.scores, fpir)

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
            self._people,
            self._images,
            self._enrolled.rows,
            self._enrolled.owners,
            self._origins,
        )
        stamp = storage.write(str(path), contents, overwrite, self._stamps.get(file))
        self._stamps[file] = stamp

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> 'FaceGallery':
        """
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
        gallery._people = contents.people
        gallery._numbers = {name: place for place, name in enumerate(contents.people)}
        gallery._images = contents.images
        gallery._image_set = set(contents.images)
        gallery._origins = contents.origins
        gallery._stamps[os.path.realpath(path)] = stamp
        gallery._enrolled.adopt(contents.rows, contents.owners)
        return gallery

    def _number(self, person: str) -> int:
        number = self._numbers.get(person)
        if number is None:
            raise UserError(f'there is no {person!r} in the gallery')
        return number

    def _queries(self, embeddings: Array) -> Floats:
        """float64 [Q, D] of length 1."""
        rows = as_rows(embeddings, 'embeddings')
        self._require_usable(rows, 'queries')
        return unit_rows(rows.astype(np.float64))

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
        if index not in INDEXES:
            raise UserError(f'index is {index!r}; it can be {INDEXES}')
        if index == 'auto':
            there = importlib.util.find_spec('faiss') is not None
            return there and len(self) >= AUTO_ROWS and queries <= AUTO_QUERIES
        return index == 'faiss'

    def _change(self) -> None:
        self._known_members = self._known_search = None

    @property
    def _members(self) -> Members:
        if self._known_members is None:
            owners = self._enrolled.owners
            self._known_members = Members(owners, len(self._people))
        return self._known_members

    @property
    def _search(self) -> Search:
        if self._known_search is None:
            self._known_search = Search(
                self._enrolled.rows,
                self._enrolled.owners,
                self._people,
                self._members,
                self.score == 'mean',
            )
        return self._known_search
