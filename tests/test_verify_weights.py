"""verify: weights that lie beside a Run are scored again, and files that are no network of that Run are said to be none."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import run_script
from safetensors.torch import load_file, save_file

from rd3_utils.data import embedded, sources
from rd3_utils.errors import UserError
from rd3_utils.learning import features, students, teachers
from rd3_utils.options import VerifyOptions
from rd3_utils.verification import evidence, rescoring, weight_claims
from rd3_utils.verification.at_hand import AtHand

TEACHER = embedded.EMBEDDED / "digits-teacher-convnet3"
SHA256 = teachers.embedded_sha256("local-dir:embedded/digits-teacher-convnet3")


@pytest.fixture(scope="module")
def at_hand():
    return AtHand(VerifyOptions("nothing"))


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded teacher with its Run, which states the weights, as a pushed repo has them."""
    copy = shutil.copytree(TEACHER, tmp_path / "student")
    changed(copy, weights={"sha256": SHA256})
    return copy


def changed(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_tensors(folder, change):
    """The weights in `folder` as `change` leaves them, or with those that it returns."""
    state = load_file(folder / "model.safetensors")
    made = change(state)
    save_file(made if isinstance(made, dict) else state, folder / "model.safetensors")


def with_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def looked_at(folder, at_hand):
    """config, digest, score: the Checks of the network in `folder`, None where there is none."""
    file = evidence.run_file(folder / "run.json", "run.json", folder)
    checks = list(weight_claims.of_weights(file, at_hand))
    kinds = {"config.json": "config", "the weights": "digest", "these weights": "score"}
    named = {kinds[next(key for key in kinds if check.claim.startswith(key))]: check for check in checks}
    assert len(named) == len(checks)
    return SimpleNamespace(**{"config": None, "digest": None, "score": None, **named})


def test_the_weights_of_the_embedded_teacher_score_what_its_run_states(folder, at_hand):
    checks = looked_at(folder, at_hand)
    assert [check.outcome for check in vars(checks).values()] == ["confirmed"] * 3, checks
    assert checks.score.score and "top-1 99.00 %" in checks.score.claim and "to the image" in checks.score.why
    assert "trained" not in " ".join(map(str, vars(checks).values()))


def test_another_score_than_the_weights_have_is_contradicted_with_both_values(folder, at_hand):
    changed(folder, top1=0.994)
    score = looked_at(folder, at_hand).score
    assert score.outcome == "contradicted" and "99.40" in score.claim and "99.00" in score.why


def test_one_weight_more_or_less_is_another_digest(folder, at_hand):
    def flip(state):
        bits = state["classifier.weight"].view(torch.int32)
        bits[0, 0] ^= 1

    with_tensors(folder, flip)
    checks = looked_at(folder, at_hand)
    assert (checks.digest.outcome, checks.score.outcome) == ("contradicted", "confirmed")
    assert SHA256[:12] in checks.digest.claim and "SHA-256" in checks.digest.why


def test_weights_that_score_otherwise_are_contradicted(folder, at_hand):
    with_tensors(folder, lambda state: state["classifier.bias"].add_(torch.arange(10.0)))
    assert looked_at(folder, at_hand).score.outcome == "contradicted"


def test_weights_that_make_every_image_a_near_tie_do_not_score_whatever_is_stated(folder, at_hand):
    """A class far below all others makes the range of logits wide, and so every lead small beside it."""
    with_tensors(folder, lambda state: state["classifier.bias"].add_(torch.tensor([-1e6] + [0.0] * 9)))
    run = evidence.run_file(folder / "run.json", "run.json").run
    again = rescoring.rescored(run, folder, at_hand.test("digits"), at_hand.benchmark("digits"), at_hand.accelerator)
    assert again.first.near > 0.5 * again.images, again
    changed(folder, top1=0.6, top5=again.five.right / again.images)
    assert looked_at(folder, at_hand).score.outcome == "contradicted"


DAMAGE = {
    "truncated": lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000]),
    "empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04pickled" * 100),
    "missing": lambda folder: (folder / "model.safetensors").unlink(),
    "a tensor more": lambda folder: with_tensors(folder, lambda state: {**state, "another": torch.zeros(3)}),
    "a tensor less": lambda folder: with_tensors(folder, lambda state: state.pop("classifier.bias")),
    "another shape": lambda folder: with_tensors(folder, lambda state: {**state, "classifier.bias": torch.zeros(11)}),
    "another type": lambda folder: with_tensors(
        folder, lambda state: {**state, "classifier.bias": state["classifier.bias"].double()}
    ),
    "no number": lambda folder: with_tensors(folder, lambda state: state["classifier.bias"].fill_(torch.nan)),
    "another student": lambda folder: changed(folder, student="convnet2"),
    "no student": lambda folder: changed(folder, student="convnet99"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_are_no_network_of_the_run_are_contradicted(folder, at_hand, damage):
    DAMAGE[damage](folder)
    score = looked_at(folder, at_hand).score
    assert score.outcome == "contradicted" and score.why and "\n" not in score.why


CONFIGS = {
    "architecture": lambda config: config.update(architecture="convnet2"),
    "label_names": lambda config: config["label_names"].reverse(),
    "pretrained_cfg.mean": lambda config: config["pretrained_cfg"].update(mean=[0.5, 0.5, 0.5]),
    "pretrained_cfg.std": lambda config: config["pretrained_cfg"].update(std=[1, 1, 1]),
    "num_classes": lambda config: config.update(num_classes=11),
    "model_args.width": lambda config: config["model_args"].update(width=64),
    "pretrained_cfg.hf_hub_id": lambda config: config["pretrained_cfg"].update(hf_hub_id="someone/else"),
}


@pytest.mark.parametrize("key", CONFIGS)
def test_a_config_of_another_network_is_contradicted_and_never_built(folder, at_hand, key):
    with_config(folder, CONFIGS[key])
    config = next(iter_config(folder, at_hand))
    assert config.outcome == "contradicted" and f"{key} is" in config.why and "wanted" in config.why


def iter_config(folder, at_hand):
    """The Check of config.json alone, before anything is scored."""
    file = evidence.run_file(folder / "run.json", "run.json", folder)
    return weight_claims.of_weights(file, at_hand)


@pytest.mark.parametrize("bad", ["[" * 100_000, "{}", "", "nul"])
def test_a_config_that_is_none_is_contradicted(folder, at_hand, bad):
    (folder / "config.json").write_text(bad)
    assert next(iter_config(folder, at_hand)).outcome == "contradicted"


def test_what_is_not_at_hand_is_said_with_what_would_help(folder, at_hand, tmp_path):
    kept = evidence.run_file(folder / "run.json", "run.json", None)
    (check,) = weight_claims.of_weights(kept, at_hand)
    assert check.outcome == "not checkable" and "--keep-weights all" in check.why and not check.score
    other = json.loads((TEACHER / "run.json").read_text())["test"]
    changed(folder, test={**other, "fingerprint": "0" * 64})
    score = looked_at(folder, at_hand).score
    assert score.outcome == "not checkable" and "--data-dir" in score.why


def test_near_ties_are_counted_on_their_side_and_bound_what_another_machine_may_count():
    logits = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [1.0, 1.0 + 1e-6, 0, 0, 0, 0, 0], [1.0 + 1e-6, 1.0, 0, 0, 0, 0, 0]])
    first, five = rescoring.leads(logits, torch.tensor([0, 0, 0]))
    answers = rescoring.counted(first, 1e-4)
    assert (answers.right, answers.more, answers.fewer, answers.near) == (2, 1, 1, 2)
    assert [answers.allows(right, 2) for right in range(5)] == [False, True, True, True, False]
    assert [answers.allows(right, 0) for right in range(5)] == [False, False, True, False, False]
    assert bool((five > 0.9).all())


