"""Runs for tests of arithmetic over them: complete ones, read as files are, that differ in what a test says."""

import copy

from rd3_utils.scoring import runs

SET = {"name": "set", "source": "set", "commit": None, "fingerprint": "f" * 64, "ipc": 1, "images": 10}
PLAIN = {
    "schema": 2,
    "benchmark": "digits",
    "protocol": {"name": "rd3-v1", "digest": "d" * 12, "overrides": {}, "main_labels": "soft", "knobs": {}},
    "recipe": {
        "training": {"epochs": 1},
        "views": {},
        "labels": {},
        "loss": {"name": "kl", "temperature": 20},
        "images": 10,
        "classes": 10,
        "image_size": 8,
        "steps": 1,
    },
    "arm": "distilled-soft",
    "student": "convnet3",
    "seed": 0,
    "views": "shared",
    "views_seed": 0,
    "network": {"architecture": "convnet3", "initialisation": 1, "dropout": 0.0, "stochastic_depth": 0.0, "parameters": 100},
    "images": SET,
    "labels": {"kind": "soft", "views_digest": "a" * 12, "teachers_id": "b" * 64, "label_dtype": "fp16", "forward_batch": 100},
    "teachers": [],
    "top1": 0.5,
    "top5": 1.0,
    "images_scored": 500,
    "test": {**SET, "name": "test", "source": "test", "fingerprint": "7" * 64, "ipc": None, "images": 500},
    "monitored_test": False,
    "history": [{"epoch": 0, "loss": 1.0, "learning_rate": 0.1}],
    "seconds": 1.0,
    "environment": {"processes": 1, "precision": "fp32", "devices": "1 x cpu (x)", "threads": 1, "versions": {}, "git": None},
}


def table(**changes) -> dict:
    """The plain data of a whole Run with `changes`; tables in them change single keys."""
    found = copy.deepcopy(PLAIN)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] |= value
        else:
            found[key] = value
    return found


def made(**changes) -> runs.Run:
    """A whole Run with `changes`, read as a file is."""
    return runs.of(table(**changes))


def drawn(draw: int, ipc: int = 1) -> dict:
    """The "images" of draw number `draw` of random real images."""
    split = {"fingerprint": "5" * 64, "images": 1297}
    name = f"random-ipc{ipc}-seed{draw}"
    return {"name": name, "source": f"random:ipc={ipc},seed={draw}", "fingerprint": f"{draw:064x}", "ipc": ipc, "train": split}


def run(top1, seed, draw=None, arm="distilled-soft", protocol="rd3-v1", fingerprint="f", student="convnet3") -> runs.Run:
    """A Run that got `top1`; of draw number `draw` of random images, or of a distilled set."""
    labels = arm.partition("-")[2]
    images = {"fingerprint": fingerprint * 64 if len(fingerprint) == 1 else fingerprint} if draw is None else drawn(draw)
    kind = {"kind": "hard", "teachers_id": None, "label_dtype": None, "forward_batch": None} if labels == "hard" else {}
    return made(
        top1=top1, seed=seed, arm=arm, student=student, images=images, labels=kind, network={"architecture": student},
        protocol={"name": protocol, "digest": f"{sum(map(ord, protocol)):012x}",
                  "main_labels": "hard" if "hard" in protocol else "soft"},
    )  # fmt: skip
