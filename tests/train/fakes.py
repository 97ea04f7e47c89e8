"""A training that is none, for jobs that are real processes."""

# What the fake does is said by the budget, so that every case is a cell of its own.
DONE, RAISES, KILLED, SLEEPS, REFUSES = 2000, 2001, 2002, 2003, 2004

# Python imports a `sitecustomize` at start, so a job finds this in place of the training.
FAKE_TRAINING = """
import os, signal, sys, time, types

def train_cell(cfg, run_dir, axes, base_dir, stop):
    from qbench import records
    from qbench.train.errors import ConfigError
    started = time.monotonic()
    print("threads", os.environ["OMP_NUM_THREADS"], "torch", "torch" in sys.modules)
    records.append_records(run_dir, [{"kind": "train", "seed": 0, "env_step": 1, "wall_s": 0.0}])
    match cfg.total_env_steps:
        case 2001: raise ValueError("the weights are\\nnot finite")
        case 2002: os.kill(os.getpid(), signal.SIGKILL)
        case 2003: time.sleep(60)
        case 2004: raise ConfigError("trainer=gpu needs a CUDA device.")
    time.sleep(0.2)
    seeds = [{"seed": seed, "eval_returns": [1.0], "eval_return_mean": 1.0}
             for seed in range(cfg.seed, cfg.seed + cfg.num_seeds)]
    memory = dict.fromkeys(records.MEMORY_KEYS, 0)
    records.write_json(run_dir / "summary.json", {
        **dict.fromkeys(records.SUMMARY_KEYS, None), **axes,
        "schema_version": records.SCHEMA_VERSION, "num_seeds": len(seeds), "seeds": seeds,
        "memory_bytes": memory, "artifact_bytes": {},
        "span": [started, time.monotonic()], "base": str(base_dir) if base_dir else None})

cell = types.ModuleType("qbench.train.cell")
cell.train_cell = train_cell
sys.modules[cell.__name__] = cell

table = types.ModuleType("qbench.report.table")
table.print_table = lambda run_dirs, console=None: print("table of", len(run_dirs))
report = types.ModuleType("qbench.report.write")
report.after_sweep = lambda run_dirs, with_page: print("report of", len(run_dirs), with_page)
sys.modules[table.__name__] = table
sys.modules[report.__name__] = report
"""
