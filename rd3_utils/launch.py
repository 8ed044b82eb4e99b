"""How both scripts start: one Accelerator that is right for this machine, reproducible settings, one-line errors."""

import importlib.util
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

# cuBLAS reads this when CUDA starts; without it matrix products on a GPU may differ from run to run
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import datasets
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub.utils import disable_progress_bars

from rd3_utils.errors import TagTaken, UserError, stop

OTHERS_WAIT = 5  # seconds


def accelerator(**arguments):
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
    use_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    accelerator = Accelerator(cpu=use_cpu, **arguments)
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != asked:
        raise UserError(f"the launch started {asked} processes but they do not see one another; check its config file.")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"the launch sets gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, which divides the loss; "
            "a protocol's batch size is whole: leave it at 1."
        )
    if accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise UserError(f"distributed_type {accelerator.distributed_type.value}: the scripts run alone or under DDP only.")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # warn, not fail: a network with an operation that has no deterministic CUDA kernel still trains, and torch names it
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a tenth of the time
    return accelerator


def tracking(log_with, folder):
    """Arguments of `accelerator` for an experiment tracker; UserError when its package is not installed."""
    if log_with is None:
        return {}
    if importlib.util.find_spec(log_with) is None:
        raise UserError(f"--log-with {log_with}: the package is not installed; pip install {log_with}.")
    return {"log_with": log_with, "project_dir": str(folder)}


def environment(accelerator):
    """What a Run records of where it ran: enough to explain a different last digit, no names or paths of the machine."""
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine()
    packages = "torch torchvision timm accelerate datasets evaluate safetensors numpy".split()
    return {
        "processes": accelerator.num_processes,
        "precision": precision(accelerator),
        "devices": f"{accelerator.num_processes} x {accelerator.device.type} ({device})",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "git": git_commit(),
    }


def git_commit():
    """The project's commit, with "-dirty" where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "") if head.returncode == 0 else None


def precision(accelerator):
    """What arithmetic really runs: fp32, bf16 or fp16. On a CPU, accelerate silently does fp16 in fp32."""
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        return "fp32"
    return {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)


def on_several_gpus(accelerator):
    """Whether SyncBatchNorm exists here."""
    return accelerator.num_processes > 1 and accelerator.distributed_type == DistributedType.MULTI_GPU


def agree(accelerator, value, what):
    """UserError unless `value` is the same in every process; `what` says what it is and why it may differ."""
    values = gather_object([value]) if accelerator.num_processes > 1 else [value]
    if any(other != value for other in values):
        raise UserError(f"the processes differ in {what}: {', '.join(str(v)[:80] for v in values)}.")


def from_main(accelerator, function):
    """What `function()` returns in the main process, in every process; a UserError there becomes one in all."""
    found = [None]

    def ask():
        found[0] = function() if accelerator.is_main_process else None

    raise_on_all(accelerator, ask)
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def raise_on_all(accelerator, function):
    """Call `function()` here; a UserError in any process becomes a UserError in all, so that none waits for ever."""
    message = None
    try:
        function()
    except UserError as error:
        message = str(error)
    messages = [m for m in gather_object([message]) if m] if accelerator.num_processes > 1 else [message]
    if messages and messages[0]:
        raise UserError(messages[0])


def again(error, *more):
    """This command as words that repeat it after `error`, with `more` options, and a --tag to choose where it was the tag."""
    module = sys.argv[0].endswith("__main__.py")
    words = ["python", "-m", "rd3_utils"] if module else ["accelerate", "launch", sys.argv[0]]
    words += [*sys.argv[1:], *(word for word in more if word not in sys.argv)]
    if isinstance(error, TagTaken) and "--tag" in words:
        words[words.index("--tag") + 1] = "ANOTHER"
    return words


def run(main, options):
    """`main(options)`; a UserError ends the process with one line on stderr and exit code 2."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, in one line
    disable_progress_bars()
    try:
        main(options)
    except UserError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            time.sleep(OTHERS_WAIT)  # where the main process has the same to say, the launcher ends this one meanwhile
        stop(error)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
