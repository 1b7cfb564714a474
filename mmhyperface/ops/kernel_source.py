"""The text of the fused engine's kernels: a traced program as Triton code.

The numbers of a program become arguments of its kernel, so that a margin that moves
in training compiles nothing.
"""

import math
from collections.abc import Set
from typing import Any

import torch

from .elementwise import Program, Slot, Step


def source(
    program: Program, additive: bool, single: Set[str]
) -> tuple[str, list[float]]:
    """The text of a kernel, and the numbers that it is to be called with.

    The kernel's arguments are, in this order:

    - ``products`` [n, B]: replaced by the gradient by them, if the program has one;
    - ``factors`` [n]: what makes products cosines; None for 1;
    - ``target`` int64 [B]: row of each sample's own class, which does not count;
    - ``hidden`` int8 [C]: other rows that do not count; None for none;
    - ``radial`` [groups, n]: receives sums of cosine times gradient by it, or None;
    - ``hardest``, ``sums``, ``tops`` [parts, B]: the largest cosine and the fold so
      far; a log-sum-exp is tops + log(sums), a sum has no use for tops;
    - the inputs after ``cos``, [B] or [1];
    - for each of them that requires it, the sums of its gradient, [parts, B];
    - the numbers;
    - ``samples``, ``rows``, ``first``: B, n, and the first row of the block;
    - ROWS, SAMPLES: the size of a tile.

    Args:
        program: What :func:`.elementwise.trace` gave.
        additive: Whether the loss's fold is a sum.
        single: Inputs that are one number for all samples.

    Raises:
        NotImplementedError: For an operation that there is no code for.
    """
    return _Writer(program, additive, single).write()


