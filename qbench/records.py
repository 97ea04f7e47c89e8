"""Schema and I/O of a run folder: the contract between training, deployment and reports.

    <cell>/status.json     STATUS_KEYS    replaced as a whole
    <cell>/records.jsonl   RECORD_KEYS    appended, one JSON object a line
    <cell>/summary.json    SUMMARY_KEYS   replaced as a whole

Standard library only, so that a report needs nothing else. Keys carry their units; more keys
may be added to any row. JSON has no NaN and no infinity: they are written as null.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1

STATES = ("running", "done", "failed", "interrupted", "skipped")

AXES = ("env", "network", "quant", "algo")

NOT_IDENTITY = (
    "hydra", "seed", "num_seeds", "n_jobs", "logger", "sweep", "chunk_env_steps", "formats",
    "retry_failed", "fail_fast",
)  # fmt: skip
"""Config keys that say how many, where and for whom, not what: no part of a cell's name."""

NEUTRAL = {
    "env.invert": False,
    "trainer.cuda_graphs": True,
    "replay.dtype": "float32",
    "algo.loop.target_dtype": "float32",
    "algo.learner.moments_dtype": "float32",
    "quant.weights.input_bits": None,
    "quant.weights.range": "max",
    "quant.activations.percentile": 99.9,
    "quant.schedule.delay_env_steps": 0,
    "quant.schedule.freeze_env_steps": None,
    "quant.target_network": "quantized",
    "quant.saved": "codes",
    "quant.acting": "fake",
    "quant.acting_refresh_updates": 1,
}
"""Later keys -> the value that computes what was computed before there was such a key.

At that value a key is no part of a cell's name, so that older cells keep theirs.
"""

STATUS_KEYS = {
    "schema_version": "SCHEMA_VERSION of the writer",
    "state": "one of STATES",
    "reason": "one sentence, or null",
    "traceback": "of a failed cell, or null",
}

RECORD_KINDS = {
    "train": "means over the log interval that ends at env_step, one row per seed",
    "episode": "a training episode that ended at env_step",
    "eval": "a greedy evaluation during training",
    "final": "the greedy evaluation of the deployed network, of last or averaged weights",
}

REQUIRED_RECORD_KEYS = ("kind", "seed", "env_step", "wall_s")

RECORD_KEYS = {
    "kind": "one of RECORD_KINDS",
    "seed": "training seed",
    "env_step": "env steps of this seed so far: the x-axis everywhere",
    "wall_s": "seconds since the job began",
    "loss": "train: mean loss of the updates",
    "q_mean": "train: mean value of the actions in the minibatches",
    "epsilon": "train: share of random actions at env_step",
    "noise": "train: standard deviation of the exploration noise, in half widths of the Box",
    "actor_loss": "train: mean loss of the actor's updates",
    "learning_rate": "train: at env_step",
    "diverged": "train, final: loss or gradient was not finite, and the seed is frozen",
    "episode_return": "episode: undiscounted sum of rewards",
    "episode_length": "episode: env steps",
    "eval_returns": "eval, final: undiscounted return of each greedy episode",
    "eval_lengths": "eval, final: env steps of each greedy episode",
    "eval_return_mean": "eval, final: mean of eval_returns",
}

SUMMARY_KEYS = {
    "env": "choice on this axis",
    "network": "choice on this axis",
    "quant": "choice on this axis",
    "algo": "choice on this axis",
    "num_seeds": "number of entries in seeds",
    "env_steps": "env steps per seed, of the longest",
    "seeds": "list of SEED_KEYS, one entry per training seed",
    "return_iqm": "interquartile mean over seeds of eval_return_mean",
    "return_ci": "[low, high], bootstrap 95 % interval of return_iqm over seeds; null for one seed",
    "peak_rss_bytes": "peak resident memory of the job's process (VmHWM)",
    "peak_device_bytes": "peak of the CUDA allocator; 0 on a CPU",
    "memory_bytes": "the ledger, MEMORY_KEYS",
    "artifact_bytes": "deployed format -> bytes per seed",
    "env_steps_per_s": "env steps of all seeds per second of training",
    "cpu_s": "CPU seconds of the job",
    "wall_s": "seconds of the job",
}

