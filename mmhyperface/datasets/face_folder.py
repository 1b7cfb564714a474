"""A folder of identities: ``root/identity/image``."""

import errno
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from mmhyperface.registry import DATASETS

from .face_dataset import FaceDataset, as_extensions, as_nfc
from .readers.image_files import (
    IMAGE_EXTENSIONS,
    begins_as_image,
    is_image_name,
    is_of_no_account,
)
from .readers.text_lists import is_number, read_lines, split_fields

#: A person: the name of a folder, or the number it stands for.
Name = str | int
# Warnings of this process.
_warned: set[str] = set()


@DATASETS.register_module()
class FaceFolder(FaceDataset):
    """Images in one folder per person; the label is the person.

    Identities and images are sorted as plain strings ('s10' before 's2'). A label
    is the position among the identities that are left after `include`, `exclude` and
    `holdout`, so labels are 0 .. ``metainfo['num_classes']`` - 1 and their names are
    ``metainfo['classes']``. Hidden entries, and what systems and our tools leave in
    folders, are passed over; other entries that are no image, and identities without
    an image, are passed over with a warning.

    Args:
        data_root: the folder.
        extensions: of the files that count as images, in any case.
        include: only these identities. A number (``--cfg-options`` turns '0045' into
            45) stands for the one folder of that value. Or a list of names, as LFW's
            ``peopleDevTrain.txt``, relative to `data_root`: the first field of each
            line, but for a number of people in the first.
        exclude: not these identities, in the same notation.
        holdout: keep so many identities apart, drawn from `split_seed`.
        split: 'train' is all but the held out identities, 'test' only those.
        split_seed: another number holds out other identities.
        **kwargs: see :class:`FaceDataset`; without `ann_file` and `data_prefix`.

    Attributes:
        left_out: images that are passed over, as paths from `data_root`: those that lie
            in no folder of an identity, and files that begin as images do, but are not
            named so.

    Raises:
        UserError: nothing there, or options that do not fit what is there.
    """

    left_out: Sequence[str] = ()

    def __init__(
        self,
        data_root: str,
        extensions: str | Sequence[str] = IMAGE_EXTENSIONS,
        include: Name | Sequence[Name] | None = None,
        exclude: Name | Sequence[Name] | None = None,
        holdout: int = 0,
        split: Literal['train', 'test'] | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.extensions = as_extensions(extensions)
        self.include = include
        self.exclude = exclude
        self.holdout = holdout
        self.split = split
        self.split_seed = split_seed
        if bool(holdout) != bool(split) or split not in (None, 'train', 'test'):
            raise self._error(
                "holdout (a number of identities) and split ('train' or 'test') go "
                f'together, got holdout={holdout!r} and split={split!r}; set '
                f'{self._option("holdout")} and {self._option("split")}'
            )
        self._check_integer('holdout', 0)
        self._check_integer('split_seed', 0)
        for name in ('ann_file', 'data_prefix'):
            if kwargs.get(name):
                raise self._error(
                    f'a folder needs no {name}, got {kwargs[name]!r}; if it comes from '
                    'an inherited config, replace that data set as a whole with '
                    "dataset=dict(_delete_=True, type='FaceFolder', ...)"
                )
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        identities, strays = self._scan(self.data_root)
        lost = [name for name in strays if name.lower().endswith(self.extensions)]
        if not identities:
            content = 'only ' + _some(strays) if strays else 'nothing'
            raise self._error(
                f"no identity folders in data_root '{self.data_root}', {content}. "
                'Expected one folder per person: data_root/identity/image. Set '
                f'{self._option("data_root")}'
            )

        images = {}
        for name in self._chosen(identities):
            images[name], others = self._scan(
                os.path.join(self.data_root, name), self.extensions
            )
            strays += [os.path.join(name, other) for other in others]
        filled = [name for name, files in images.items() if files]
        if not filled:
            raise self._error(
                f"no image in {len(images)} identity folders of '{self.data_root}'. "
                f'Looked for {", ".join(self.extensions)}; to change that, set '
                f'{self._option("extensions")}'
            )
        lost += [name for name in strays if self._is_misnamed(name)]
        self.left_out = sorted(lost)
        self._passed_over(
            'images that lie in no folder of an identity, or are not named as images '
            '(move or rename them)',
            self.left_out,
        )
        rest = set(strays) - set(lost)
        self._passed_over(
            'entries that are no image by their names; for other names set '
            + self._option('extensions'),
            [name for name in strays if name in rest],
        )
        self._passed_over(
            'identities without an image', [n for n in images if not images[n]]
        )

        classes = self._side(filled)
        self._set_classes(classes)
        return [
            dict(img_path=os.path.join(self.data_root, name, file), gt_label=label)
            for label, name in enumerate(classes)
            for file in images[name]
        ]

    def _is_misnamed(self, name: str) -> bool:
        """Whether a file begins as an image, though its name does not say so."""
        path = os.path.join(self.data_root, name)
        return not is_image_name(name) and begins_as_image(path)

    def _passed_over(self, what: str, names: list[str]) -> None:
        if not names:
            return
        message = (
            f'passed over in {self.data_root!r}: {len(names)} {what}: {_some(names)}'
        )
        # The sets for training, validation and test are often of one folder.
        if message not in _warned:
            _warned.add(message)
            self._warn(message)

    def _scan(
        self, folder: str, extensions: tuple[str, ...] | None = None
    ) -> tuple[list[str], list[str]]:
        """Sorted names of the files with `extensions` (None: of the folders) and of
        what else is there."""
        wanted: list[str] = []
        others: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_of_no_account(entry.name):
                        continue
                    if extensions is None:
                        fits = _leads_to(entry, folder=True)
                    else:
                        fits = entry.name.lower().endswith(extensions) and _leads_to(
                            entry, folder=False
                        )
                    (wanted if fits else others).append(entry.name)
        except OSError as error:
            path = error.filename or folder  # or a link in it
            where = '' if os.path.isabs(path) else f' (in {os.getcwd()})'
            advice = 'Make it readable, or take it out'
            if path == self.data_root:
                advice = 'Expected data_root/identity/image; set ' + self._option(
                    'data_root'
                )
            raise self._error(
                f"cannot list '{path}'{where}: {error.strerror}. {advice}"
            ) from None
        return sorted(wanted), sorted(others)

    def _chosen(self, identities: list[str]) -> list[str]:
        chosen = set(identities)
        if self.include is not None:
            chosen = self._find(self.include, identities, 'include')
        if self.exclude is not None:
            chosen -= self._find(self.exclude, identities, 'exclude')
        if not chosen:
            raise self._error(
                'include and exclude leave none of the '
                f"{len(identities)} identities of '{self.data_root}'; set "
                f'{self._option("include")} or {self._option("exclude")}'
            )
        return [name for name in identities if name in chosen]

    def _find(
        self, wanted: Name | Sequence[Name], identities: list[str], option: str
    ) -> set[str]:
        names: Iterable = (wanted,)
        if isinstance(wanted, Iterable) and not isinstance(wanted, str):
            names = wanted
        elif isinstance(wanted, str) and wanted not in identities:
            path = os.path.join(self.data_root, wanted)
            if os.path.isfile(path):
                lines = read_lines(path, f'Set {self._option(option)}')
                names = [
                    split_fields(line)[0]
                    for number, line in lines
                    if number > 1 or not is_number(line)
                ]
        exact = set(identities)
        matches: dict[Name, list[str]] = defaultdict(list)
        for folder in identities:
            matches[as_nfc(folder)].append(folder)
            if folder.isdecimal():
                matches[int(folder)].append(folder)
        identities_found = set()
        for name in names:
            fits = []
            if isinstance(name, str):
                fits = [name] if name in exact else matches[as_nfc(name)]
            elif isinstance(name, int):
                fits = matches[name]
            if len(fits) != 1:
                raise self._error(
                    f'{option}: {name!r} fits {len(fits)} identities of '
                    f"'{self.data_root}', expected 1 of {_some(identities)}; set "
                    f'{self._option(option)}'
                )
            identities_found.update(fits)
        return identities_found

    def _side(self, identities: list[str]) -> list[str]:
        """The side of the split that was asked for."""
        if not self.holdout:
            return identities
        if not 0 < self.holdout < len(identities):
            raise self._error(
                f'holdout={self.holdout} of {len(identities)} identities: training '
                'needs two, and validation two for pairs of different people. '
                + (
                    f'Set {self._option("holdout")}, for training and for validation'
                    if len(identities) >= 4
                    else 'Add people; or train without validation: --no-validate '
                    '--cfg-options train_dataloader.dataset.holdout=0 '
                    'train_dataloader.dataset.split=None'
                )
            )

        # A hash, and no generator of random numbers: it gives the same split with
        # every version of everything, and an identity that is added later moves one
        # other across at most.
        def rank(name: str) -> bytes:
            return hashlib.sha256(b'%d/' % self.split_seed + os.fsencode(name)).digest()

        apart = set(sorted(identities, key=rank)[: self.holdout])
        return [
            name for name in identities if (name in apart) == (self.split == 'test')
        ]


def _leads_to(entry: os.DirEntry, folder: bool) -> bool:
    """Whether an entry is a folder, or else a file, or a link to one."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError as error:
        # A loop of links leads nowhere, as does one to what is gone.
        if error.errno == errno.ELOOP:
            return False
        raise


def _some(names: list[str], most: int = 5) -> str:
    text = ', '.join(repr(name) for name in names[:most])
    return text + f', ... ({len(names)} in all)' if len(names) > most else text