class _Writer:
    """Writes the kernel of a program.

    Values are ``v0``, ``v1``, …: numbers, [1, SAMPLES] or [ROWS, SAMPLES].
    """

    def __init__(self, program: Program, additive: bool, single: Set[str]) -> None:
        self.program = program
        self.additive = additive
        self.single = single
        self.inputs = list(program.inputs)[1:]
        self.gradient = 'cos' in program.outputs
        self.contexts = [name for name in self.inputs if name in program.outputs]
        self.numbers: list[float] = []
        # What is known of a slot: whether it differs between classes, and its type.
        self.wide = {Slot(0): True}
        self.boolean: dict[Slot, bool] = {Slot(0): False}
        for index in range(len(self.inputs)):
            self.wide[Slot(index + 1)] = self.boolean[Slot(index + 1)] = False
        self.used = set(program.outputs.values())
        for step in program.steps:
            self.used.update(arg for arg in step.args if isinstance(arg, Slot))

    def write(self) -> tuple[str, list[float]]:
        narrow: list[str] = []
        wide: list[str] = []
        for step in self.program.steps:
            line = f'v{step.out.index} = {self._expression(step)}'
            (wide if self.wide[step.out] else narrow).append(line)
        folds = self.additive or not self.gradient
        lines = [
            '@triton.jit(do_not_specialize=["rows", "first"])',
            f'def block({", ".join(self._arguments())}):',
            *_indent(1, self._head(), narrow, self._start(folds)),
            '    for start in range(part * ROWS, rows, parts * ROWS):',
            *_indent(2, _LOAD, wide, self._count(folds)),
            *_indent(1, self._finish(folds)),
        ]
        return '\n'.join(lines) + '\n', self.numbers

    def _arguments(self) -> list[str]:
        return [
            'products, factors, target, hidden, radial, hardest, sums, tops',
            *(f'x{index + 1}' for index in range(len(self.inputs))),
            *(f'g{index}_sums' for index in range(len(self.contexts))),
            *(f'n{index}' for index in range(len(self.numbers))),
            'samples, rows, first, ROWS: tl.constexpr, SAMPLES: tl.constexpr',
        ]

    def _head(self) -> list[str]:
        loads = [
            f'v{i} = tl.load(x{i})'
            if name in self.single
            else f'v{i} = tl.load(x{i} + i, mask=real, other=0.0)[None, :]'
            for i, name in enumerate(self.inputs, 1)
            if Slot(i) in self.used
        ]
        return [
            'part = tl.program_id(0)',
            'parts = tl.num_programs(0)',
            'i = tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)',
            'real = i < samples',
            'own = (tl.load(target + i, mask=real, other=-1) - first).to(tl.int32)',
            *loads,
        ]

    def _start(self, folds: bool) -> list[str]:
        lines = []
        zeros = 'tl.zeros((ROWS, SAMPLES), tl.float32)'
        if folds:
            lines += [
                'largest = tl.full((ROWS, SAMPLES), -1.0, tl.float32)',
                f'total = {zeros}',
            ]
        if folds and not self.additive:
            lines.append(f'top = tl.full((ROWS, SAMPLES), {LOWEST}, tl.float32)')
        return lines + [f'g{i} = {zeros}' for i in range(len(self.contexts))]

    def _count(self, folds: bool) -> list[str]:
        """What becomes of a tile's cosines and outputs."""
        lines = []
        if folds:
            others = self._output('others')
            lines.append('largest = tl.maximum(largest, tl.where(counts, v0, -1.0))')
        if folds and self.additive:
            lines.append(f'total += tl.where(counts, {others}, 0.0)')
        elif folds:
            # One exponential for each term: of e^top and e^term the smaller one is
            # expressed by the larger.
            lines += [
                f'others = tl.where(counts, {others}, -float("inf"))',
                'smaller = tl.exp(-tl.abs(others - top))',
                'total = tl.where(others > top, total * smaller + 1, total + smaller)',
                'top = tl.maximum(top, others)',
            ]
        for i, name in enumerate(self.contexts):
            lines.append(f'g{i} += tl.where(counts, {self._output(name)}, 0.0)')
        if self.gradient:
            lines += [
                f'slope = tl.where(counts, {self._output("cos")}, 0.0)',
                'if radial is not None:',
                '    along = tl.sum(v0 * slope, 1)',
                '    here = radial + tl.program_id(1) * rows + j',
                '    tl.store(here, along, mask=j < rows)',
                'if factors is not None:',
                '    slope = slope * factor',
                'tl.store(at, slope.to(products.dtype.element_ty), mask=inside)',
            ]
        return lines

    def _finish(self, folds: bool) -> list[str]:
        """Add what the program has gathered to its own place."""
        lines = ['place = part * samples + i']
        if folds:
            lines += [
                'before = tl.load(hardest + place, mask=real, other=-1.0)',
                'before = tl.maximum(before, tl.max(largest, 0))',
                'tl.store(hardest + place, before, mask=real)',
            ]
        sums = [(f'g{i}_sums', f'g{i}') for i in range(len(self.contexts))]
        if folds and self.additive:
            sums.append(('sums', 'total'))
        elif folds:
            lines += [
                f'old = tl.load(tops + place, mask=real, other={LOWEST})',
                'new = tl.maximum(old, tl.max(top, 0))',
                'rest = tl.load(sums + place, mask=real, other=0.0)',
                'rest *= tl.exp(old - new)',
                'rest += tl.sum(total * tl.exp(top - new[None, :]), 0)',
                'tl.store(tops + place, new, mask=real)',
                'tl.store(sums + place, rest, mask=real)',
            ]
        for pointer, tile in sums:
            lines += [
                f'before = tl.load({pointer} + place, mask=real, other=0.0)',
                f'tl.store({pointer} + place, before + tl.sum({tile}, 0), mask=real)',
            ]
        return lines

    def _output(self, name: str) -> str:
        return f'v{self.program.outputs[name].index}'

    def _expression(self, step: Step) -> str:
        slots = [arg for arg in step.args if isinstance(arg, Slot)]
        self.wide[step.out] = any(self.wide[slot] for slot in slots)
        self.boolean[step.out] = step.dtype == torch.bool
        if step.dtype not in (torch.float32, torch.bool):
            raise NotImplementedError(f'{step.name} of type {step.dtype}')
        if step.name == 'affine':
            return self._affine(*step.args)
        if step.name == 'pow':
            return self._power(*step.args)
        if step.name == 'clamp':
            return self._clamp(*step.args)
        if step.name in _LOGICAL:
            values = [self._value(arg, boolean=True) for arg in step.args]
            return _LOGICAL[step.name].format(*values)
        if step.name == 'where':
            condition, *choices = step.args
            values = [self._value(condition, boolean=True)]
            return 'tl.where({}, {}, {})'.format(*values, *map(self._value, choices))
        if step.name not in _EXPRESSIONS:
            raise NotImplementedError(f'the operation {step.name}')
        return _EXPRESSIONS[step.name].format(*map(self._value, step.args))

    def _value(self, arg: Any, boolean: bool = False) -> str:
        """A slot or a number as an operand."""
        if isinstance(arg, Slot):
            if boolean and not self.boolean[arg]:
                return f'(v{arg.index} != 0)'
            if not boolean and self.boolean[arg]:
                return f'tl.where(v{arg.index}, 1.0, 0.0)'
            return f'v{arg.index}'
        if not isinstance(arg, int | float):
            raise NotImplementedError(f'the operand {arg!r}')
        self.numbers.append(float(arg))
        return f'n{len(self.numbers) - 1}'

    def _affine(self, slot: Slot, scale: float, offset: float) -> str:
        x = self._value(slot)
        if scale != 1:
            x = f'{x} * {self._value(scale)}'
        return x if offset == 0 else f'{x} + {self._value(offset)}'

    def _clamp(self, x: Any, low: Any = None, high: Any = None) -> str:
        text = self._value(x)
        if low is not None:
            text = _MOST.format(text, self._value(low))
        return text if high is None else _LEAST.format(text, self._value(high))

    def _power(self, base: Any, exponent: Any) -> str:
        """base ** exponent, base >= 0 if the exponent is no integer.

        The integer part of the exponent is done by products, which are exact to a few
        units in the last place; e^(y log x) alone would be off by |y log x| of them.
        """
        if isinstance(exponent, Slot) or not isinstance(base, Slot):
            raise NotImplementedError('a power whose exponent varies')
        whole = math.trunc(exponent)
        if not 0 < abs(exponent) < 32:
            raise NotImplementedError(f'the power {exponent}')
        x, rest = self._value(base), exponent - whole
        factors = [_integer_power(x, abs(whole))] if whole else []
        if whole < 0:
            factors = [f'(1 / {factors[0]})']
        if abs(rest) == 0.5:
            factors.append(f'tl.sqrt({x})' if rest > 0 else f'tl.rsqrt({x})')
        elif rest:
            factors.append(f'tl.exp({self._value(rest)} * tl.log({x}))')
        return ' * '.join(factors)


