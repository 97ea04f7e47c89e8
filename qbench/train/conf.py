"""Where the config is, and what it says of itself; imports no Hydra."""

import string
import textwrap
from pathlib import Path

from omegaconf import OmegaConf


def conf_dir() -> Path:
    """The config folder: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def help_text() -> str:
    """What Hydra would print for --help, from the same file, in a quarter of the time.

    Hydra reads the primary config once more for every group and for every folder in it, lists
    the tune files, which nobody chooses, and does not wrap its lines.
    """
    content = OmegaConf.load(conf_dir() / "hydra" / "help" / "qbench.yaml")
    template = OmegaConf.create({"hydra": {"help": content}}).hydra.help.template
    groups = sorted(path for path in conf_dir().iterdir() if path.is_dir())
    lines = [
        _wrapped(group.name, sorted(choice.stem for choice in group.glob("*.yaml")))
        for group in groups
        if group.name not in ("hydra", "tune")
    ]
    return string.Template(template).substitute(APP_CONFIG_GROUPS="".join(lines))


def _wrapped(group: str, choices: list[str]) -> str:
    indent = " " * 14
    line = f"  {group + ':':<12}{', '.join(choices)}"
    return textwrap.fill(line, 88, subsequent_indent=indent, break_on_hyphens=False) + "\n"
