"""`python -m qbench.evaluate RUN`: plays, draws and diagnoses the stored agents of a finished run.

A run folder may come from anywhere: reading one executes nothing that is stored in it. Its config
may name classes of qbench alone, and env ids without ':'; --trust adds a module of yours.
policy.onnx and policy.c are played only if they are what qbench writes from policy.npz: C of a
stranger is not compiled.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qbench import records
from qbench.deploy.checks import Form
from qbench.deploy.stored import Agent, choose, load_agents, load_env, require_done
from qbench.evaluate import render, runtimes
from qbench.evaluate.play import Played, greedy, play
from qbench.types import EnvFactory, EnvSpec

PLAYED, DIAGNOSED = 100, 10


def main(argv: list[str] | None = None) -> int:
    """Do what is asked; returns the exit code."""
    args = _parse(argv)
    try:
        _check(args)
        _run(args)
    except (records.RunFolderError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m qbench.evaluate", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished cell")
    parser.add_argument(
        "--seed", default="all", help="a training seed, best (by its return), or all (default: all)"
    )
    parser.add_argument(
        "--episodes",
        type=int,
        help=f"per seed (default: {PLAYED}), or per level of noise (default: {DIAGNOSED})",
    )
    parser.add_argument(
        "--runtime",
        choices=runtimes.NAMES,
        default="numpy",
        help="what plays: torch, the network as it was trained, from its checkpoint; numpy,"
        " policy.npz; onnx, policy.onnx in ONNX Runtime; c, policy.c compiled by gcc"
        " (default: numpy)",
    )
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="draw one greedy episode as a .gif or .mp4"
    )
    parser.add_argument(
        "--diagnose",
        action="store_true",
        help="compare the quantized with the float agent: flipped actions, layer by layer, under"
        " noise; written to diagnose.json in RUN",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="classes of this module may be built too; may be repeated",
    )
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    if args.episodes is not None and args.episodes < 1:
        raise ValueError(f"--episodes is {args.episodes}: it must be at least 1.")
    if args.render and args.diagnose:
        raise ValueError("--render and --diagnose are two things: ask for one of them.")
    if args.render:
        render.check_file(args.render)
    require_done(args.run_dir)


def _run(args: argparse.Namespace) -> None:
    env = load_env(args.run_dir, args.trust)
    spec = env.describe()
    agents = load_agents(args.run_dir, spec)
    chosen = choose(agents, args.seed, args.run_dir)
    if args.diagnose:
        _diagnose(args, env, spec, agents, chosen)
        return
    policies = runtimes.make(args.runtime, args.run_dir, spec, agents, chosen, args.trust)
    if args.render:
        _render(args, spec, chosen, policies)
    else:
        _play(args, env, spec, chosen, policies)


def _play(
    args: argparse.Namespace,
    env: EnvFactory,
    spec: EnvSpec,
    chosen: Sequence[Agent],
    policies: Sequence[Form],
) -> None:
    began = time.perf_counter()
    played = play(
        greedy(policies, spec),
        env.make,
        num_seeds=len(chosen),
        num_episodes=args.episodes or PLAYED,
    )
    per_s = played.lengths.sum() / (time.perf_counter() - began)
    show([agent.seed for agent in chosen], played)
    print(f"{per_s:,.0f} actions/s with {args.runtime}, the env's steps included")


def show(seeds: list[int], played: Played) -> None:
    """One line per seed."""
    for seed, returns, lengths in zip(seeds, played.returns, played.lengths, strict=True):
        print(
            f"seed {seed}: return {returns.mean():.1f} (sd {returns.std():.1f}), "
            f"length {lengths.mean():.0f} ({lengths.min()} to {lengths.max()}), "
            f"{len(returns)} episodes"
        )


def _render(
    args: argparse.Namespace,
    spec: EnvSpec,
    chosen: Sequence[Agent],
    policies: Sequence[Form],
) -> None:
    agent, policy = chosen[0], policies[0]
    env = render.make_drawn(args.run_dir, args.trust)
    frames, total = render.episode(policy, env, spec)
    render.write(args.render, frames, env.metadata.get("render_fps") or render.DEFAULT_FPS)
    print(f"{args.render}: seed {agent.seed}, return {total:.1f}, {len(frames):,} frames")


def _diagnose(
    args: argparse.Namespace,
    env: EnvFactory,
    spec: EnvSpec,
    agents: Sequence[Agent],
    chosen: Sequence[Agent],
) -> None:
    from qbench.deploy.population import TorchPolicy, load_observations, load_population
    from qbench.evaluate import diagnose

    population = load_population(args.run_dir, spec, agents, args.trust)
    if not list(diagnose.one_at_a_time(population.plain, population.prepared)):
        raise ValueError(f"{args.run_dir} is a float cell: --diagnose compares a quantized one.")
    found: list[dict[str, Any]] = []
    for agent in chosen:
        k = population.seeds.index(agent.seed)
        figures = {"seed": agent.seed, **diagnose.measure(population, k, spec)}
        figures["noise"] = diagnose.under_noise(
            {"float": TorchPolicy(population.plain, k), "quantized": agent.policy},
            load_observations(population.observations[k]),
            env.make,
            spec,
            num_episodes=args.episodes or DIAGNOSED,
        )
        print("\n".join(diagnose.table(figures)), end="\n\n")
        found.append(figures)
    records.write_json(args.run_dir / "diagnose.json", {"schema_version": 1, "seeds": found})


if __name__ == "__main__":
    sys.exit(main())
