"""A study's file, and the runs that it asks for."""

import copy
import difflib
import itertools
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmhyperface.engine.launch import config_file, load_config, merge_options
from mmhyperface.utils.errors import UserError

#: What stands for the base's own value, and for the seed, in an override.
OWN, SEED = '_base_', '_seed_'
KEYS = (
    *('title', 'bases', 'overrides', 'axes', 'seeds', 'test_sets'),
    *('table', 'plot', 'published'),
)


@dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
        values: By axis, the name of its value.
        seed: Of weights, order and augmentations (``randomness.seed``).
        folder: Of all that the run leaves.
        config: What it trains by.
        processes: That it is started on; None for as many as the tool is told.
        test_sets: Which are tested after the training.
    """

    values: Mapping[str, str]
    seed: int
    folder: Path
    config: Config
    processes: int | None
    test_sets: tuple[str, ...]

    @property
    def name(self) -> str:
        return ', '.join([*self.values.values(), f'seed {self.seed}'])


@dataclass(frozen=True)
class Study:
    """A grid of runs, what is to be told of them, and what papers say.

    Attributes:
        path: Of its file.
        title: One sentence.
        base: The name of the base that it is made on.
        axes: By name, the names of the values.
        rows: Axes whose values make the rows of the table.
        columns: The axis whose values make its columns, if any.
        figures: ``SET.FIGURE`` of the tests, or of the log ``last.KEY``,
            ``median.KEY`` or ``max.KEY``.
        plot: The axis ``x`` of a picture, and its label.
        published: By the values of rows, then of columns, then by figure: in percent,
            as the table has it.
        folder: Of tables, and of the runs' folders.
        runs: All of them, seed by seed.
    """

    path: str
    title: str
    base: str
    axes: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    rows: Sequence[str]
    columns: str | None
    figures: Sequence[str]
    plot: Mapping[str, str] | None
    published: Mapping[str, Any]
    folder: Path
    runs: list[Run] = field(default_factory=list)

    def chosen(self, only: Iterable[str]) -> list[Run]:
        """The runs with these values, each ``AXIS=VALUE,VALUE``.

        Raises:
            UserError: If there is no such axis, or value.
        """
        wanted = dict(self.axes)
        for text in only:
            axis, _, values = text.partition('=')
            if axis not in self.axes:
                raise UserError(f'--only {text}: the axes are {_some(self.axes)}')
            wanted[axis] = values.split(',')
            for value in wanted[axis]:
                if value not in self.axes[axis]:
                    known = _some(self.axes[axis])
                    raise UserError(
                        f'--only {text}: {axis} has no {value}, but {known}'
                    )
        return [
            run
            for run in self.runs
            if all(run.values[axis] in wanted[axis] for axis in wanted)
        ]


def read_study(
    path: str,
    work_dir: str | Path,
    base: str | None = None,
    seeds: Sequence[int] = (),
    options: Mapping[str, Any] | None = None,
) -> Study:
    """Read a study and make the configs of its runs.

    Args:
        path: Of its file, or ``PACKAGE::FILE``.
        work_dir: The study's files lie in ``work_dir/STUDY/BASE``.
        base: One of its bases; by default the first.
        seeds: In the place of the study's.
        options: As of ``--cfg-options``; the axes' overrides are over them.

    Raises:
        UserError: With path and key, for whatever is wrong in it.
    """
    file = config_file(path)
    if not file.is_file():
        raise UserError(f'there is no study {path}')
    cfg = Config.fromfile(file).to_dict()

    def require(good: Any, key: str, what: str) -> None:
        if not good:
            raise UserError(f'{path}: {key}: {what}')

    for key in cfg:
        near = difflib.get_close_matches(key, set(KEYS) - set(cfg), n=1, cutoff=0.75)
        require(key in KEYS or not near, key, f'is {"".join(near)} meant?')
    bases, axes = cfg.get('bases'), cfg.get('axes')
    title, seeds = cfg.get('title'), list(seeds or cfg.get('seeds', [0, 1, 2]))
    require(isinstance(title, str), 'title', 'expected one sentence')
    names = isinstance(bases, dict) and bases and all(map(_is_text, bases.values()))
    require(names, 'bases', "expected dict(NAME='../CONFIG.py')")
    base = base or next(iter(bases))
    require(base in bases, 'bases', f'there is no {base}, but {_some(bases)} (--data)')
    require(isinstance(axes, dict) and axes, 'axes', 'expected dict(NAME={VALUE: {}})')
    for axis, values in axes.items():
        good: Any = isinstance(values, dict) and values
        require(good, f'axes.{axis}', 'expected {VALUE: {OVERRIDE: ...}}')
        axes[axis] = {str(value): each for value, each in values.items()}
        folders = {_slug(value) for value in axes[axis]}
        good = len(folders) == len(values)
        require(good, f'axes.{axis}', 'two values make one name of a folder')
    good = seeds and all(isinstance(x, int) for x in seeds)
    require(
        good and len(set(seeds)) == len(seeds), 'seeds', 'expected distinct numbers'
    )

    table = cfg.get('table')
    require(isinstance(table, dict), 'table', 'expected dict(rows=..., figures=[...])')
    columns = table.get('columns')
    rows = table.get('rows', [axis for axis in axes if axis != columns])
    rows = [rows] if isinstance(rows, str) else list(rows)
    good = sorted([*rows, *([columns] if columns else [])]) == sorted(axes)
    require(
        good, 'table', f'rows and columns must be the axes, {_some(axes)}, each once'
    )
    figures = _of_base(table.get('figures'), bases, base, path, 'table.figures')
    good = isinstance(figures, list | tuple) and figures
    good = good and all(_is_text(x) and '.' in x for x in figures)
    require(good, 'table.figures', "expected names such as ['lfw.accuracy']")
    plot = cfg.get('plot')
    good = plot is None or (isinstance(plot, dict) and plot.get('x') in axes)
    require(good, 'plot', f'expected dict(x=AXIS), one of {_some(axes)}')
    test_sets = _of_base(cfg.get('test_sets', ()), bases, base, path, 'test_sets')
    published = cfg.get('published', {})
    _check_published(published, [axes[x] for x in (*rows, columns) if x], path)

    study = Study(
        path=path,
        title=title,
        base=base,
        axes={axis: list(values) for axis, values in axes.items()},
        seeds=seeds,
        rows=rows,
        columns=columns,
        figures=list(figures),
        plot=plot,
        published=published,
        folder=Path(work_dir) / file.stem / base,
    )
    configs = _Configs(path, file.parent, dict(options or {}))
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            layers = [('overrides', cfg.get('overrides', {}))]
            # What a study compares stays, whatever the options change in its bases.
            layers += [('--cfg-options', configs.options)]
            layers += [
                (f'axes.{axis}.{value}', axes[axis][value])
                for axis, value in chosen.items()
            ]
            layers = [
                (place, _of_base(layer, bases, base, path, place))
                for place, layer in layers
            ]
            config, processes = configs.make(bases[base], layers, seed)
            folder = '__'.join([*map(_slug, values), f'seed{seed}'])
            run = Run(
                chosen, seed, study.folder / folder, config, processes, tuple(test_sets)
            )
            study.runs.append(run)
    return study


class _Configs:
    """Makes the configs of runs; each base is read once."""

    def __init__(self, path: str, folder: Path, options: dict[str, Any]) -> None:
        self.path = path
        self.folder = folder
        self.options = options
        self.loaded: dict[str, Config] = {}

    def make(
        self, base: str, layers: Sequence[tuple[str, Any]], seed: int
    ) -> tuple[Config, int | None]:
        """A config, and the number of processes if a layer says it."""
        where, processes = 'bases', None
        for place, layer in layers:
            if not isinstance(layer, dict):
                raise UserError(
                    f'{self.path}: {place}: expected overrides, {{}} if none'
                )
            if 'config' in layer:
                where, base = f'{place}.config', layer['config']
            processes = layer.get('processes', processes)
        cfg = self._base(base, where)
        for place, layer in [*layers, ('seeds', {'randomness.seed': seed})]:
            own = {k: v for k, v in layer.items() if k not in ('config', 'processes')}
            with _about(self.path, place):
                merge_options(
                    cfg,
                    {
                        option: _filled(value, cfg, option, seed)
                        for option, value in _flat(own).items()
                    },
                )
        return cfg, processes

    def _base(self, base: str, where: str) -> Config:
        if base not in self.loaded:
            file = base if '::' in base else os.path.normpath(self.folder / base)
            with _about(self.path, where):
                self.loaded[base] = load_config(file, self.options)
        return copy.deepcopy(self.loaded[base])


def _flat(overrides: Mapping[str, Any], before: str = '') -> dict[str, Any]:
    """Overrides by dotted paths, so that each path is checked."""
    flat: dict[str, Any] = {}
    for key, value in overrides.items():
        path = f'{before}{key}'
        if isinstance(value, dict) and value and not {'type', '_delete_'} & set(value):
            flat |= _flat(value, f'{path}.')
        else:
            flat[path] = value
    return flat


def _filled(value: Any, cfg: Config, option: str, seed: int) -> Any:
    """A value with the base's own, and the seed, in the places of their words."""
    if isinstance(value, dict):
        return {k: _filled(each, cfg, option, seed) for k, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_filled(each, cfg, option, seed) for each in value)
    if value == SEED:
        return seed
    if value != OWN:
        return value
    node: Any = cfg._cfg_dict
    for name in option.split('.'):
        try:
            node = node[int(name) if isinstance(node, list | tuple) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f'{option}: the base has no value for {OWN!r}') from None
    return copy.deepcopy(node)