MORE_SUMMARY_KEYS = {
    "base_cell": "name of the `none` cell whose agents were quantized, or null",
    "parts": "of a cell whose seeds were trained in several goes: what each go has of its own",
    "continued_at": "env steps at which the training went on after a stop",
    "peak_rss_above_imports_bytes": "peak_rss_bytes less what the imports took",
    "cost": "macs, bit_operations and activation_bytes (the largest layer's) of one action",
    "latency_us": "form -> batch size -> microseconds per call; of the first seed's agent",
    "device": "device -> flash, RAM and instructions there (deploy.device), of the first measured",
}
"""What a summary holds beside SUMMARY_KEYS, with versions and machine; not every one has it."""

SEED_KEYS = {
    "seed": "training seed",
    "eval_returns": "undiscounted return of each greedy episode of the final score",
    "eval_return_mean": "mean of eval_returns",
}

MORE_SEED_KEYS = {
    "eval_lengths": "env steps of each of these episodes",
    "env_steps": "env steps of training",
    "diverged": "loss or gradient was not finite, and the seed was frozen",
    "agreement": "how far the deployed forms agree (deploy.parity), or null of a float network",
    "device": "as the summary's, of this seed's agent; where it was measured",
}
"""What an entry of `seeds` holds beside SEED_KEYS."""

MEMORY_KEYS = ("weights", "gradients", "optimizer", "target", "activations", "replay", "other")
"""Bytes per seed; `other` is ranges, caches and acting copies."""

_MARKS = ("status.json", "records.jsonl", "summary.json", ".hydra")


class RunFolderError(Exception):
    """A folder is not a run folder, or a file in it cannot be used: one sentence with the path."""


