"""What a loss computes of one cosine, as a short list of elementwise steps.

A walk over the classes evaluates a loss and its gradient on every block. Autograd
would do so with a fresh tensor for each of some thirty operations; here the loss is
traced once, forward and backward, what does nothing or is affine is folded away, and
the rest runs in a few buffers that stay in cache, or becomes a kernel
(:mod:`.fused`). The loss itself knows nothing of this.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils._python_dispatch import TorchDispatchMode

from mmhyperface.utils.errors import UserError

if TYPE_CHECKING:
    from mmhyperface.models.losses.base import HypersphereLoss

aten = torch.ops.aten

# Two samples, three classes: enough to tell what depends on what.
SAMPLES, CLASSES = 2, 3
MANY_NUMBERS = 256


class Slot(NamedTuple):
    """A value of a program: an input or the result of a step."""

    index: int  # type: ignore[assignment]


class Affine(NamedTuple):
    """scale * slot + offset, not yet computed."""

    slot: Slot
    scale: float
    offset: float


Bindable = Union['Program', 'Terms']

Value = Slot | Affine | float
"""What a traced node stands for."""


@dataclass
class Step:
    """One elementwise operation.

    Attributes:
        name: Name of the operation in ``torch``; or ``affine``, (x, scale, offset) ->
            scale * x + offset; ``weighted_sum``, (x, y, ratio) -> x + ratio * y;
            ``softplus``, x -> log(1 + e^x); ``fill``, a copy of the argument.
        args: Slots and numbers.
        out: Slot of the result.
        wide: Whether the result differs between classes, shape [B, c]; else it is
            a number per sample, [B, 1], or for all, [1, 1].
        dtype: Type of the result.
        reuses: An argument whose memory the result may take, since nobody needs it
            any more.
    """

    name: str
    args: tuple
    out: Slot
    wide: bool
    dtype: torch.dtype
    reuses: Slot | None = None


@dataclass
class Program:
    """A loss on a block: elementwise steps from inputs to outputs.

    Outputs are [B, c] and lie apart from the inputs and from one another.

    Attributes:
        inputs: Names of the inputs, slots 0, 1, …; ``cos`` [B, c] is the first, the
            others are numbers per sample, [B, 1].
        steps: The operations in their order.
        outputs: Slots of the results by name.
    """

    inputs: list[str]
    steps: list[Step] = field(default_factory=list)
    outputs: dict[str, Slot] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f'{step.out.index} = {step.name}{step.args}' for step in self.steps]
        return '\n'.join(lines)

    def bind(self, inputs: dict[str, Tensor], buffers: 'Buffers') -> 'Bound':
        """The program on given memory.

        Args:
            inputs: Tensors by name: ``cos`` [B, c], whose values may change between
                runs, others [B, 1] or [1, 1].
            buffers: Where to compute.
        """
        rows, classes = inputs['cos'].shape
        values: dict[Slot, Tensor] = {
            Slot(index): inputs[name].expand(rows, classes if index == 0 else 1)
            for index, name in enumerate(self.inputs)
        }
        buffers.start()
        calls = []
        for step in self.steps:
            if step.reuses is None:
                shape = (rows, classes) if step.wide else (rows, 1)
                out = buffers.take(shape, step.dtype)
            else:
                out = values[step.reuses]
            values[step.out] = out
            args = [values[a] if isinstance(a, Slot) else a for a in step.args]
            call = _call(step.name, args, out, buffers)
            if step.wide:
                calls.append(call)
            else:
                call()
        outputs = {name: values[slot] for name, slot in self.outputs.items()}
        return Bound(calls, outputs)


class Bound(NamedTuple):
    """A program that knows its memory."""

    calls: list[Callable[[], Any]]
    outputs: dict[str, Tensor]

    def run(self) -> dict[str, Tensor]:
        """Compute the outputs, which stay valid until the buffers are used again."""
        for call in self.calls:
            call()
        return self.outputs


def _call(
    name: str, args: list[Any], out: Tensor, buffers: 'Buffers'
) -> Callable[[], Any]:
    """One step as a function without arguments."""
    if name == 'affine':
        x, scale, offset = args
        if offset == 0:
            return partial(torch.mul, x, buffers.number(scale, x), out=out)
        return partial(torch.add, buffers.number(offset, x), x, alpha=scale, out=out)
    if name == 'weighted_sum':
        x, y, ratio = args
        return partial(torch.add, x, y, alpha=ratio, out=out)
    if name == 'fill':
        value = args[0]
        return partial(out.copy_ if isinstance(value, Tensor) else out.fill_, value)
    if name == 'softplus':
        # From here on, the sum is e^x also in float64.
        softplus: Callable[..., Tensor] = F.softplus
        return partial(softplus, args[0], threshold=40, out=out)
    if name in _TENSORS_ONLY or not isinstance(args[0], Tensor):
        like = out
        if out.dtype == torch.bool:
            like = next(arg for arg in args if isinstance(arg, Tensor))
        args = [
            buffers.number(arg, like) if isinstance(arg, float | int) else arg
            for arg in args
        ]
    return partial(getattr(torch, name), *args, out=out)


class Buffers:
    """Memory for the blocks of a walk, class-major: a block is [c, B] in memory."""

    def __init__(self, like: Tensor, samples: int, classes: int) -> None:
        self.like = like.new_empty(0)
        self.samples = samples
        self.classes = classes
        self.taken: dict[tuple[bool, torch.dtype], int] = {}
        self.memory: dict[tuple[bool, torch.dtype], list[Tensor]] = {}
        self.numbers: dict[tuple[str, torch.dtype], Tensor] = {}
        self.cosines = like.new_empty((classes, samples))

    def fit(self, like: Tensor, samples: int, classes: int) -> bool:
        """Whether these buffers do for blocks of that size and such tensors."""
        return (
            (self.samples, self.like.dtype, self.like.device)
            == (samples, like.dtype, like.device)
        ) and classes <= self.classes

    def start(self) -> None:
        """Declare all memory free."""
        self.taken.clear()

    def take(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Uninitialised memory [B, c], c at most ``classes``, or [B, 1]."""
        key = (shape[1] > 1, dtype)
        index = self.taken.get(key, 0)
        self.taken[key] = index + 1
        held = self.memory.setdefault(key, [])
        if index == len(held):
            most = self.classes if key[0] else 1
            held.append(self.like.new_empty((most, self.samples), dtype=dtype))
        return held[index][: shape[1]].T

    def number(self, value: float, like: Tensor) -> Tensor:
        """A number as a tensor without dimensions."""
        # By its text, since 0.0 equals -0.0.
        key = (repr(value), like.dtype)
        if key not in self.numbers:
            if len(self.numbers) > MANY_NUMBERS:
                # Of margins that have moved on.
                self.numbers.clear()
            self.numbers[key] = self.like.new_tensor(value, dtype=like.dtype)
        return self.numbers[key]


