"""Inert stubs for the classes that pickled checkpoints of fairseq and OmegaConf mention.

fairseq pickles its configuration as argparse.Namespace or OmegaConf nodes, and sometimes a
dictionary or a meter.  None of these classes is imported: a stub only stores what an object was
made of.  A class that is not listed here is refused (files/torch_file.py).
"""

from typing import Any


class Stub:
    """An object of a class that is not imported: its constructor's arguments and its state."""

    __slots__ = ("arguments", "state")

    def __new__(cls, *arguments: Any) -> "Stub":
        instance = object.__new__(cls)
        instance.arguments, instance.state = arguments, None
        return instance

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


_CLASSES = {
    "argparse": ["Namespace"],
    # A node's metadata names types; they are never called.
    "builtins": ["bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple"],
    "typing": ["Any", "Dict", "List", "Optional", "Tuple", "Union"],
    "omegaconf.base": ["ContainerMetadata", "Metadata"],
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.listconfig": ["ListConfig"],
    "omegaconf.nodes": [
        *("AnyNode", "BooleanNode", "BytesNode", "EnumNode"),
        *("FloatNode", "IntegerNode", "PathNode", "StringNode"),
    ],
    "fairseq.data.dictionary": ["Dictionary"],
    "fairseq.data.text_compressor": ["TextCompressionLevel"],
    "fairseq.meters": ["AverageMeter", "StopwatchMeter", "TimeMeter"],
    "fairseq.logging.meters": ["AverageMeter", "StopwatchMeter", "TimeMeter"],
    # Numbers of numpy, in the training state.
    "numpy": ["dtype", "ndarray"],
    "numpy.core.multiarray": ["_reconstruct", "scalar"],
    "numpy._core.multiarray": ["_reconstruct", "scalar"],
}

STUBS: dict[str, Any] = {
    **{f"{module}.{name}": Stub for module, names in _CLASSES.items() for name in names},
    "collections.defaultdict": _empty_dict,  # OmegaConf's caches
}
"""For `files.torch_file.read_torch_file`: `module.name` -> what is built in its place."""


def replace_stubs(value: Any) -> Any:
    """`value` with every stub replaced by the plain value it holds.

    Namespaces and configurations become dicts and lists, their leaves plain values, and an enum's
    member its value.  An interpolation stays text (`${task.data}`).  A part that occurs in several
    places is replaced once.  RecursionError if a value contains itself.
    """
    return _replaced(value, {})


def _replaced(value: Any, done: dict[int, Any]) -> Any:
    if not isinstance(value, Stub | dict | list):
        return value
    if id(value) not in done:
        if isinstance(value, Stub):
            found = _replaced(_held_value(value), done)
        elif isinstance(value, dict):
            found = {key: _replaced(item, done) for key, item in value.items()}
        else:
            found = [_replaced(item, done) for item in value]
        done[id(value)] = found
    return done[id(value)]


def _held_value(stub: Stub) -> Any:
    state = stub.state
    if state is None:
        return stub.arguments[0] if len(stub.arguments) == 1 else None
    if isinstance(state, dict):
        for field in ("_content", "_val"):  # of OmegaConf's containers and leaves
            if field in state:
                return state[field]
    return state
