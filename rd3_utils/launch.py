"""How both scripts start: one Accelerator that is right for this machine, reproducible settings, one-line errors."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

# cuBLAS reads this when CUDA starts; without it matrix products on a GPU may differ from run to run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import datasets
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub.utils import disable_progress_bars

from rd3_utils.errors import UserError, refused, stop

T = TypeVar("T")

OTHERS_WAIT = 5  # seconds
NO = ("", "0", "no", "none", "false", "off")
LAUNCH_PRECISIONS = ("no", "fp32", "bf16", "fp16")
# variable, of a launcher or set by hand, that changes what is computed -> values that change nothing
ARITHMETIC: dict[str, tuple[str, ...]] = {
    "ACCELERATE_MIXED_PRECISION": LAUNCH_PRECISIONS,
    "ACCELERATE_DYNAMO_BACKEND": NO,
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",),
    **{f"ACCELERATE_USE_{plugin}": NO for plugin in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")},
    **dict.fromkeys(("ACCELERATE_DOWNCAST_BF16", "XLA_USE_BF16", "XLA_DOWNCAST_BF16"), NO),
    **dict.fromkeys(("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION"), NO),
    **dict.fromkeys(("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"), ("", "strict")),
    "PYTORCH_MPS_FAST_MATH": NO,
}
CONFIG: dict[str, tuple[str, ...]] = {  # the same of a config file of accelerate
    "mixed_precision": LAUNCH_PRECISIONS,
    "distributed_type": ("no", "multi_cpu", "multi_gpu"),
    "downcast_bf16": NO,
    "dynamo_backend": NO,
}


def accelerator(**arguments: Any) -> Accelerator:
    """The Accelerator of this process, on the CPU wherever there is no accelerator, whatever the launch file says.

    UserError when the launch asked for several processes and this one is alone: two runs would then overwrite each other,
    or one would pass for two.
    """
    alone = "WORLD_SIZE" not in os.environ and "MASTER_PORT" in os.environ  # accelerate's launcher for --cpu sets only one
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise UserError(
            "the launch asked for several processes but started one (accelerate launch --cpu or MULTI_CPU without mpirun "
            "does that); use --config_file accelerate_configs/cpu_2_processes.yaml."
        )
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not (value := os.environ.get(name, "0")).isdigit():
            raise UserError(f"{name} is '{value[:40]}', wanted a number as a launcher sets it; unset it, or launch again.")
    check_arithmetic(ARITHMETIC, os.environ)
    use_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    try:
        accelerator = Accelerator(cpu=use_cpu, **arguments)
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"accelerate cannot start as the launch asks: {' '.join(str(error).split())}") from error
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise UserError(f"the launch started {asked} processes but they do not see one another; check its config file.")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"the launch sets gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, which divides the loss; "
            "a protocol's batch size is whole: leave it at 1."
        )
    state = {"mixed_precision": accelerator.mixed_precision, "dynamo_backend": accelerator.state.dynamo_plugin.backend.value}
    check_arithmetic(CONFIG, state, "the launch: ")
    if accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UserError(f"distributed_type {accelerator.distributed_type.value}: the scripts run alone or under DDP only.")
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # warn, not fail: a network with an operation that has no deterministic CUDA kernel still trains, and torch names it
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid that costs a tenth of the time; torch makes a property of it when it is imported
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return accelerator


def check_arithmetic(table: Mapping[str, tuple[str, ...]], stated: Mapping[str, Any], where: str = "") -> None:
    """UserError where a value of `stated` {name: value or None} is not one of those that `table` (ARITHMETIC, CONFIG) names.

    What is computed is the protocol's, in a precision that is recorded; another score would not say why it is one.
    """
    for name, harmless in table.items():
        value = str(harmless[0] if stated.get(name) is None else stated[name])
        known = value if harmless is LAUNCH_PRECISIONS else value.lower()  # accelerate computes "BF16" in float32
        if known not in harmless:
            wanted = "leave it out" if harmless is NO else f"use {' or '.join(filter(None, harmless))}"
            raise UserError(f"{where}{name} is {value[:60]}: it changes what is computed, and no Run would say so; {wanted}.")


def check_config(config: object, where: str) -> None:
    """UserError where an accelerate config, as read from the file `where`, would be refused once it is launched."""
    stated = {name: getattr(config, name, None) for name in CONFIG} | (getattr(config, "dynamo_config", None) or {})
    check_arithmetic(CONFIG, {name: getattr(value, "value", value) for name, value in stated.items()}, f"{where}: ")


def environment(accelerator: Accelerator) -> dict:
    """What a Run records of where it ran: enough to explain a different last digit, no names or paths of the machine."""
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    packages = "torch torchvision timm accelerate datasets evaluate safetensors numpy".split()
    return {
        "processes": accelerator.num_processes,
        "precision": precision(accelerator),
        "devices": f"{accelerator.num_processes} x {accelerator.device.type} ({device})",
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "git": git_commit(),
    }


def processor() -> str | None:
    """The model of the CPU, which decides the last digits; None where the system does not say it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip().isprintable():
                return value.strip()[:100] or None
    return platform.processor() or None


def git_commit() -> str | None:
    """The project's commit, with "-dirty" where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "") if head.returncode == 0 else None


def precision(accelerator: Accelerator) -> str:
    """What arithmetic really runs: fp32, bf16 or fp16. On a CPU, accelerate silently does fp16 in fp32."""
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        return "fp32"
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)


def on_several_gpus(accelerator: Accelerator) -> bool:
    """Whether SyncBatchNorm exists here."""
    return accelerator.num_processes > 1 and accelerator.distributed_type == DistributedType.MULTI_GPU


def agree(accelerator: Accelerator, value: object, name: str) -> None:
    """UserError unless `value` is the same in every process; `name` says what it is and why it may differ."""
    values = gather_object([value]) if accelerator.num_processes > 1 else [value]
    if any(other != value for other in values):
        raise UserError(f"the processes differ in {name}: {', '.join(str(v)[:80] for v in values)}.")


def from_main(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """What `function()` returns in the main process, in every process; a UserError there becomes one in all."""
    answer: list[Any] = [None]

    def ask() -> None:
        answer[0] = function() if accelerator.is_main_process else None

    raise_on_all(accelerator, ask)
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]


def raise_on_all(accelerator: Accelerator, function: Callable[[], object]) -> None:
    """Call `function()` here; a UserError in any process becomes the same in all, so that none waits for ever.

    All raise that of the first process that has one, of its class.
    """
    own = None
    try:
        function()
    except UserError as error:
        own = error
    every = gather_object([own and (type(own), str(own))]) if accelerator.num_processes > 1 else []
    first = next(filter(None, every), None)
    if first:
        raise first[0](first[1])
    if own:
        raise own


def run(main: Callable[[T], object], options: T) -> None:
    """`main(options)`; a UserError ends the process with one line on stderr and exit code 2."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, in one line
    disable_progress_bars()
    try:
        main(options)
    except (UserError, OSError) as error:
        one_line = refused(error)
        if os.environ.get("RANK", "0") not in ("", "0"):
            time.sleep(OTHERS_WAIT)  # where the main process has the same to say, the launcher ends this one meanwhile
        stop(one_line)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