class Terms:
    """The terms of a loss and their gradients as autograd computes them.

    It takes the place of a :class:`Program` for losses that have none.

    Args:
        loss: The loss.
        context: Its context; entries that require a gradient get one.
        gradient: Whether gradients are wanted.

    Attributes:
        inputs: Their names: ``cos`` and those of the context, with ``gradient`` also
            ``upstream``, the gradient of the folded terms, and ``folded``.
        outputs: Their names: ``others``, and with ``gradient`` also ``cos`` and each
            entry of the context that requires it: the gradient of that element. The
            context's are yet to be summed. There is no ``others`` with the gradient
            of a loss whose fold is no sum.
        wide: The inputs that have gradients.
    """

    def __init__(
        self, loss: 'HypersphereLoss', context: dict[str, Tensor], gradient: bool
    ) -> None:
        self.loss = loss
        self.context = list(context)
        self.gradient = gradient
        wanted = [name for name in context if gradient and context[name].requires_grad]
        self.wide = ['cos', *wanted]
        self.inputs = ['cos', *context, *(['upstream', 'folded'] if gradient else [])]
        # Whoever has the fold of all terms needs none of them.
        self.outputs = [] if gradient and not loss.additive else ['others']
        self.outputs += self.wide if gradient else []

    def __call__(self, *values: Tensor) -> list[Tensor]:
        """The outputs for these inputs; wide ones are [B, c], others [B, 1]."""
        given = dict(zip(self.inputs, values, strict=True))
        with torch.enable_grad():
            for name in self.wide:
                given[name] = given[name].detach().requires_grad_(self.gradient)
            context = {name: given[name] for name in self.context}
            others = self.loss.others(given['cos'], context)
        outputs = [others.detach()] if 'others' in self.outputs else []
        if self.gradient and not others.requires_grad:
            outputs += [torch.zeros_like(others)] * len(self.wide)
        elif self.gradient:
            weight = self.loss.fold_gradient(others.detach(), given['folded'])
            grads = torch.autograd.grad(
                others,
                [given[name] for name in self.wide],
                (weight * given['upstream']).expand_as(others),
                allow_unused=True,
            )
            outputs += [others * 0 if grad is None else grad for grad in grads]
        return outputs

    def examples(self, like: Tensor) -> list[Tensor]:
        """Inputs of the type of ``like``."""
        widths = [CLASSES if name in self.wide else 1 for name in self.inputs]
        return [like.new_full((SAMPLES, width), 0.5) for width in widths]

    def bind(self, inputs: dict[str, Tensor], buffers: Buffers) -> Bound:
        """See :meth:`Program.bind`."""
        cos = inputs['cos']
        values = [
            inputs[name].expand(len(cos), cos.shape[1] if name in self.wide else 1)
            for name in self.inputs
        ]
        buffers.start()
        outputs = {
            name: buffers.take((cos.shape[0], cos.shape[1]), cos.dtype)
            for name in self.outputs
        }

        def compute() -> None:
            for out, value in zip(outputs.values(), self(*values), strict=True):
                out.copy_(value)

        return Bound([compute], outputs)


