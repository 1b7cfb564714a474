"""What the data sets of face images have in common."""

import logging
import os
import pickle
import unicodedata
from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from mmhyperface.registry import TRANSFORMS
from mmhyperface.utils.errors import UserError

from .damage import DamagedImage, Skipped
from .pair_sets import pair_test_set

#: So many damaged images one after the other are more than some damage.
MOST_IN_A_ROW = 1000


# Where in a config the data set is that is being built, as far as is known.
_place: ContextVar[tuple[str, ...]] = ContextVar('_place', default=())
# The folder that the option data_root of that config moves, if it has one.
_shared_root: ContextVar[str | None] = ContextVar('_shared_root', default=None)


@contextmanager
def loader(name: str, shared_root: str | None = None) -> Generator[None, None, None]:
    """Lets data sets know which loader of a config they are built for.

    Args:
        name: of the loader.
        shared_root: ``data_root`` of the config itself.
    """
    tokens = _place.set((name,)), _shared_root.set(shared_root)
    try:
        yield
    finally:
        _place.reset(tokens[0])
        _shared_root.reset(tokens[1])


@contextmanager
def building(step: str) -> Generator[None, None, None]:
    """Lets a data set know that it is this entry of a loader or another data set.

    Advice in its errors then names the option that reaches it. An error without such
    advice tells which data set it is of.
    """
    token = _place.set((*_place.get(), step))
    try:
        yield
    except UserError as error:
        place = '.'.join(_place.get())
        message = str(error)
        if (
            _place.get()[0].endswith('_dataloader')
            and f'{_place.get()[0]}.' not in message
        ):
            error.args = (f'{message} (in {place})',)
        raise
    finally:
        _place.reset(token)


def option(name: str, loader: str, value: str = '...') -> str:
    """Advice to set an argument, with the way to do so from the command line.

    Args:
        name: of the argument of the data set that is being built.
        loader: where a config is likely to have it, where that is not known.
        value: to set it to.
    """
    place = _place.get()
    certain = bool(place) and place[0].endswith('_dataloader')
    if not certain:
        place = (loader, 'dataset', *place)
    given = name if value == '...' else f'{name}={value}'
    often = '' if certain else 'for instance '
    return f'{given} ({often}--cfg-options {".".join(place)}.{name}={value})'