def _of_base(value: Any, bases: Mapping, base: str, path: str, place: str) -> Any:
    """What a mapping by bases has for this one; others are for all."""
    if not isinstance(value, dict) or not value or not set(value) <= set(bases):
        return value
    if base not in value:
        raise UserError(f'{path}: {place}: has {_some(value)}, but nothing for {base}')
    return value[base]


def _check_published(node: Any, levels: Sequence[Iterable[str]], path: str) -> None:
    """Values of the axes, level by level, then numbers by figure."""
    place = 'published'
    if not isinstance(node, dict):
        raise UserError(f'{path}: {place}: expected a mapping, got {node!r}')
    for key, below in node.items():
        if not levels and isinstance(below, int | float):
            continue
        if not levels or key not in levels[0]:
            known = _some(levels[0]) if levels else 'a number'
            raise UserError(f'{path}: {place}: {key}: expected {known}')
        _check_published(below, levels[1:], path)


@contextmanager
def _about(path: str, place: str) -> Generator[None, None, None]:
    try:
        yield
    except UserError as error:
        reason = error.brief.removeprefix('--cfg-options ')
        raise UserError(f'{path}: {place}: {reason}') from error


def _slug(name: str) -> str:
    """A name as a folder has it."""
    return re.sub(r'[^\w.+-]+', '_', name).strip('_') or '_'


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _some(names: Iterable[str]) -> str:
    return ', '.join(map(str, names))
