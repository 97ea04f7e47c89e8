"""What a run folder may name: a list of classes. It may come from anywhere.

Training from the user's own config is not restricted; reading a finished run is. Nothing that a
stored config names is imported unless it is here, or in a module that the user trusts.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

CLASSES = {
    "env": {
        "qbench.env.gym.GymnasiumEnv",
        "qbench.env.atari.AtariEnv",
        "qbench.env.minatar.MinAtarEnv",
        "qbench.env.pixels.RenderedEnv",
    },
    "network": {"qbench.network.mlp.MLP", "qbench.network.cnn.CNN"},
    "head": {"qbench.network.heads.QNetwork", "qbench.network.heads.Actor"},
    "quant": {
        "qbench.quant.none.NoQuant",
        "qbench.quant.qat.QAT",
        "qbench.quant.ptq.PTQ",
        "qbench.quant.dynamic.PTQDynamic",
        "qbench.quant.cast.PTQCast",
    },
}
"""By group. No prefixes: a module may hold more than what is meant to be built."""


class Untrusted(ValueError):
    """A stored config names something that is not on the list."""


def build(group: str, node: Any, trusted: Sequence[str], **parts: Any) -> Any:
    """The object that a node of a stored config describes.

    Args:
        group: of CLASSES.
        node: `_target_` and the keys of its class, as YAML gives them.
        trusted: modules all of whose classes are on the list too.
        parts: built arguments.

    Raises:
        Untrusted: the class is not on the list, or a text in the node could import a module.
        ValueError: the class cannot be built from the node.
    """
    if not isinstance(node, dict):
        raise ValueError(f"{group} is no mapping")
    keys = {str(key): value for key, value in node.items() if key != "_target_"}
    target = str(node.get("_target_"))
    module, _, name = target.rpartition(".")
    if target not in CLASSES[group] and module not in trusted:
        raise Untrusted(
            f"{group} is a {target}, which is no class of qbench's: if you trust its module,"
            f" say --trust {module or 'MODULE'}."
        )
    for text in _texts(keys):
        # gymnasium.make("module:Id") imports the module, wherever the id stands.
        if ":" in text and text.partition(":")[0] not in trusted:
            raise Untrusted(f"{group} names {text}: texts with ':' can import code.")
    if "_target_" in _texts(keys):
        raise Untrusted(f"{group} names classes within a class; it may name one alone.")
    try:
        return getattr(import_module(module), name)(**keys, **parts)
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{target} cannot be built: {error}. Another version of qbench may have written this."
        ) from error


def _texts(value: Any) -> Iterator[str]:
    """All texts in a node, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _texts(item)
