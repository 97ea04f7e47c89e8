"""The seed paper's tables, figures and claims on runs of `experiment=paper`: numbers only.

Li, "Quantization aware training for efficient reinforcement learning network": Table 1 is its
quantizer, Table 2 its memory, Figures 5 and 6 its training returns per episode, one run each.
Here every arm has several training seeds and every claim an interval over them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from qbench import records
from qbench.report import stats
from qbench.report.folders import Cell
from qbench.report.measures import deployed_bytes
from qbench.report.rows import MIN_SEEDS
from qbench.report.stats import FloatArray, Interval

FLOAT, QAT = "none", "paper8"
"""The arms, by their choice of `quant`."""

GOAL = 200.0
"""CartPole's "expected performance", at which the paper also cuts its reported reward."""

WINDOW = 10
"""Episodes of a trailing mean in the figures, and the fewest for a deviation."""

LAST = 100
"""Episodes at the end whose mean is compared on LunarLander."""

TABLE_1 = ((0, -10.0), (255, 30.0), (128, 10.0))
"""Code and value as printed, of the range [-10, 30]; 128 is 10.078 to three decimals."""

TABLE_2 = {"cartpole": (1197, 1136), "lunarlander": (1504, 1447)}
"""Env -> printed memory before and after QAT, of the process and without a unit."""


class PaperError(Exception):
    """There is nothing to make the page of: one sentence with the remedy."""


@dataclass(frozen=True)
class Arm:
    """One cell's training episodes.

    Attributes:
        cell: its run.
        returns: seed -> return of each training episode [E], uncut.
    """

    cell: Cell
    returns: dict[int, FloatArray]


@dataclass(frozen=True)
class Contrast:
    """One number per seed in float and in QAT, and their difference.

    Attributes:
        float_values, qat_values: one value per seed that has it.
        difference: IQM of QAT minus IQM of float.
        interval: 95 % bootstrap interval of the difference, unpaired.
    """

    float_values: list[float]
    qat_values: list[float]
    difference: float
    interval: Interval | None

    @property
    def fewest(self) -> int:
        """Values in the smaller arm."""
        return min(len(self.float_values), len(self.qat_values))


def decode(code: int, low: float, high: float, bits: int = 8) -> float:
    """The value of a code on the paper's grid: [low, high] in 2^bits - 1 equal cells."""
    return low + code * (high - low) / (2**bits - 1)


def arms(cells: Iterable[Cell], env: str) -> dict[str, Arm]:
    """Quant choice -> the cell of several seeds that shows an env's training.

    Of several cells the one with most seeds is taken, so a partial sweep beside a whole one
    does no harm.
    """
    found: dict[str, Arm] = {}
    several = [cell for cell in cells if cell.axes["env"] == env and len(cell.returns) > 1]
    for cell in sorted(several, key=lambda cell: -len(cell.returns)):
        quant = cell.axes["quant"]
        if quant not in found and (returns := episode_returns(cell)):
            found[quant] = Arm(cell, returns)
    return {quant: found[quant] for quant in (FLOAT, QAT) if quant in found}


def episode_returns(cell: Cell) -> dict[int, FloatArray]:
    """Seed -> return of each training episode, in the order in which they ended.

    Raises:
        RunFolderError: records.jsonl is damaged.
    """
    rows = records.read_records(cell.run_dir, "episode")
    by_seed: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["env_step"]):
        by_seed.setdefault(row["seed"], []).append(float(row["episode_return"]))
    return {seed: np.array(values) for seed, values in sorted(by_seed.items())}


def cut(returns: FloatArray, ceiling: float | None) -> FloatArray:
    """Returns as the paper reports them; training never sees the ceiling."""
    return returns if ceiling is None else np.minimum(returns, ceiling)


def trailing_mean(values: FloatArray, window: int = WINDOW) -> FloatArray:
    """[..., E] mean of each episode and of up to window - 1 before it."""
    total = np.cumsum(values, axis=-1)
    total[..., window:] = total[..., window:] - total[..., :-window]
    return total / np.minimum(np.arange(1, values.shape[-1] + 1), window)


def first_at(returns: FloatArray, goal: float = GOAL) -> int | None:
    """Number of the first episode, from 1, with a return of at least `goal`."""
    reached = np.flatnonzero(returns >= goal)
    return int(reached[0]) + 1 if reached.size else None


def deviation_after(returns: FloatArray, goal: float = GOAL) -> float | None:
    """Standard deviation of the returns, cut at `goal`, after the first that reaches it.

    None where fewer than WINDOW episodes are left.
    """
    first = first_at(returns, goal)
    if first is None or len(returns) - first < WINDOW:
        return None
    return float(np.std(cut(returns[first:], goal)))


def earlier(found: dict[str, Arm]) -> Contrast:
    """When each seed first reaches GOAL; one that never does counts as its last episode."""

    def when(returns: FloatArray) -> float:
        return float(first_at(returns) or len(returns))

    return _contrast(*([when(r) for r in found[q].returns.values()] for q in (FLOAT, QAT)))


def steadier(found: dict[str, Arm]) -> Contrast:
    """How much each seed's cut returns vary after its first GOAL; seeds without it are left out."""
    values = ([deviation_after(r) for r in found[q].returns.values()] for q in (FLOAT, QAT))
    return _contrast(*([v for v in arm if v is not None] for arm in values))


