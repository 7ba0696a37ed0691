"""Pickles as data: what a pickle asks for, described and never done."""

import dataclasses
import pickle
import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, NamedTuple

__all__ = ["Global", "Made", "read_pickle"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True, repr=False)
class Global:
    """A class or function that a pickle names; it is never looked up."""

    name: str


@dataclasses.dataclass(eq=False, slots=True, repr=False)
class Made:
    """What a pickle would have made.

    Args:
        maker: the class or function it would have called, "module.name".
        arguments: what with.
        items: the entries it would have set on the result.
        state: what it would have restored the result's attributes from.
    """

    maker: str
    arguments: tuple[Any, ...]
    items: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: Any = None


def read_pickle(stream: IO[bytes], admitted: Collection[str], persistent: Callable[[Any], Any]) -> Any:
    """Return what the pickle at the position of `stream` holds, and leave the position behind it.

    Numbers, text, lists, tuples and dicts are themselves. A class or function is a `Global`, a call or an instance is a
    `Made`: no code is imported, looked up or called, and of pickle's operations only those are known that protocol 2
    uses for modules and tensors. Keys are text alone: the hash of a nested tuple, which `pickle.Unpickler` takes of any
    key, can overflow the stack of the interpreter. Memory and time are bounded by the length of the stream.

    Args:
        stream: where the pickle is.
        admitted: the classes and functions that it may name, as "module.name".
        persistent: gives what a persistent id stands for.

    Raises:
        ValueError: if the pickle is damaged, names anything else, or uses any other operation.
    """
    machine = _Machine(admitted, persistent)
    try:
        while (code := stream.read(1)) != pickle.STOP:
            if code not in _OPERATIONS:
                raise ValueError(_refusal(code))
            operation = _OPERATIONS[code]
            operation.act(machine, operation.read(stream))
        return machine.stack.pop()
    except LookupError:
        raise ValueError("its pickle is damaged: an operation lacks what it works on") from None


def _refusal(code: bytes) -> str:
    if not code:
        return "it ends within a pickle: fetch it again"
    names = [operation.name for operation in pickletools.opcodes if operation.code.encode("latin-1") == code]
    if not names:
        return f"its pickle is damaged: there is no operation {code!r}"
    return f"it uses the pickle operation {names[0]}, which is not needed; foreign code is not run"


class _Machine:
    """The stack and the memo of a pickle, and what each of its operations does to them."""

    def __init__(self, admitted: Collection[str], persistent: Callable[[Any], Any]) -> None:
        self.admitted = admitted
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def ignore(self, argument: Any) -> None:
        pass

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, argument: Any) -> None:
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def tuple_of(self, length: int) -> None:
        self.push(tuple(reversed([self.stack.pop() for _ in range(length)])))

    def tuple_from_mark(self, argument: Any) -> None:
        self.push(tuple(self._from_mark()))

    def append(self, argument: Any) -> None:
        self._extend([self.stack.pop()])

    def appends(self, argument: Any) -> None:
        self._extend(self._from_mark())

    def set_item(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self, argument: Any) -> None:
        self._update(self._from_mark())

    def name_global(self, name: str) -> None:
        if name not in self.admitted:
            raise ValueError(f"it names {name[:80]!r}, which is not needed; foreign code is not run")
        self.push(Global(name))

    def persistent_id(self, argument: Any) -> None:
        self.push(self.persistent(self.stack.pop()))

    def call(self, argument: Any) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        if not isinstance(maker, Global) or not isinstance(arguments, tuple):
            raise ValueError("its pickle calls what is no class or function")
        self.push(Made(maker.name, arguments))

    def build(self, argument: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Made) or made.state is not None:
            raise ValueError("its pickle sets attributes of what is no new object")
        made.state = state

    def _from_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("its pickle appends to what is no list")
        target.extend(values)

    def _update(self, keys_and_values: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.items if isinstance(target, Made) else target
        keys = keys_and_values[::2]
        if not isinstance(entries, dict) or len(keys_and_values) % 2 or not all(isinstance(key, str) for key in keys):
            raise ValueError("its pickle sets entries of what is no dict, or with keys that are no text")
        entries.update(zip(keys, keys_and_values[1::2], strict=True))


class _Operation(NamedTuple):
    """How the argument of an operation is read, and what is done with it."""

    read: Callable[[IO[bytes]], Any]
    act: Callable[[_Machine, Any], None]


def _names(stream: IO[bytes]) -> str:
    lines = [stream.readline() for _ in range(2)]
    return ".".join(line.decode().removesuffix("\n") for line in lines)


_OPERATIONS: Mapping[bytes, _Operation] = {
    pickle.PROTO: _Operation(pickletools.read_uint1, _Machine.ignore),
    pickle.NONE: _Operation(lambda _: None, _Machine.push),
    pickle.NEWTRUE: _Operation(lambda _: True, _Machine.push),
    pickle.NEWFALSE: _Operation(lambda _: False, _Machine.push),
    pickle.BININT: _Operation(pickletools.read_int4, _Machine.push),
    pickle.BININT1: _Operation(pickletools.read_uint1, _Machine.push),
    pickle.BININT2: _Operation(pickletools.read_uint2, _Machine.push),
    pickle.LONG1: _Operation(pickletools.read_long1, _Machine.push),
    pickle.BINFLOAT: _Operation(pickletools.read_float8, _Machine.push),
    pickle.BINUNICODE: _Operation(pickletools.read_unicodestring4, _Machine.push),
    pickle.EMPTY_LIST: _Operation(lambda _: [], _Machine.push),
    pickle.EMPTY_DICT: _Operation(lambda _: {}, _Machine.push),
    pickle.EMPTY_TUPLE: _Operation(lambda _: (), _Machine.push),
    pickle.MARK: _Operation(lambda _: None, _Machine.mark),
    pickle.TUPLE: _Operation(lambda _: None, _Machine.tuple_from_mark),
    pickle.TUPLE1: _Operation(lambda _: 1, _Machine.tuple_of),
    pickle.TUPLE2: _Operation(lambda _: 2, _Machine.tuple_of),
    pickle.TUPLE3: _Operation(lambda _: 3, _Machine.tuple_of),
    pickle.APPEND: _Operation(lambda _: None, _Machine.append),
    pickle.APPENDS: _Operation(lambda _: None, _Machine.appends),
    pickle.SETITEM: _Operation(lambda _: None, _Machine.set_item),
    pickle.SETITEMS: _Operation(lambda _: None, _Machine.set_items),
    pickle.BINPUT: _Operation(pickletools.read_uint1, _Machine.put),
    pickle.LONG_BINPUT: _Operation(pickletools.read_uint4, _Machine.put),
    pickle.BINGET: _Operation(pickletools.read_uint1, _Machine.get),
    pickle.LONG_BINGET: _Operation(pickletools.read_uint4, _Machine.get),
    pickle.GLOBAL: _Operation(_names, _Machine.name_global),
    pickle.BINPERSID: _Operation(lambda _: None, _Machine.persistent_id),
    pickle.NEWOBJ: _Operation(lambda _: None, _Machine.call),
    pickle.REDUCE: _Operation(lambda _: None, _Machine.call),
    pickle.BUILD: _Operation(lambda _: None, _Machine.build),
}
