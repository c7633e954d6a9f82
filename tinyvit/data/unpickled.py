"""What a pickle says, without doing what it says.

A pickle is a program, and Python's unpickler runs it. Here its instructions are only read: numbers, texts, lists,
tuples and dicts come out, and NumPy arrays of plain numbers, which are known by the calls that describe them. Whatever
else a pickle asks for is refused, so nothing of it can run. Read are protocols 0 to 4; CIFAR's files have 2.
"""

from __future__ import annotations

import math
import pickletools

import numpy as np

RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NAMES = {*RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode", "__builtin__ bytes"}
MARK = object()


def unpickled(data: bytes):
    """The plain object that a pickle describes; texts of Python 2 come as bytes.

    Raises ValueError for a pickle that is damaged, or has more in it than numbers, texts, their containers and arrays.
    """
    reader = _Reader()
    try:
        for op, argument, _ in pickletools.genops(data):
            if op.name == "STOP":
                return reader.stack.pop()
            reader.obey(op.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        raise ValueError(f"a damaged pickle: {error!r}") from error
    raise ValueError("a damaged pickle: it has no end")


class _Name(str):
    """What a pickle names, to call it; one of NAMES."""


class _Described:
    """An array or a type of numbers before its description is complete."""

    def __init__(self, kind: str, code: str = ""):
        self.kind, self.code = kind, code

    def complete(self, state):
        """The array itself, or the type."""
        if self.kind == "numpy dtype":
            return np.dtype(self.code).newbyteorder(_text(state[1]) if _text(state[1]) in "<>" else "=")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
            raise ValueError("an array of other things than numbers")
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} with {len(data):,} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class _Reader:
    """The stack and the memory that a pickle's instructions work with."""

    def __init__(self):
        self.stack, self.memory = [], {}

    def obey(self, name: str, argument) -> None:
        """One instruction, of the few that describe plain things."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in TEXTS:
            self.stack.append(argument.encode("latin-1"))
        elif name in FRESH:
            self.stack.append(FRESH[name]())
        elif name in REMEMBER:
            self.memory[len(self.memory) if argument is None else int(argument)] = self.stack[-1]
        elif name in RECALL:
            self.stack.append(self.memory[int(argument)])
        elif name == "GLOBAL":
            self.stack.append(_allowed(argument))
        elif name in GATHER:
            GATHER[name](self)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"a pickle with the instruction {name}, which no plain data needs")

    def name(self) -> None:
        """A name whose two halves lie on the stack."""
        attribute, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_allowed(f"{module} {attribute}"))

    def call(self) -> None:
        """A call, which is not made: what it describes takes its place."""
        arguments, name = self.stack.pop(), self.stack.pop()
        self.stack.append(_described(name, arguments))

    def last(self, count: int) -> list:
        """The last so many, taken off."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def extend(self, items: list) -> None:
        """Put items at the end of the list that lies below them."""
        self.stack[-1].extend(items)

    def update(self, items: list) -> None:
        """Put keys and values into the dict that lies below them."""
        self.stack[-1].update(_pairs(items))

    def since_mark(self) -> list:
        """What lies above the last mark, taken off together with it."""
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def build(self, state) -> None:
        """The rest of a description: what it describes takes its place, in the memory too."""
        described = self.stack.pop()
        if not isinstance(described, _Described):
            raise ValueError("a pickle with an object of a class, which is no plain data")
        value = described.complete(state)
        self.stack.append(value)
        self.memory = {key: value if x is described else x for key, x in self.memory.items()}


VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE",
          "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"}  # fmt: skip
TEXTS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
REMEMBER = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
RECALL = {"GET", "BINGET", "LONG_BINGET"}
FRESH = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list,
         "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "MARK": lambda: MARK}  # fmt: skip
GATHER = {
    "STACK_GLOBAL": _Reader.name,
    "REDUCE": _Reader.call,
    "BUILD": lambda reader: reader.build(reader.stack.pop()),
    "TUPLE1": lambda reader: reader.stack.append(tuple(reader.last(1))),
    "TUPLE2": lambda reader: reader.stack.append(tuple(reader.last(2))),
    "TUPLE3": lambda reader: reader.stack.append(tuple(reader.last(3))),
    "TUPLE": lambda reader: reader.stack.append(tuple(reader.since_mark())),
    "LIST": lambda reader: reader.stack.append(reader.since_mark()),
    "DICT": lambda reader: reader.stack.append(_pairs(reader.since_mark())),
    "APPEND": lambda reader: reader.extend(reader.last(1)),
    "APPENDS": lambda reader: reader.extend(reader.since_mark()),
    "SETITEM": lambda reader: reader.update(reader.last(2)),
    "SETITEMS": lambda reader: reader.update(reader.since_mark()),
}


def _allowed(name: str) -> _Name:
    if name not in NAMES:
        raise ValueError(f"a pickle that names {name.replace(' ', '.')}, which is no plain data")
    return _Name(name)


def _described(name, arguments):
    """What a call of one of the NAMES describes."""
    if name in RECONSTRUCT:
        return _Described("array")
    if name == "numpy dtype":
        if np.dtype(code := _text(arguments[0])).kind not in "biuf":
            raise ValueError(f"an array of {code!r}, which are no numbers")
        return _Described(name, code)
    if name == "_codecs encode" and _text(arguments[1]) == "latin1":  # how Python 3 writes bytes for Python 2
        return arguments[0].encode("latin-1")
    if name == "__builtin__ bytes" and arguments == ():  # and no bytes
        return b""
    raise ValueError("a pickle with a call, which no plain data needs")


def _text(x) -> str:
    return x.decode("ascii") if isinstance(x, bytes) else x


def _pairs(items: list) -> dict:
    return dict(zip(items[::2], items[1::2], strict=True))
