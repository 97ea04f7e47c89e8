"""What whole jobs and sweeps take around their cycles: `python -m tests.bench.whole`.

A job is CartPole's with the peers' network, eight seeds and an update per env step, logged offline
to Weights & Biases, without evaluations. Its parts are those of a cycle, and all else between the
first of them and the last update is bookkeeping: Lightning, metrics, records, logging.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from tests.bench import cpu, workload

NUM_SEEDS = 8
ENV_STEPS = 6000
SWEEP = ["-m", "algo.learner.gamma=0.96,0.97,0.98,0.99", "total_env_steps=20_000", "formats=[]"]


def train(run_dir: Path) -> None:
    """Train the cell of a run folder in this process and print what it took, as JSON."""
    from qbench.algo.dqn import DQN
    from qbench.collect import Collector
    from qbench.replay import ReplaySampler
    from qbench.train import job

    collect, update = cpu.Timed(Collector, "collect"), cpu.Timed(DQN, "update")
    sample = cpu.Timed(ReplaySampler, "sample")
    if job.main([str(run_dir)]):
        sys.exit(1)
    cycles_s = collect.spent_s + sample.spent_s + update.spent_s
    share = 1 - cycles_s / (update.ended_s - collect.began_s)
    print(json.dumps({"bookkeeping_share": share, "fixed_s": collect.first_call_s}))


def job_costs() -> dict[str, float]:
    """Share of bookkeeping, and seconds to the first env step, of a job of its own."""
    from qbench.train import cells, process

    overrides = [
        *workload.cartpole(NUM_SEEDS, 1), f"total_env_steps={ENV_STEPS}", "eval_episodes=1",
        "eval_interval_env_steps=0", "formats=[]", "logger=offline",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="qbench_whole_") as folder:
        with initialize_config_dir(version_base="1.3", config_dir=str(workload.CONF_DIR)):
            cfg = compose("config", overrides, return_hydra_config=True)
        cell = cells.Cell(cfg, Path(folder) / "cell")
        process.prepare(cell)
        command = [sys.executable, "-m", "tests.bench.whole", "--train", str(cell.run_dir)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=cpu.job_environment()
        )
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


def sweep_s(num_jobs: int) -> float:
    """Wall seconds of a sweep of four like cells."""
    command = [sys.executable, "-m", "qbench", *SWEEP, f"n_jobs={num_jobs}"]
    with tempfile.TemporaryDirectory(prefix="qbench_whole_") as folder:
        environment = os.environ | {"PYTHONPATH": str(workload.CONF_DIR.parent)}
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--train", type=Path, metavar="RUN", help="train one cell here")
    args = parser.parse_args()
    if args.train:
        train(args.train)
        return
    for _ in range(args.rounds):
        costs = job_costs()
        print(
            f"job: bookkeeping {costs['bookkeeping_share']:.1%} of the CPU time from first cycle"
            f" to last update, {costs['fixed_s']:.1f} s to the first env step",
            flush=True,
        )
    for _ in range(args.rounds):
        alone, together = sweep_s(1), sweep_s(2)
        print(
            f"sweep of four cells: {alone:.0f} s with n_jobs=1, {together:.0f} s with n_jobs=2,"
            f" {alone / together:.2f} times sooner",
            flush=True,
        )


if __name__ == "__main__":
    main()
