"""The C policy on a microcontroller: built for a Cortex-M4 and run in an emulator.

    policy.c + firmware.c  -> flash and RAM bytes, by arm-none-eabi-size
    policy.c + harness.c   -> QEMU's board mps2-an386: sums, outputs, instructions per action

With `-icount shift=0` QEMU's clock advances by 1 ns per instruction, whatever the instruction, and
the board's system timer counts that clock at 25 MHz: a tick is 40 instructions, which a loop of
known length confirms in every run. One action is so known to 40 instructions, the mean of a
thousand to about one; reading the timer and the call itself add some 15. Instructions are not
cycles: a Cortex-M4 takes one for most of them, two for a load, up to twelve for a division, and
more from flash that is slower than it. Floats are computed without the FPU.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qbench.deploy import c
from qbench.quant.integer import IntegerNetwork
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

NAME = "cortex-m4"
GCC, SIZE, QEMU = TOOLS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
SOURCES = Path(__file__).parent / "cortex_m"
TARGET = ("-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections")
LIBRARY = "nano.specs"
LINK = ("-nostartfiles", f"--specs={LIBRARY}", "-Wl,--gc-sections", "-lm")
MACHINE = ("-machine", "mps2-an386", "-icount", "shift=0", "-nographic", "-monitor", "none")
CALIBRATION = 400_000
"""Instructions of harness.c's loop."""
LIMIT_S = 300
OUTPUT_TOLERANCE = 1e-6
"""Of an actor's outputs: newlib's tanhf and NumPy's differ in the last bit."""


class DeviceError(ValueError):
    """The policy cannot be built or run there, or computes something else."""


class OnDevice(NamedTuple):
    """What one agent takes on a microcontroller."""

    flash_bytes: int  # code and constants of the whole program: policy, start, what it calls
    ram_bytes: int  # data, observation, outputs and stack of the same
    stack_bytes: int  # of these, the most that the stack took
    actions: int  # all of them the host's, from the same sums
    instructions_per_action: float  # mean
    max_instructions_per_action: float


def missing() -> list[str]:
    """The tools that are not on the PATH, and the C library if the compiler lacks it."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if GCC not in absent:
        # An unknown file's name is printed as it was given.
        found = subprocess.run(
            [GCC, f"-print-file-name={LIBRARY}"], capture_output=True, text=True, check=False
        )
        absent += [] if Path(found.stdout.strip()).is_absolute() else [f"newlib's {LIBRARY}"]
    return absent


def measure(policy: IntegerPolicy, spec: EnvSpec, obs: ObsArray) -> OnDevice:
    """Build one agent, run it and compare its integers and actions with the NumPy reference.

    Args:
        policy: an integer network.
        spec: of its env.
        obs: [N, *obs_shape] to act on.

    Raises:
        DeviceError: tools are missing, the program does not fit, or it computes something else.
        SourceError: the network has no form in C.
    """
    if absent := missing():
        raise DeviceError(f"--device {NAME} needs {', '.join(absent)}: make device installs them.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        c.save(folder, policy, spec)
        assert isinstance(policy, IntegerNetwork)
        kind = "float" if spec.obs_high is None else "uint8_t"
        flash, static = _sizes(_build(folder, "firmware", kind))
        raw = _run(folder, _build(folder, "harness", kind), obs, spec)
    counts, outputs, ticks, stack = _parsed(raw, len(obs), len(policy.output_scale))
    _compare(policy, spec, obs, counts, outputs)
    instructions = ticks[1:] * (CALIBRATION / ticks[0])
    return OnDevice(
        flash_bytes=flash,
        ram_bytes=static + stack,
        stack_bytes=stack,
        actions=len(obs),
        instructions_per_action=round(float(instructions.mean()), 1),
        max_instructions_per_action=float(instructions.max()),
    )


def _build(folder: Path, program: str, obs_type: str) -> Path:
    """Compile and link a program around policy.c."""
    made = folder / f"{program}.elf"
    sources = [folder / "policy.c", SOURCES / "startup.c", SOURCES / f"{program}.c"]
    script = f"-T{SOURCES / 'flash.ld'}"
    flags = [*c.FLAGS, *TARGET, f"-DOBS_TYPE={obs_type}", f"-I{folder}", script]
    _call([GCC, *flags, *map(str, sources), "-o", str(made), *LINK], folder)
    return made


def _sizes(program: Path) -> tuple[int, int]:
    """Bytes of flash, and of RAM without the stack."""
    text = _call([SIZE, str(program)], program.parent)
    code, data, zeroed = (int(n) for n in text.splitlines()[1].split()[:3])
    return code + data, data + zeroed


def _run(folder: Path, program: Path, obs: ObsArray, spec: EnvSpec) -> bytes:
    """What the harness wrote."""
    dtype = np.float32 if spec.obs_high is None else np.uint8
    (folder / "observations.bin").write_bytes(np.ascontiguousarray(obs, dtype).tobytes())
    semihosting = ["-semihosting-config", "enable=on,target=native"]
    _call([QEMU, *MACHINE, *semihosting, "-kernel", str(program)], folder)
    return (folder / "results.bin").read_bytes()


def _call(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{command[0]} took more than {LIMIT_S} s: ask for fewer actions."
        ) from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["without a word"])[-1]
        raise DeviceError(f"{command[0]} failed: {said}") from error
    return done.stdout


def _parsed(
    raw: bytes, num_rows: int, num_outputs: int
) -> tuple[npt.NDArray[np.int32], FloatArray, FloatArray, int]:
    """Sums [N, A], outputs [N, A], ticks [1 + N] with the calibration's first, bytes of stack."""
    words = np.frombuffer(raw, "<i4")
    if len(words) != 2 + num_rows * (2 * num_outputs + 1):
        raise DeviceError(f"the emulator stopped early, after {len(raw)} bytes of results.")
    rows = words[1:-1].reshape(num_rows, -1)
    sums, outputs, ticks = np.split(rows, [num_outputs, 2 * num_outputs], axis=1)
    ticks = np.concatenate([words[:1], ticks[:, 0]]).astype(np.float64)
    return sums, np.ascontiguousarray(outputs).view("<f4"), ticks, int(words[-1])


def _compare(
    policy: IntegerNetwork,
    spec: EnvSpec,
    obs: ObsArray,
    sums: npt.NDArray[np.int32],
    outputs: FloatArray,
) -> None:
    *codes, expected = policy.trace(obs)
    differing = int((policy.layers[-1].accumulate(codes[-1]) != sums).sum())
    if differing:
        raise DeviceError(f"{NAME} and NumPy differ in {differing} sums.")
    if spec.num_actions is not None:
        same = expected.argmax(axis=1) == outputs.argmax(axis=1)
    else:
        same = np.isclose(outputs, expected, OUTPUT_TOLERANCE, OUTPUT_TOLERANCE).all(axis=1)
    if not same.all():
        raise DeviceError(f"{NAME} and NumPy differ in {int((~same).sum())} actions.")