class RandomTermsError(NotImplementedError):
    """A loss draws random numbers."""


class _Operations(TorchDispatchMode):
    """Writes down every operation with its numbers."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.draws = False
        # Kept, so that no other tensor can have the same id.
        self.known: list[Tensor] = []
        self.names: dict[int, str] = {}
        self._name(inputs)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        literal = (
            func is aten.lift_fresh.default or func is aten.lift_fresh_copy.default
        )
        numbers = args[0].tolist() if literal else ''
        named = {name: self._text(value) for name, value in kwargs.items()}
        self.lines.append(f'{func}{self._text(args)}{named}{numbers}')
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        result = func(*args, **kwargs)
        self._name(result)
        return result

    def _name(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.names[id(value)] = f'%{len(self.known)}'
            self.known.append(value)
        elif isinstance(value, list | tuple):
            for part in value:
                self._name(part)

    def _text(self, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f'({", ".join(map(self._text, value))})'
        if not isinstance(value, Tensor):
            return repr(value)
        # One from elsewhere is in no program, whatever is in it.
        state = f'{value.dtype} {list(value.shape)} {value.requires_grad}'
        return self.names.get(id(value), state)


def operations(
    loss: 'HypersphereLoss', context: dict[str, Tensor], like: Tensor, gradient: bool
) -> str:
    """What a loss computes as it is now: its operations with all of their numbers.

    Losses of the same operations have the same program. No settings are compared, for
    a loss may keep them anywhere: in attributes of any object, in globals, in files.

    Args:
        loss, context, like, gradient: See :func:`trace`.

    Returns:
        A text to compare.

    Raises:
        NotImplementedError: If the loss cannot do with examples.
        RandomTermsError: If it draws random numbers.
    """
    terms = Terms(loss, context, gradient)
    examples = terms.examples(like)
    try:
        with _Operations(examples) as recorded:
            recorded.lines.append(recorded._text(terms(*examples)))
    except Exception as error:
        raise NotImplementedError(str(error)) from error
    if recorded.draws:
        raise RandomTermsError('it draws random numbers')
    return '\n'.join(recorded.lines)


def trace(
    loss: 'HypersphereLoss', context: dict[str, Tensor], like: Tensor, gradient: bool
) -> Program:
    """The program of a loss.

    Args:
        loss: The loss.
        context: Its context; entries that require a gradient get one.
        like: Any tensor of the cosines' type.
        gradient: Whether gradients are wanted.

    Returns:
        A program with the inputs and outputs of :class:`Terms`.

    Raises:
        NotImplementedError: If the loss does something that is unknown here.
        UserError: If it has learnable parameters that are not in its context.
    """
    terms = Terms(loss, context, gradient)
    examples = terms.examples(like)
    try:
        graph = make_fx(terms, decomposition_table=_DECOMPOSITIONS)(*examples)
        _refuse_hidden_parameters(loss, graph)
        with torch.no_grad():
            ShapeProp(graph).propagate(*examples)
        program = _Lowering(terms.inputs, terms.outputs, like.dtype).lower(graph)
        agree = _agree(program, terms, like)
    except UserError:
        raise
    except Exception as error:
        # A loss may do anything: decide by the value of a cosine, for one.
        raise NotImplementedError(str(error)) from error
    if not agree:
        raise NotImplementedError('operations that were misunderstood')
    return program


def _refuse_hidden_parameters(
    loss: 'HypersphereLoss', graph: torch.fx.GraphModule
) -> None:
    for node in graph.graph.nodes:
        if node.op == 'get_attr' and getattr(graph, node.target).requires_grad:
            raise UserError(
                f'{type(loss).__name__}.others uses a parameter that is not in its '
                'context, and would have no gradient: let context() return it'
            )


def _agree(program: Program, terms: Terms, like: Tensor) -> bool:
    """Whether a program computes what autograd does, by the example of some numbers."""
    chance = np.random.default_rng(0)
    inputs = {
        name: like.new_tensor(chance.uniform(0.1, 0.9, (SAMPLES, 1)))
        for name in terms.inputs
    }
    inputs['cos'] = like.new_tensor(chance.uniform(-0.9, 0.9, (SAMPLES, CLASSES)))
    results = [
        bindable.bind(inputs, Buffers(like, SAMPLES, CLASSES)).run()
        for bindable in (program, terms)
    ]
    return all(
        torch.allclose(results[0][name], value, 1e-3, 1e-5, equal_nan=True)
        for name, value in results[1].items()
    )


class _Lowering:
    """From a traced graph to a program."""

    def __init__(
        self, inputs: list[str], outputs: list[str], dtype: torch.dtype
    ) -> None:
        self.program = Program(inputs)
        self.names = outputs
        self.dtype = dtype
        self.wide: dict[Slot, bool] = {}
        self.dtypes: dict[Slot, torch.dtype] = {}
        self.known: dict[tuple, Slot] = {}
        self.values: dict[torch.fx.Node, Any] = {}
        # Products of a number per sample and a wide value.
        self.factors: dict[Slot, tuple[Slot, ...]] = {}

    def lower(self, graph: torch.fx.GraphModule) -> Program:
        for node in graph.graph.nodes:
            if node.op == 'placeholder':
                slot = self._new_slot()
                self.wide[slot] = slot.index == 0
                self.dtypes[slot] = self.dtype
                self.values[node] = slot
            elif node.op == 'get_attr':
                value = getattr(graph, node.target)
                literal = all('lift_fresh' in str(user.target) for user in node.users)
                if not literal:
                    # Somebody may change it.
                    raise NotImplementedError('a tensor that is not in the context')
                if value.numel() != 1:
                    raise NotImplementedError(f'a tensor constant {value.shape}')
                self.values[node] = float(value)
            elif node.op == 'call_function' and node.users:
                self.values[node] = self._call(node)
            elif node.op == 'output':
                results = [self.values[result] for result in node.args[0]]
        outputs = [self._output(result) for result in results]
        self.program.outputs = dict(zip(self.names, outputs, strict=True))
        self._prune()
        self._share_memory()
        return self.program

    def _call(self, node: torch.fx.Node) -> Any:
        args = [self._value(arg) for arg in node.args]
        packet: Any = node.target
        if packet is operator.getitem:
            return args[0][args[1]]
        name = packet.overloadpacket.__name__.removesuffix('_')
        if name in _CONSTANTS:
            return _CONSTANTS[name](args)
        if name == '_to_copy' and _dtype(node.args[0]) != _dtype(node):
            return self._convert(args[0], node)
        if name in _SAME:
            return args[0]
        if name == 'masked_fill':
            return self._step('where', [args[1], args[2], args[0]], node)
        if torch.Tag.pointwise not in packet.tags:
            raise NotImplementedError(f'the operation {packet}')
        kwargs = {key: self._value(value) for key, value in node.kwargs.items()}
        alpha = kwargs.pop('alpha', 1)
        if kwargs:
            raise NotImplementedError(f'the operation {packet} with {kwargs}')
        if name == 'rsub':
            name, args = 'sub', args[::-1]
        if name in ('add', 'sub') and alpha != 1:
            args[1] = self._affine(args[1], alpha, 0)
        if all(isinstance(arg, float | int) for arg in args):
            return getattr(torch, name)(*map(torch.tensor, args)).item()
        if name == 'where' and isinstance(args[0], bool):
            return args[1] if args[0] else args[2]
        if name == 'logaddexp' and 0 in args:
            name, args = 'softplus', [arg for arg in args if arg != 0]
        folded = self._fold(name, args)
        if folded is not None:
            return folded
        if name in ('add', 'sub'):
            return self._sum(args[0], args[1], 1 if name == 'add' else -1, node)
        if name == 'mul':
            return self._product(args[0], args[1], node)
        return self._step(name, args, node)

    def _convert(self, value: Any, node: torch.fx.Node) -> Any:
        """Whether something holds, as a number; other numbers are not converted."""
        dtypes = _dtype(node.args[0]), _dtype(node)
        if isinstance(value, float | int):
            return torch.tensor(value).to(dtypes[1]).item()
        if dtypes[0] == torch.bool and dtypes[1].is_floating_point:
            return self._step('where', [value, 1.0, 0.0], node)
        if all(dtype.is_floating_point for dtype in dtypes):
            return value
        raise NotImplementedError(f'the conversion of {dtypes[0]} to {dtypes[1]}')

    def _value(self, arg: Any) -> Any:
        return self.values[arg] if isinstance(arg, torch.fx.Node) else arg

    @staticmethod
    def _affine(value: Value, scale: float, offset: float) -> Value:
        """scale * value + offset."""
        if isinstance(value, float | int):
            return scale * value + offset
        if isinstance(value, Slot):
            value = Affine(value, 1.0, 0.0)
        slot, a, b = value
        a, b = a * scale, b * scale + offset
        if a == 0:
            return b
        return slot if (a, b) == (1, 0) else Affine(slot, a, b)

    def _fold(self, name: str, args: list[Any]) -> Value | None:
        """The value of what is affine in one variable, without a step."""
        numbers = [isinstance(arg, float | int) for arg in args]
        if name == 'neg':
            return self._affine(args[0], -1, 0)
        if name == 'sub' and args[0] == args[1]:
            return 0.0
        if name not in _ARITHMETIC or not any(numbers):
            return None
        x, y = args
        if name == 'mul':
            return self._affine(y, x, 0) if numbers[0] else self._affine(x, y, 0)
        if name == 'add':
            return self._affine(y, 1, x) if numbers[0] else self._affine(x, 1, y)
        if name == 'sub':
            return self._affine(y, -1, x) if numbers[0] else self._affine(x, 1, -y)
        if name == 'div' and numbers[1]:
            return self._affine(x, 1 / y, 0)
        return None

    def _sum(self, x: Value, y: Value, sign: int, node: torch.fx.Node) -> Value:
        """x + sign * y of two variables, as one step and an affine function of it."""
        x, y = self._as_affine(x), self._as_affine(self._affine(y, sign, 0))
        if self.wide[x.slot] != self.wide[y.slot]:
            # All numbers go to the side that is one number per sample.
            wide, narrow = (x, y) if self.wide[x.slot] else (y, x)
            rest = self._compute(self._affine(narrow, 1, wide.offset))
            return self._step('weighted_sum', [rest, wide.slot, wide.scale], node)
        ratio = y.scale / x.scale
        slot = self._step('weighted_sum', [x.slot, y.slot, ratio], node)
        return self._affine(slot, x.scale, x.offset + y.offset)

    def _product(self, x: Value, y: Value, node: torch.fx.Node) -> Value:
        """x * y of two variables; constant factors are left for later."""
        scale = 1.0
        factors = []
        for value in (self._as_affine(x), self._as_affine(y)):
            if value.offset == 0:
                scale *= value.scale
                factors.append(value.slot)
            else:
                factors.append(self._compute(value))
        return self._affine(self._step('mul', factors, node), scale, 0)

    @staticmethod
    def _as_affine(value: Value) -> Affine:
        if isinstance(value, Affine):
            return value
        assert isinstance(value, Slot)
        return Affine(value, 1.0, 0.0)

    def _step(self, name: str, args: list[Any], node: torch.fx.Node) -> Slot:
        args = [self._compute(arg) for arg in args]
        key = (name, *args)
        if key in self.known:
            return self.known[key]
        if name not in _OUR_OWN and not hasattr(torch, name):
            raise NotImplementedError(f'the operation {node.target}')
        slot = self._new_slot()
        self.wide[slot] = any(self.wide.get(arg, False) for arg in args)
        self.dtypes[slot] = _dtype(node)
        self._append(name, args, slot)
        self.known[key] = slot
        if name == 'mul' and self.wide[args[0]] != self.wide[args[1]]:
            self.factors[slot] = tuple(sorted(args, key=lambda arg: self.wide[arg]))
        return slot

    def _compute(self, value: Any) -> Any:
        """A slot for what is affine; anything else as it is."""
        if not isinstance(value, Affine):
            return value
        if value not in self.known:
            name, args = 'affine', list(value)
            factors = self.factors.get(value.slot)
            if factors is not None and value.offset == 0:
                # Scale the factor that is one number per sample instead.
                narrow, wide = factors
                name, args = 'mul', [self._compute(value._replace(slot=narrow)), wide]
            slot = self._new_slot()
            self.wide[slot] = self.wide[value.slot]
            self.dtypes[slot] = self.dtypes[value.slot]
            self._append(name, args, slot)
            self.known[value] = slot
        return self.known[value]

    def _output(self, value: Value) -> Slot:
        """A slot [B, c] that is no input and no other output."""
        if isinstance(value, Affine):
            value = self._compute(value)
        taken = {Slot(index) for index in range(len(self.program.inputs))}
        if isinstance(value, Slot) and value not in taken and self.wide[value]:
            used = [step.out for step in self.program.steps if step.name == 'output']
            if value not in used and value not in self.program.outputs.values():
                self.program.outputs[f'{len(self.program.outputs)}'] = value
                return value
        slot = self._new_slot()
        self.wide[slot], self.dtypes[slot] = True, self.dtype
        self._append('fill', [value], slot)
        self.program.outputs[f'{len(self.program.outputs)}'] = slot
        return slot

    def _new_slot(self) -> Slot:
        return Slot(len(self.wide))

    def _append(self, name: str, args: list[Any], slot: Slot) -> None:
        step = Step(name, tuple(args), slot, self.wide[slot], self.dtypes[slot])
        self.program.steps.append(step)

    def _prune(self) -> None:
        """Drop steps whose result nobody uses."""
        needed = set(self.program.outputs.values())
        kept = []
        for step in reversed(self.program.steps):
            if step.out in needed:
                kept.append(step)
                needed.update(arg for arg in step.args if isinstance(arg, Slot))
        self.program.steps = kept[::-1]

    def _share_memory(self) -> None:
        """Let a wide result take the memory of an argument that nobody needs later."""
        inputs = {Slot(index) for index in range(len(self.program.inputs))}
        needed = set(self.program.outputs.values())
        for step in reversed(self.program.steps):
            free = [
                arg
                for arg in step.args
                if isinstance(arg, Slot)
                and arg not in needed
                and arg not in inputs
                and self.wide[arg]
                and self.dtypes[arg] == step.dtype
            ]
            step.reuses = free[0] if free and step.wide else None
            needed.update(arg for arg in step.args if isinstance(arg, Slot))


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    'add': operator.add,
    'sub': operator.sub,
    'mul': operator.mul,
    'div': operator.truediv,
}
_OUR_OWN = ('softplus', 'weighted_sum')
# Operations that take no number in the place of a tensor.
_TENSORS_ONLY = ('where', 'logaddexp', 'maximum', 'minimum')
_SAME = ('alias', 'detach', 'clone', 'expand', 'view', 'lift_fresh_copy', '_to_copy')
_CONSTANTS: dict[str, Callable[[Sequence[Any]], float]] = {
    'ones_like': lambda args: 1.0,
    'zeros_like': lambda args: 0.0,
    'new_zeros': lambda args: 0.0,
    'new_ones': lambda args: 1.0,
    'ones': lambda args: 1.0,
    'zeros': lambda args: 0.0,
    'full_like': lambda args: float(args[1]),
    'full': lambda args: float(args[1]),
    'scalar_tensor': lambda args: float(args[0]),
}


def _dtype(node: Any) -> torch.dtype:
    return node.meta['tensor_meta'].dtype


def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    return -torch.logaddexp(-x, torch.zeros_like(x)), x.new_zeros(0)


def _log_sigmoid_backward(grad: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    return grad * (-x).sigmoid()


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    aten.sigmoid_backward.default: lambda grad, y: grad * (y * (1 - y)),
    aten.tanh_backward.default: lambda grad, y: grad * (1 - y * y),
    aten.rsub.Tensor: lambda x, y, alpha=1: y - x * alpha,
    # NaN stays what it is.
    aten.relu.default: lambda x: torch.where(x <= 0, 0.0, x),
    aten.threshold_backward.default: lambda grad, x, least: torch.where(
        x <= least, 0.0, grad
    ),
    aten.softplus.default: lambda x, beta=1.0, threshold=20.0: (
        torch.logaddexp(x * beta, torch.zeros_like(x)) / beta
    ),
    aten.softplus_backward.default: lambda grad, x, beta, threshold: (
        grad * (x * beta).sigmoid()
    ),
}