def without_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config without the NEUTRAL keys that have their neutral value."""

    def kept(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name in NEUTRAL and value == NEUTRAL[name]:
                continue
            rest = kept(value, f"{name}.") if isinstance(value, Mapping) else value
            if rest != {} or value == {}:
                found[key] = rest
        return found

    return kept(settings, "")


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds any of the files that a run leaves."""
    return any((path / mark).exists() for mark in _MARKS)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing; a reader never sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` atomically; NaN and infinities become null, NumPy values become plain."""
    write_text(path, json.dumps(_plain(obj), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunFolderError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path} is not valid JSON: {error}. Remove its folder to train the cell again."
        ) from error


def write_status(
    run_dir: Path, state: str, reason: str | None = None, traceback: str | None = None
) -> None:
    """Replace the status of a run folder, which is made if it is not there."""
    if state not in STATES:
        raise ValueError(f"state {state!r} is none of {', '.join(STATES)}")
    values = (SCHEMA_VERSION, state, reason, traceback)
    write_json(run_dir / "status.json", dict(zip(STATUS_KEYS, values, strict=True)))


def read_status(run_dir: Path) -> dict[str, Any]:
    """STATUS_KEYS -> value; all None where there is no status yet.

    Raises:
        RunFolderError: status.json is damaged or of another schema version.
    """
    path = run_dir / "status.json"
    if not path.exists():
        return dict.fromkeys(STATUS_KEYS)
    status = _read_versioned(path)
    if status.get("state") not in STATES:
        raise RunFolderError(f"{path} holds no known state.")
    return dict.fromkeys(STATUS_KEYS) | status


def append_records(run_dir: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to records.jsonl: all of them, or none if one is wrong.

    Raises:
        ValueError: a row lacks one of REQUIRED_RECORD_KEYS or is of an unknown kind.
    """
    text = "".join(json.dumps(_plain(_checked(row)), allow_nan=False) + "\n" for row in rows)
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "records.jsonl"
    _drop_partial_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_records(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of a run, all or of one kind, in the order of writing.

    A last line without its end is left out: its writer was killed, or is still at it.

    Raises:
        RunFolderError: `run_dir` is no run folder, or a line is damaged.
    """
    if not is_run_folder(run_dir):
        raise RunFolderError(f"{run_dir} is not a run folder: it has no status and no records.")
    path = run_dir / "records.jsonl"
    if not path.exists():
        return []
    return [row for row in _rows(path) if kind is None or row["kind"] == kind]


def scan_records(run_dir: Path) -> tuple[list[dict[str, Any]], str | None]:
    """All whole rows of a run, and a sentence on the lines that are damaged, if any.

    For readers that would rather miss a row than a run; `read_records` raises instead. A last
    line without its end is left out.
    """
    path = run_dir / "records.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{path} cannot be read: {error.strerror}."
    rows, damaged = [], []
    for number, row in enumerate(_parsed(lines), start=1):
        if _is_sound(row):
            rows.append(row)
        else:
            damaged.append(number)
    if not damaged:
        return rows, None
    named = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
    return rows, f"{path}: {len(damaged)} damaged, left out (line {named})."


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Replace the summary of a run.

    Raises:
        ValueError: a required name is missing or its value is of the wrong kind.
    """
    content = {"schema_version": SCHEMA_VERSION} | _plain(summary)
    if fault := summary_fault(content):
        raise ValueError(f"summary: {fault}")
    write_json(run_dir / "summary.json", content)


def read_summary(run_dir: Path) -> dict[str, Any]:
    """SUMMARY_KEYS and whatever the run added.

    Raises:
        RunFolderError: there is none, or it is damaged or of another schema version.
    """
    path = run_dir / "summary.json"
    summary = _read_versioned(path)
    if fault := summary_fault(summary):
        raise RunFolderError(f"{path} cannot be used: {fault}.")
    return summary


def summary_fault(summary: Mapping[str, Any]) -> str | None:
    """What is wrong with a summary, as the end of a sentence; None if nothing."""
    seeds, memory = summary.get("seeds"), summary.get("memory_bytes")
    if missing := [key for key in SUMMARY_KEYS if key not in summary]:
        return f"{', '.join(missing)} missing"
    if wrong := [key for key in AXES if not isinstance(summary[key], str)]:
        return f"{', '.join(wrong)} not a string"
    if not isinstance(seeds, list) or not all(isinstance(seed, Mapping) for seed in seeds):
        return "seeds is not a list of objects"
    if missing := [key for key in SEED_KEYS if any(key not in seed for seed in seeds)]:
        return f"{', '.join(missing)} missing in an entry of seeds"
    if not all(isinstance(seed["seed"], int) for seed in seeds):
        return "a seed is not a whole number"
    if not isinstance(memory, Mapping) or not isinstance(summary["artifact_bytes"], Mapping):
        return "memory_bytes or artifact_bytes is not an object"
    if missing := [key for key in MEMORY_KEYS if key not in memory]:
        return f"{', '.join(missing)} missing in memory_bytes"
    if wrong := [key for key, value in _numbers(summary) if not _is_number_or_null(value)]:
        return f"{', '.join(wrong)} not a number"
    return None


def _numbers(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything in a summary that has to be a number or null, with its name."""
    for key in ("num_seeds", "env_steps", "return_iqm", "peak_rss_bytes", "peak_device_bytes",
                "env_steps_per_s", "cpu_s", "wall_s"):  # fmt: skip
        yield key, summary[key]
    for group in ("memory_bytes", "artifact_bytes"):
        yield from ((f"{group}.{key}", value) for key, value in summary[group].items())
    for entry in summary["seeds"]:
        yield "eval_return_mean", entry["eval_return_mean"]


def _is_number_or_null(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < sys.float_info.max


def _read_versioned(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} holds no JSON object.")
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise RunFolderError(
            f"{path} is of schema version {version}, this qbench reads {SCHEMA_VERSION}."
        )
    return content


def _parsed(lines: list[bytes]) -> list[Any]:
    """The value of each line, None where it is not JSON."""
    try:
        # One call for all lines takes half the time of a call for each. A list for each line, so
        # that a line of two values, or of half of one, shows.
        values = json.loads(b"[[" + b"],[".join(lines) + b"]]") if lines else []
    except (ValueError, RecursionError):
        values = []
    if len(values) == len(lines) and all(len(value) == 1 for value in values):
        return [value for (value,) in values]
    return [_value(line) for line in lines]


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_sound(row: Any) -> bool:
    """Whether a row has what every row must have, of the right kind."""
    try:
        checked = _checked(row)
    except (TypeError, ValueError):
        return False
    is_whole = type(checked["seed"]) is int and type(checked["env_step"]) is int
    is_number = _is_number(checked["env_step"]) and _is_number(checked["wall_s"])
    means = (checked.get("eval_return_mean"), checked.get("episode_return"))
    return is_whole and is_number and all(map(_is_number_or_null, means))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a records file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield dict(_checked(json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise RunFolderError(f"{path}, line {number} is damaged: {error}.") from error


def _checked(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError("a record must be an object")
    if missing := [key for key in REQUIRED_RECORD_KEYS if key not in row]:
        raise ValueError(f"a record has no {', '.join(missing)}")
    if row["kind"] not in RECORD_KINDS:
        raise ValueError(f"record kind {row['kind']!r} is none of {', '.join(RECORD_KINDS)}")
    return row


def _drop_partial_line(path: Path) -> None:
    """Cut off what a killed writer left behind its last whole line.

    Such a rest was never readable, and the next row must not be glued to it.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    """`value` in JSON's types."""
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        value = value.tolist()
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
    return value