def _integer_power(x: str, exponent: int) -> str:
    """x ** exponent as few products, exponent > 0."""
    if exponent == 1:
        return x
    half = _integer_power(x, exponent // 2)
    square = f'({half} * {half})'
    return f'({square} * {x})' if exponent % 2 else square


def _indent(level: int, *parts: list[str]) -> list[str]:
    return ['    ' * level + line for part in parts for line in part]


# Finite, so that -inf less it is not NaN.
LOWEST = '-3.4028234663852886e38'

# NaN stays NaN, as in torch.
_LEAST = 'tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)'
_MOST = 'tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)'

_SIGN = 'tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))'

_LOAD = [
    'j = start + tl.arange(0, ROWS)',
    'inside = (j < rows)[:, None] & real[None, :]',
    'counts = inside & (j[:, None] != own[None, :])',
    'if hidden is not None:',
    '    seen = tl.load(hidden + first + j, mask=j < rows, other=1) == 0',
    '    counts = counts & seen[:, None]',
    'at = products + j[:, None].to(tl.int64) * samples + i[None, :]',
    'v0 = tl.load(at, mask=inside, other=0.0).to(tl.float32)',
    'if factors is not None:',
    '    factor = tl.load(factors + j, mask=j < rows, other=0.0)[:, None]',
    '    v0 = v0 * factor',
    f'v0 = {_LEAST.format(_MOST.format("v0", -1.0), 1.0)}',
]

_EXPRESSIONS = {
    'fill': '{0}',
    'add': '{0} + {1}',
    'sub': '{0} - {1}',
    'weighted_sum': '{0} + {2} * {1}',
    'mul': '{0} * {1}',
    'div': '{0} / {1}',
    'neg': '-{0}',
    'abs': 'tl.abs({0})',
    'exp': 'tl.exp({0})',
    'exp2': 'tl.exp2({0})',
    'expm1': 'expm1({0})',
    'log': 'tl.log({0})',
    'log2': 'tl.log2({0})',
    'log1p': 'log1p({0})',
    'logaddexp': 'logaddexp({0}, {1})',
    'softplus': 'logaddexp({0}, 0.0)',
    'sqrt': 'tl.sqrt({0})',
    'rsqrt': 'tl.rsqrt({0})',
    'reciprocal': '(1 / {0})',
    'sigmoid': 'sigmoid({0})',
    'tanh': 'tanh({0})',
    'sin': 'tl.sin({0})',
    'cos': 'tl.cos({0})',
    'acos': 'acos({0})',
    'floor': 'tl.floor({0})',
    'ceil': 'tl.ceil({0})',
    'remainder': '{0} - tl.floor({0} / {1}) * {1}',
    'clamp_min': _MOST,
    'clamp_max': _LEAST,
    'minimum': _LEAST,
    'maximum': _MOST,
    'relu': _MOST.format('{0}', '0.0'),
    'sign': _SIGN,
    'sgn': _SIGN,
    'gt': '{0} > {1}',
    'ge': '{0} >= {1}',
    'lt': '{0} < {1}',
    'le': '{0} <= {1}',
    'eq': '{0} == {1}',
    'ne': '{0} != {1}',
}

# Of what is true or false, also written &, | and ~.
_LOGICAL = {
    f'{kind}_{name}': template
    for kind in ('logical', 'bitwise')
    for name, template in (
        ('and', '{0} & {1}'),
        ('or', '{0} | {1}'),
        ('not', '{0} == 0'),
    )
}
