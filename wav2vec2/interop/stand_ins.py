"""What takes the place of the classes that other people's checkpoints mention.

fairseq pickles its configuration as argparse.Namespace or OmegaConf nodes, and now and then a
dictionary or a meter.  None of those classes is imported: a stand-in remembers what an object was
made of, and does nothing.  A class that is not listed here is refused (files/torch_file.py).
"""

from typing import Any


class StandIn:
    """An object of a class that is not imported: its constructor's arguments and its state."""

    __slots__ = ("arguments", "state")

    def __new__(cls, *arguments: Any) -> "StandIn":
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
    # Numbers of numpy, in what training remembers of its progress.
    "numpy": ["dtype", "ndarray"],
    "numpy.core.multiarray": ["_reconstruct", "scalar"],
    "numpy._core.multiarray": ["_reconstruct", "scalar"],
}

STAND_INS: dict[str, Any] = {
    **{f"{module}.{name}": StandIn for module, names in _CLASSES.items() for name in names},
    "collections.defaultdict": _empty_dict,  # OmegaConf's caches
}
"""For `common.training.trainer.checkpoint.read`: `module.name` -> what is built in its place."""


def plain(value: Any) -> Any:
    """`value` with every stand-in replaced by what it holds.

    Namespaces and configurations become dicts and lists, their leaves plain values, an enum's
    member its value; an interpolation stays text (`${task.data}`).
    """
    if isinstance(value, StandIn):
        return _held(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _held(stand_in: StandIn) -> Any:
    state = stand_in.state
    if state is None:
        return plain(stand_in.arguments[0]) if len(stand_in.arguments) == 1 else None
    if isinstance(state, dict):
        for field in ("_content", "_val"):  # of OmegaConf's containers and leaves
            if field in state:
                return plain(state[field])
    return plain(state)