@pytest.mark.parametrize("classes", [2, 5, 6, 10])
def test_leads_agree_with_the_ranks_of_the_classes(classes):
    generator = torch.Generator().manual_seed(classes)
    logits, labels = torch.randn(50, classes, generator=generator), torch.randint(0, classes, (50,), generator=generator)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    first, five = rescoring.leads(logits, labels)
    assert torch.equal(first > 0, ranks < 1) and torch.equal(five > 0, ranks < 5)


def test_a_network_with_other_weights_than_its_run_states_teaches_nobody_and_is_not_transferred(folder, digits):
    assert teachers.load(f"local-dir:{folder}", digits).sha256 == SHA256
    with_tensors(folder, lambda state: state["classifier.weight"][0, 0].mul_(1 + 1e-6))
    beside = shutil.copytree(folder, folder.with_name("seed0"))
    (beside / "run.json").rename(beside.with_name("seed0.json"))
    for place in (folder, beside):
        for load in (lambda source: teachers.load(source, digits), features.load_frozen):
            with pytest.raises(UserError, match=f"states '{SHA256[:12]}'") as refused:
                load(f"local-dir:{place}")
            assert "\n" not in str(refused.value)
    (folder / "run.json").write_text("{")
    with pytest.raises(UserError, match="no whole Run"):
        teachers.load(f"local-dir:{folder}", digits)


def test_config_of_is_what_save_writes(digits, tmp_path):
    for name in ("convnet2_bn", "resnet18_cifar"):
        network = students.create(name, digits, 0)
        students.save(network, tmp_path / name, digits)
        assert students.config_of(network, digits) == json.loads((tmp_path / name / "config.json").read_text())


def test_a_trained_student_states_its_weights_and_verify_scores_them(tmp_path):
    words = "--arms", "distilled-hard", "--protocol", "hard-label-v1", "--set", "training.epochs=1", "--runs-only"
    assert run_script(tmp_path, "train_student", *words[:-1]).code == 0
    (path,) = tmp_path.glob("results/**/seed0.json")
    stated = json.loads(path.read_text())["weights"]["sha256"]
    assert stated == features.load_frozen(str(path)).sha256
    evident = evidence.of_path(sources.parse(str(path)), path)
    checks = list(weight_claims.of_weights(evident.runs[0], AtHand(VerifyOptions(str(path)))))
    assert [check.outcome for check in checks] == ["confirmed"] * 3, checks
