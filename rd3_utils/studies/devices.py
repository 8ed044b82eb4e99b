"""Which device, cores and memory settings each worker of a study gets, from its accelerate config."""

import os
from pathlib import Path

import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from rd3_utils import launch, subprocesses
from rd3_utils.errors import UserError

# glibc's malloc(3): keep freed memory, where each step would return its large buffers to the kernel and ask again; the bits
# are the same. Measured: python -m bench.memory. MALLOC_MMAP_THRESHOLD_ would not do: mallopt(3) limits it to 32 MiB.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30)}


def read_config(path: Path | str) -> ClusterConfig:
    """An accelerate config file as accelerate reads it; UserError where it is none, or no cell could run under it."""
    try:
        config = load_config_from_file(str(path))
    except Exception as error:  # of a library, and of many kinds
        raise UserError(f"--config {path} is no config file of accelerate: {str(error).splitlines()[0]}") from error
    launch.check_config(config, f"--config {path}")
    return config


def device_of(config: ClusterConfig) -> str:
    """The kind of device that an accelerate config runs on here: cpu, cuda, ..."""
    here = None if config.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return here.type if here else "cpu"


def precision_of(config: ClusterConfig) -> str:
    """The precision that runs under an accelerate config: fp32, bf16 or fp16, which a CPU does not have."""
    mixed = str(config.mixed_precision)
    if mixed == "fp16" and device_of(config) == "cpu":
        return "fp32"
    return mixed if mixed in ("bf16", "fp16") else "fp32"


def places(workers: int, config: ClusterConfig) -> list[dict[str, str]]:
    """[variables of each place where a cell can run]: a share of the cores each, and of the GPUs where there are any.

    More workers than GPUs share them: small students leave most of one idle. UserError where several workers would each start
    several processes. OMP_NUM_THREADS that is set already stays, and so do glibc's variables.
    """
    processes = config.num_processes or 1
    if workers > 1 and processes > 1:
        raise UserError(f"--workers {workers} with {processes} processes each; give a --config of one process, or one worker.")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, subprocesses.cores() // (workers * processes)))
    if config.use_cpu or not torch.cuda.is_available():
        stated = any(name.startswith(("MALLOC_MMAP", "MALLOC_TRIM", "GLIBC_TUNABLES")) for name in os.environ)
        memory = {} if stated else KEEP_MEMORY
        return [{"OMP_NUM_THREADS": threads, **memory}] * workers
    gpus = visible(torch.cuda.device_count())
    return [
        {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], "OMP_NUM_THREADS": threads} if workers > 1 else {} for i in range(workers)
    ]


def visible(count: int) -> list[str]:
    """Names of the GPUs that this process may use."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    return stated.split(",") if stated else [str(i) for i in range(count)]
