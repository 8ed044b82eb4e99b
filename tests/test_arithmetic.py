"""What a launcher may change in what is computed is refused in one line, by every command that starts an Accelerator."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import CONFIGS, PROJECT

from rd3_utils import launch
from rd3_utils.errors import UserError
from rd3_utils.studies import devices

CHANGED = {
    "ACCELERATE_MIXED_PRECISION": "fp8",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "ACCELERATE_DOWNCAST_BF16": "1",
    "XLA_USE_BF16": "1",
    "XLA_DOWNCAST_BF16": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "CUBLAS_EMULATE_SINGLE_PRECISION": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "DNNL_DEFAULT_FPMATH_MODE": "ANY",
    "PYTORCH_MPS_FAST_MATH": "1",
}


@pytest.mark.parametrize("name", launch.ARITHMETIC)
def test_a_variable_that_changes_what_is_computed_is_named(monkeypatch, name):
    monkeypatch.setenv(name, CHANGED[name])
    with pytest.raises(UserError, match=f"{name} is {CHANGED[name]}: it changes what is computed"):
        launch.accelerator()
    for harmless in launch.ARITHMETIC[name]:
        monkeypatch.setenv(name, harmless if name == "ACCELERATE_MIXED_PRECISION" else harmless.upper())
        launch.check_arithmetic(launch.ARITHMETIC, os.environ)


def test_a_precision_in_capitals_which_accelerate_computes_in_float32_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "BF16")
    with pytest.raises(UserError, match="ACCELERATE_MIXED_PRECISION is BF16: .* use no or fp32 or bf16 or fp16"):
        launch.accelerator()


@pytest.mark.parametrize("command", [("train_student", "--dry-run"), ("generate_soft_labels", "--dry-run"),
                                     ("rd3_utils", "transfer", "embedded/digits-teacher-convnet3", "--to", "digits"),
                                     ("rd3_utils", "synthesize", "dm", "--ipc", "1", "--out", "made")])  # fmt: skip
def test_every_command_that_computes_refuses_a_compiler(script, tmp_path, monkeypatch, command):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    done = script(*command)
    assert done.code == 2 and done.err.startswith("error: ACCELERATE_DYNAMO_BACKEND is inductor") and done.err.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [ValueError, ImportError, RuntimeError, NotImplementedError])
def test_what_accelerate_cannot_start_is_one_line(monkeypatch, kind):
    def refuse(**arguments):
        raise kind("Using `x` needs\n  `y`.")

    monkeypatch.setattr(launch, "Accelerator", refuse)
    with pytest.raises(UserError, match="accelerate cannot start as the launch asks: Using `x` needs `y`."):
        launch.accelerator()


def test_a_compiler_that_came_by_no_variable_is_seen_too(monkeypatch):
    accelerator = launch.accelerator()
    plugin = type(accelerator.state.dynamo_plugin)(backend="inductor")
    monkeypatch.setitem(accelerator.state._shared_state, "dynamo_plugin", plugin)
    with pytest.raises(UserError, match="the launch: dynamo_backend is INDUCTOR"):
        launch.accelerator()


def test_float32_is_float32():
    try:
        torch.set_float32_matmul_precision("medium")
        launch.accelerator()
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    "old, new, wanted",
    [
        ("mixed_precision: 'no'", "mixed_precision: fp8", "mixed_precision is fp8"),
        ("debug: false", "dynamo_config: {dynamo_backend: INDUCTOR}", "dynamo_backend is INDUCTOR"),
        ("distributed_type: 'NO'", "distributed_type: FSDP", "distributed_type is FSDP"),
        ("downcast_bf16: 'no'", "downcast_bf16: 'yes'", "downcast_bf16 is yes"),
    ],
)
def test_a_config_that_no_cell_of_a_study_could_run_under_is_refused_before_the_plan(tmp_path, old, new, wanted):
    text = (CONFIGS / "cpu.yaml").read_text()
    assert old in text
    (tmp_path / "own.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=f"own.yaml: {wanted}.*: it changes what is computed"):
        devices.read_config(tmp_path / "own.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_config_of_ours_changes_nothing(name):
    devices.read_config(CONFIGS / name)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["option", "file"])
@pytest.mark.parametrize("name", ["train_student.py", "generate_soft_labels.py"])
def test_a_real_launch_with_a_compiler_is_one_line(tmp_path, how, name):
    """Of fp8 accelerate's own launcher says that it is not there, before a script starts."""
    config, compiler = tmp_path / "own.yaml", "\ndynamo_config: {dynamo_backend: INDUCTOR}\n" if how == "file" else ""
    config.write_text((CONFIGS / "cpu.yaml").read_text() + compiler)
    command = [sys.executable, "-m", "accelerate.commands.launch", "-q", "--config_file", str(config)]
    command += ["--dynamo_backend", "inductor"] if how == "option" else []
    done = subprocess.run([*command, str(PROJECT / name), "--dry-run"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode != 0 and done.stderr.startswith("error: ACCELERATE_DYNAMO_BACKEND is "), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_place_among_processes_that_is_no_number_is_one_line(script, monkeypatch, name):
    monkeypatch.setenv(name, "x")
    done = script("train_student", "--dry-run", "--protocol", "hard-label-v1")
    assert done.code == 2 and f"{name} is 'x', wanted a number as a launcher sets it" in done.err and done.err.count("\n") == 1
