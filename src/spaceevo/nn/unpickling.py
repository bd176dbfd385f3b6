"""Reads pickles without doing what they ask: opcodes that call, set or store are replaced by ones that look first."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from spaceevo.nn.archive import HoldsCode, Limited

MOST_BITS = 128  # Of a whole number; counts take 64, the mark of the older files 77
SIMPLE = (str, bytes, int, float, type(None))


class StandIn:
    """Takes the place of an object that is not needed; what it was made of, or its state, is kept as data."""

    def __init__(self, *state: object) -> None:
        self.state: object = state


class Constructor:
    """Stands for a class or function of a pickle; `make` is what a call of it does, None where none is allowed."""

    def __init__(self, name: str, make: Callable[..., object] | None) -> None:
        self.name = name
        self.make = make

    def __call__(self, *args: object) -> object:
        """Make what the pickle asks for; raises `HoldsCode` where that is not allowed."""
        if self.make is None:
            raise HoldsCode(self.name)
        return self.make(*args)


def ordered(pairs: Sequence[Sequence[object]] = ()) -> object:
    """Make an `OrderedDict` of pairs, as old pickles do."""
    return _put(OrderedDict(), [part for key, value in pairs for part in (key, value)])


class Unpickler(pickle._Unpickler):
    """Reads a pickle in Python, with every opcode that calls, sets or stores replaced by one that looks first.

    Args:
        file: the file, at the pickle's start.
        find: gives what stands for a class or function, by module and name.
        resolve: gives the storage that a pickle names.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Limited, find: Callable[[str, str], object], resolve: Callable[[object], object]) -> None:
        super().__init__(file, encoding="utf-8")
        self.find = find
        self.resolve = resolve

    def find_class(self, module: str, name: str) -> object:
        """Never imports anything."""
        return self.find(module, name)

    def persistent_load(self, pid: object) -> object:
        """Find a storage."""
        return self.resolve(pid)


def _called(made: object, args: object) -> object:
    """What a constructor makes; nothing else can be called."""
    if not isinstance(made, Constructor) or not isinstance(args, tuple):
        raise pickle.UnpicklingError(f"it calls a {type(made).__name__}")
    return made(*args)


def _reduce(self: Any) -> None:
    args = self.stack.pop()
    self.stack[-1] = _called(self.stack[-1], args)


def _new_with_names(self: Any) -> None:
    self.stack.pop()  # arguments by name, which stand-ins have no use for
    _reduce(self)


def _instance(self: Any) -> None:
    made, args = self.find_class(self.readline()[:-1].decode(), self.readline()[:-1].decode()), self.pop_mark()
    self.append(_called(made, tuple(args)))


def _object(self: Any) -> None:
    made, *args = self.pop_mark()
    self.append(_called(made, tuple(args)))


def _build(self: Any) -> None:
    """Keep a stand-in's state as data; what a dictionary or a tensor has beside its content is not needed."""
    state = self.stack.pop()
    target = self.stack[-1]
    if isinstance(target, StandIn):
        target.state = state
    elif not isinstance(target, dict | Tensor):
        raise pickle.UnpicklingError(f"it sets attributes of a {type(target).__name__}")


def _append(self: Any) -> None:
    item = self.stack.pop()
    _extend(self.stack[-1], [item])


def _appends(self: Any) -> None:
    items = self.pop_mark()
    _extend(self.stack[-1], items)


def _set_item(self: Any) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    _put(self.stack[-1], [key, value])


def _set_items(self: Any) -> None:
    items = self.pop_mark()
    _put(self.stack[-1], items)


def _dict(self: Any) -> None:
    items = self.pop_mark()
    self.append(_put({}, items))


def _frozen(self: Any) -> None:
    items = self.pop_mark()
    self.append(frozenset(map(_key, items)))


def _add_items(self: Any) -> None:
    items = self.pop_mark()
    target = self.stack[-1]
    if isinstance(target, set):
        target.update(map(_key, items))
    elif not isinstance(target, StandIn):
        raise pickle.UnpicklingError(f"it adds to a {type(target).__name__}")


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, StandIn):
        raise pickle.UnpicklingError(f"it appends to a {type(target).__name__}")


def _put(target: object, items: Sequence[object]) -> object:
    if isinstance(target, dict):
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
    elif not isinstance(target, StandIn):
        raise pickle.UnpicklingError(f"it sets items of a {type(target).__name__}")
    return target


def _key(value: object) -> object:
    """The value as a key: nested tuples could take longer to hash than anyone would wait."""
    flat = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, (*SIMPLE, Constructor, StandIn)) for part in flat):
        raise pickle.UnpicklingError(f"it has a {type(value).__name__} as a key")
    return value


def _short(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """A whole number of usual size: of longer ones the text alone can take minutes."""

    def load_number(self: Any) -> None:
        load(self)
        if self.stack[-1].bit_length() > MOST_BITS:
            raise pickle.UnpicklingError(f"it has a number of {self.stack[-1].bit_length()} bits")

    return load_number


Unpickler.dispatch |= {
    pickle.REDUCE[0]: _reduce,
    pickle.NEWOBJ[0]: _reduce,
    pickle.NEWOBJ_EX[0]: _new_with_names,
    pickle.INST[0]: _instance,
    pickle.OBJ[0]: _object,
    pickle.BUILD[0]: _build,
    pickle.APPEND[0]: _append,
    pickle.APPENDS[0]: _appends,
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.ADDITEMS[0]: _add_items,
    pickle.DICT[0]: _dict,
    pickle.FROZENSET[0]: _frozen,
    **{code[0]: _short(Unpickler.dispatch[code[0]]) for code in (pickle.INT, pickle.LONG, pickle.LONG1, pickle.LONG4)},
}
for _code in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4):
    del Unpickler.dispatch[_code[0]]  # no checkpoint has them
