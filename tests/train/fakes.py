"""A training that is none, for jobs that are real processes."""

# What the fake does is said by the budget, so that every case is a cell of its own.
DONE, RAISES, KILLED, SLEEPS, REFUSES, EXHAUSTS = 2000, 2001, 2002, 2003, 2004, 2005
OTHERS = 3000  # and above: done, too

# Python imports a `sitecustomize` at start, so a job finds this in place of the training.
FAKE_TRAINING = """
import os, resource, signal, sys, time, types

def train_cell(cfg, run_dir, axes, base_dir, stop):
    from qbench import records
    from qbench.train.errors import ConfigError
    seeds = range(cfg.seed, cfg.seed + cfg.num_seeds)
    if (run_dir / "summary.json").exists():
        trained = {entry["seed"] for entry in records.read_summary(run_dir)["seeds"]}
        if trained.issuperset(seeds):
            return  # As the true one: stopped between its summary and its status.
    started = time.monotonic()
    with open("started.txt", "a") as file:
        file.write(f"{run_dir.name}\\n")
    threads = [os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")]
    print("threads", *threads, "torch", "torch" in sys.modules)
    records.append_records(run_dir, [{"kind": "train", "seed": 0, "env_step": 1, "wall_s": 0.0}])
    match cfg.total_env_steps:
        case 2001: raise ValueError("the weights are\\nnot finite")
        case 2002: os.kill(os.getpid(), signal.SIGKILL)
        case 2003: time.sleep(60)
        case 2004: raise ConfigError("trainer=gpu needs a CUDA device.")
        case 2005:
            resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
            bytearray(2**31)
    time.sleep(0.2)
    seeds = [{"seed": seed, "eval_returns": [1.0], "eval_return_mean": 1.0}
             for seed in seeds]
    memory = dict.fromkeys(records.MEMORY_KEYS, 0)
    # So that a cell is counted if and only if it has its summary.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    records.write_json(run_dir / "summary.json", {
        **dict.fromkeys(records.SUMMARY_KEYS, None), **axes,
        "schema_version": records.SCHEMA_VERSION, "num_seeds": len(seeds), "seeds": seeds,
        "return_iqm": cfg.algo.learner.gamma, "memory_bytes": memory, "artifact_bytes": {},
        "span": [started, time.monotonic()], "base": str(base_dir) if base_dir else None})
    with open("ended.txt", "a") as file:
        file.write(f"{run_dir.name}\\n")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

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