class FaceDataset(BaseDataset):
    """Base of the data sets that are found on a disk.

    Its pipeline may use transforms of mmhyperface, mmpretrain and mmcv without a
    prefix, also where no default scope is set.

    Args:
        data_root: what relative paths start from; ``~`` is expanded.
        ann_file: relative to `data_root`, or absolute.
        data_prefix: folder of the images, relative to `data_root`, or absolute.
        pipeline: transforms or their configs.
        indices: only the first (or last, if negative) so many images, or these.
        on_error: 'raise' at an image that is damaged, or 'skip' to the next one; see
            :meth:`skipped` and :class:`SkippedImagesHook`, which tells of them at the
            end. Test sets cannot go without an image.
        metainfo, serialize_data, test_mode, lazy_init: as in mmengine.
    """

    _fully_initialized: bool

    #: Where a config has this data set, for advice in errors.
    LOADER = 'train_dataloader'

    def __init__(
        self,
        data_root: str = '',
        ann_file: str = '',
        data_prefix: str = '',
        pipeline: Sequence[dict | Callable] = (),
        indices: int | Sequence[int] | None = None,
        on_error: Literal['raise', 'skip'] = 'raise',
        metainfo: dict | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if on_error not in ('raise', 'skip') or (on_error == 'skip' and test_mode):
            raise self._error(
                f"on_error is 'raise' or, for training, 'skip'; got {on_error!r}. Set "
                f'{self._option("on_error", "raise")}'
            )
        self.on_error = on_error
        self._skipped: Skipped | None = None
        for name, path in (
            ('data_root', data_root),
            ('ann_file', ann_file),
            ('data_prefix', data_prefix),
        ):
            # mmengine would look for a client of what it takes for an address.
            if not isinstance(path, str | os.PathLike) or (
                '://' in str(path) or '\0' in str(path)
            ):
                raise self._error(
                    f'{name}: expected a path of this machine, got {path!r}. Set '
                    f"{self._option(name)}; on the command line, a folder 7 is './7'"
                )
        super().__init__(
            ann_file=os.fspath(ann_file),
            data_root=_expanded(data_root),
            data_prefix=os.fspath(data_prefix),
            pipeline=[
                TRANSFORMS.build(t) if isinstance(t, dict) else t for t in pipeline
            ],
            indices=indices,
            metainfo=metainfo,
            serialize_data=serialize_data,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    def full_init(self) -> None:
        """Load what the data set lists, unless this is done."""
        if not self._fully_initialized:
            super().full_init()
            if self.on_error == 'skip':
                self._skipped = Skipped(len(self))

    def __len__(self) -> int:
        self.full_init()
        return super().__len__()

    def _copy_without_annotation(self, memo: dict | None = None) -> 'FaceDataset':
        # mmengine keeps one memo for all copies, in which an object that is gone may
        # have had the id of one of ours: a subset would get the parts of another.
        return super()._copy_without_annotation({} if memo is None else memo)

    def __getitem__(self, idx: int) -> Any:
        """Image `idx` after the pipeline; the next good one with ``on_error='skip'``.

        Raises:
            DamagedImage: With ``on_error='raise'``; also if very many in a row are.
        """
        if self.on_error == 'raise':
            return super().__getitem__(idx)
        first = self._number(idx)
        assert self._skipped is not None
        error = None
        most = min(MOST_IN_A_ROW, len(self))
        for number in range(first, first + most):
            number %= len(self)
            try:
                return super().__getitem__(number)
            except DamagedImage as caught:
                self._skipped.add(number)
                error = caught
        raise self._error(f'{most} images in a row are damaged; the last one: {error}')

    def skipped(self) -> dict[int, str]:
        """What is wrong with the images that were passed over so far, by number."""
        if self._skipped is None:
            return {}
        reasons = {}
        for number in self._skipped.numbers().tolist():
            reasons[number] = 'it can be read by now'
            try:
                super().__getitem__(number)
            except DamagedImage as error:
                reasons[number] = str(error)
        return reasons

    def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]:
        """mmengine's layout: pickled items end to end, and where each ends.

        mmengine itself holds an array per item before it joins them, which for
        millions of items is most of the memory and of the time.
        """
        data = bytearray()
        ends = np.empty(len(self.data_list), np.int64)
        for i, item in enumerate(self.data_list):
            data += pickle.dumps(item, protocol=4)
            ends[i] = len(data)
        self.data_list.clear()
        return np.frombuffer(data, np.uint8), ends

    def _images_of(
        self, records: Iterable[tuple[int, str, str]], check_files: bool
    ) -> list[dict]:
        """Items of a list of (line or row, path, person), labelled by sorted names.

        Raises a UserError for no record, an image of two persons, a missing image.
        """
        paths: list[str] = []
        persons = array('q')  # of each path: order in which its name first came up
        ids: dict[str, int] = {}
        person_of: dict[str, int] = {}
        places = array('q')
        for place, path, name in records:
            path = os.path.join(self.img_prefix, path)
            person = ids.setdefault(name, len(ids))
            # One path can be written in several ways, though few are.
            odd = path.startswith('.') or '/.' in path or '//' in path
            image = os.path.normpath(path) if odd else path
            known = person_of.setdefault(image, person)
            if known != person:
                raise self._line_error(
                    place,
                    f"'{path:.300}' is listed under {name!r:.300}, and before under "
                    f'{list(ids)[known]!r:.300}. Take one of them out',
                )
            paths.append(path)
            places.append(place)
            persons.append(person)
        if not paths:
            raise self._error(f"'{self.ann_file}' lists no image")
        if check_files:
            self._require_files(paths, places)
        if len(person_of) < len(paths):
            self._warn(
                f'{len(paths) - len(person_of)} of the {len(paths)} images of '
                f"'{self.ann_file}' have been listed before"
            )
        del person_of  # before the items need the memory

        classes = sorted(ids)
        self._set_classes(classes)
        position = {name: label for label, name in enumerate(classes)}
        label_of = [position[name] for name in ids]
        return [
            dict(img_path=path, gt_label=label_of[person])
            for path, person in zip(paths, persons, strict=True)
        ]

    def _require_files(
        self, paths: Sequence[str], places: Sequence[int | str], advice: str = ''
    ) -> None:
        """Raises a UserError for a missing image, with its place in `ann_file`."""
        missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
        if missing:
            raise self._line_error(
                places[missing[0]],
                f"no image '{paths[missing[0]]:.300}'; {len(missing)} of {len(paths)} "
                f'are missing. Paths start from {self._option("data_prefix")}{advice}',
            )

    def _set_classes(self, classes: Sequence[str]) -> None:
        self._metainfo.update(classes=tuple(classes), num_classes=len(classes))
        # Unicode has two forms of 'ë', and a file system may prefer one.
        alike: dict[str, str] = {}
        twins = [
            f'{first!a} and {name!a}'
            for name in classes
            if (first := alike.setdefault(as_nfc(name).casefold(), name)) is not name
        ]
        if twins:
            self._warn(
                f'{len(twins)} identities have the name of another but for upper and '
                f'lower case or the form of a letter: {", ".join(twins[:5])}. They '
                'count as different people'
            )

    def _get_unserialized_subset(self, indices: int | Sequence[int]) -> Sequence:
        chosen: Any = ()
        try:
            if isinstance(self.data_list, range) and not isinstance(indices, int):
                chosen = np.array(self.data_list)[list(indices)]
            else:
                chosen = super()._get_unserialized_subset(indices)
        except (IndexError, TypeError):
            pass
        if not len(chosen):
            raise self._error(
                f'indices={indices!r:.100} of {len(self.data_list)} images: expected '
                'a number other than 0, or a list of numbers of images; set '
                f'{self._option("indices")}'
            )
        return chosen

    def _check_integer(
        self, name: str, lowest: int, highest: float = 2**32 - 1
    ) -> None:
        """Refuses an argument, by now an attribute, that is no such integer."""
        value = getattr(self, name)
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:
            limits = f'≥ {lowest}'
            if highest < np.inf:
                limits = f'from {lowest} to {highest}'
            raise self._error(
                f'{name}={value!r} is no integer {limits}; set {self._option(name)}'
            )
        setattr(self, name, int(value))

    def _set_pairs(self, name: str, source: str, **parts: Any) -> None:
        """Makes the images those of a set of pairs: see :func:`.pair_test_set`."""
        no_folds = self._option('folds', 'None')
        test_set = pair_test_set(source=source, no_folds=no_folds, **parts)
        self._set_test_set(name, test_set, source, 'pairs')

    def _set_test_set(self, name: str, test_set: dict, source: str, parts: str) -> None:
        """Makes the images those of a test set (see :mod:`.test_sets`) from `source`.

        Raises a UserError for `indices` or `on_error` that would tear apart its
        `parts`, in words ('pairs').
        """
        own = type(self).__name__
        if self._indices is not None:
            raise UserError(
                f'{source}: indices would leave {parts} without their images; take '
                f'indices out of {own}: set {self._option("indices", "None")}'
            )
        if self.on_error == 'skip':
            raise UserError(
                f"{source}: on_error='skip' would put other images into the {parts}; "
                f'take it out of {own}: set {self._option("on_error", "raise")}'
            )
        self._metainfo['test_sets'] = {name: test_set}

    def _number(self, idx: int) -> int:
        """Which image is meant, from 0; negative ones count from the end."""
        self.full_init()
        if not -len(self) <= idx < len(self):
            raise IndexError(f'image {idx} of {len(self)}')
        return int(idx) % len(self)

    def _warn(self, message: str) -> None:
        print_log(f'{type(self).__name__}: {message}', 'current', logging.WARNING)

    def _error(self, message: str) -> UserError:
        return UserError(f'{type(self).__name__}: {message}')

    def _line_error(self, place: int | str, message: str) -> UserError:
        """Of a line or row of `ann_file`; of a file and line, where it is a folder."""
        between = ':' if isinstance(place, int) else '/'
        return UserError(f'{self.ann_file}{between}{place}: {message}')

    def _option(self, name: str, value: str = '...') -> str:
        """See :func:`option`."""
        shared = _shared_root.get()
        if (
            name == 'data_root'
            and shared
            and (getattr(self, 'data_root', None) == _expanded(shared))
        ):
            return f'data_root (--cfg-options data_root={value})'
        return option(name, self.LOADER, value)


def _expanded(path: str | os.PathLike) -> str:
    return os.path.expanduser(os.fspath(path))


def as_extensions(extensions: str | Sequence[str]) -> tuple[str, ...]:
    """('jpg', '.PNG') -> ('.jpg', '.png'), to be compared in lower case."""
    if isinstance(extensions, str):
        extensions = (extensions,)
    known = [e.lower().lstrip('*.') for e in extensions or () if isinstance(e, str)]
    if not known or not all(known) or len(known) < len(extensions):
        raise UserError(
            f"extensions: expected some, as ['jpg', 'png'], got {extensions!r}"
        )
    return tuple('.' + extension for extension in known)


def as_nfc(name: str) -> str:
    """With one code for a letter and its accent, as Linux and Windows write them."""
    return unicodedata.normalize('NFC', name)