def last_returns(found: dict[str, Arm], ceiling: float | None) -> Contrast:
    """Each seed's mean return over its last LAST episodes."""

    def mean(returns: FloatArray) -> float:
        return float(cut(returns, ceiling)[-LAST:].mean())

    return _contrast(*([mean(r) for r in found[q].returns.values()] for q in (FLOAT, QAT)))


def all_returns(found: dict[str, Arm], ceiling: float | None) -> Contrast:
    """Each seed's mean return over all its episodes: the area under its curve."""

    def mean(returns: FloatArray) -> float:
        return float(cut(returns, ceiling).mean())

    return _contrast(*([mean(r) for r in found[q].returns.values()] for q in (FLOAT, QAT)))


def final_returns(found: dict[str, Arm], ceiling: float | None) -> Contrast:
    """Each seed's mean greedy return after training, of QAT the integer network's."""

    def means(cell: Cell) -> list[float]:
        seeds = (cell.summary or {}).get("seeds", [])
        return [fmean(cut(np.array(seed["eval_returns"]), ceiling)) for seed in seeds]

    return _contrast(*(means(found[quant].cell) for quant in (FLOAT, QAT)))


def is_more(contrast: Contrast, fewest: int = MIN_SEEDS) -> str:
    """Whether QAT's number is above float's: `yes`, `no, below`, or `not shown`.

    A bootstrap over fewer than `fewest` seeds in either arm shows nothing.
    """
    if contrast.interval is None or contrast.fewest < fewest:
        return "not shown"
    if contrast.interval.low > 0:
        return "yes"
    return "no, below" if contrast.interval.high < 0 else "not shown"


def is_alike(contrast: Contrast, tolerance: float = stats.TOLERANCE) -> str:
    """Whether the arms are equal within a share of float's IQM: `yes`, `no` or `not shown`.

    Two one-sided tests: the whole interval must lie within the margin. An interval that merely
    holds 0 shows no equality.
    """
    if contrast.interval is None or contrast.fewest < MIN_SEEDS:
        return "not shown"
    margin = tolerance * abs(float(stats.iqm(contrast.float_values)))
    low, high = contrast.interval
    if -margin < low and high < margin:
        return "yes"
    return "no" if low > 0 or high < 0 else "not shown"


@dataclass(frozen=True)
class Memory:
    """Table 2 for one env: what processes of one seed took, in bytes.

    Attributes:
        env: its choice.
        peaks: arm -> peak of each process (VmHWM).
        imports: arm -> what each process held before anything was built.
        ledgers: arm -> records.MEMORY_KEYS -> bytes, the mean over processes.
        disk: arm -> bytes of the deployed network.
    """

    env: str
    peaks: dict[str, list[float]]
    imports: dict[str, list[float]]
    ledgers: dict[str, dict[str, float]]
    disk: dict[str, int | None]

    @property
    def difference(self) -> Contrast:
        """QAT's peak minus float's; means, because every process counts alike."""
        a, b = self.peaks[FLOAT], self.peaks[QAT]
        interval = _mean_difference_ci(b, a)
        return Contrast(a, b, fmean(b) - fmean(a), interval)

    @property
    def ledger_difference(self) -> float:
        """QAT's ledger minus float's."""
        return sum(self.ledgers[QAT].values()) - sum(self.ledgers[FLOAT].values())


def memory(cells: Iterable[Cell], env: str) -> Memory | None:
    """Table 2 from an env's cells of one seed each; None unless both arms are there."""
    single = [
        cell
        for cell in cells
        if cell.axes["env"] == env and cell.state == "done" and len(cell.returns) == 1
    ]
    by_arm = {quant: [c for c in single if c.axes["quant"] == quant] for quant in (FLOAT, QAT)}
    if not all(by_arm.values()):
        return None
    summaries = {quant: [c.summary or {} for c in found] for quant, found in by_arm.items()}
    return Memory(
        env,
        peaks={q: [s["peak_rss_bytes"] for s in all_] for q, all_ in summaries.items()},
        imports={
            q: [s["peak_rss_bytes"] - s.get("peak_rss_above_imports_bytes", 0) for s in all_]
            for q, all_ in summaries.items()
        },
        ledgers={
            q: {key: fmean(s["memory_bytes"][key] for s in all_) for key in records.MEMORY_KEYS}
            for q, all_ in summaries.items()
        },
        disk={q: deployed_bytes(found[0]) for q, found in by_arm.items()},
    )


def _contrast(float_values: Sequence[float], qat_values: Sequence[float]) -> Contrast:
    a, b = list(float_values), list(qat_values)
    if not a or not b:
        return Contrast(a, b, float("nan"), None)
    return Contrast(a, b, stats.difference(b, a), stats.unpaired_difference_ci(b, a))


def _mean_difference_ci(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """Welch's interval of mean(a) - mean(b); None with fewer than two values in either.

    Five processes are too few for a bootstrap, and peaks of equal processes are near normal.
    """
    from scipy.stats import ttest_ind

    if min(len(a), len(b)) < 2:
        return None
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return Interval(fmean(a) - fmean(b), fmean(a) - fmean(b))
    found = ttest_ind(a, b, equal_var=False).confidence_interval(stats.CONFIDENCE)
    return Interval(float(found.low), float(found.high))
