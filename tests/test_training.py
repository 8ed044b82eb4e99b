"""Losses, learning rates, optimizer groups and the rows of a step, each against a closed form or a loop."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rd3_utils import launch
from rd3_utils.data import images as image_sets
from rd3_utils.data import views
from rd3_utils.errors import UserError
from rd3_utils.learning import losses, students, training
from rd3_utils.protocols import benchmark as benchmarks
from rd3_utils.protocols import protocol as protocols
from rd3_utils.protocols.knobs import LOSSES, LossKnobs


def logits(seed, b=4, c=5):
    return torch.randn(b, c, generator=torch.Generator().manual_seed(seed)) * 3


def softmax(row, t):
    weights = [math.exp(v / t) for v in row]
    return [w / sum(weights) for w in weights]


ROWS = torch.tensor([0, 3, 2, 4])
PARTNERS = torch.tensor([1, 3, 0, 0])
SHARE = torch.tensor([0.25, 1.0, 0.5, 0.75])


def call(name, temperature=1.0, t_squared=False, hard_weight=0.0, hard_target="own"):
    loss = LossKnobs(name, temperature, t_squared, hard_weight, hard_target)
    return losses.LOSSES[name](logits(0), logits(1), ROWS, PARTNERS, SHARE, loss).tolist()


def test_every_loss_a_protocol_may_name_exists():
    assert set(losses.LOSSES) == set(LOSSES)


@pytest.mark.parametrize("t, squared", [(1.0, False), (20.0, False), (4.0, True)])
def test_kl_is_the_sum_over_classes_written_out(t, squared):
    for row, (s, z) in enumerate(zip(logits(0).tolist(), logits(1).tolist())):
        p, q = softmax(z, t), softmax(s, t)
        expected = sum(a * math.log(a / b) for a, b in zip(p, q)) * (t * t if squared else 1)
        assert call("kl", t, squared)[row] == pytest.approx(expected, rel=1e-9)  # at T = 20, float32 keeps four digits


@pytest.mark.parametrize("t, squared", [(1.0, False), (20.0, True)])
def test_soft_ce_is_the_sum_over_classes_written_out(t, squared):
    for row, (s, z) in enumerate(zip(logits(0).tolist(), logits(1).tolist())):
        expected = -sum(a * math.log(b) for a, b in zip(softmax(z, t), softmax(s, t))) * (t * t if squared else 1)
        assert call("soft_ce", t, squared)[row] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t, squared", [(1.0, False), (4.0, True)])
def test_mse_gt_is_the_mean_square_plus_the_weighted_hard_term(t, squared):
    """Of raw logits, whatever the temperature."""
    for row, (s, z) in enumerate(zip(logits(0).tolist(), logits(1).tolist())):
        expected = sum((a - b) ** 2 for a, b in zip(s, z)) / 5 - 0.1 * math.log(softmax(s, 1)[ROWS[row]])
        assert call("mse_gt", t, squared, hard_weight=0.1)[row] == pytest.approx(expected, rel=1e-5)


def test_the_hard_term_of_a_mixed_image_may_weigh_both_classes():
    both = torch.tensor(call("ce_mixed"))
    for name, t in (("mse_gt", 1.0), ("joint_ce", 3.0)):
        plain = torch.tensor(call(name, t))
        assert torch.allclose(torch.tensor(call(name, t, False, 0.3, "mixed")), plain + 0.3 * both, rtol=1e-5)
        assert torch.allclose(torch.tensor(call(name, t, False, 0.3)), plain + 0.3 * torch.tensor(call("ce")), rtol=1e-5)


@pytest.mark.parametrize("t, squared", [(1.0, False), (4.0, False), (4.0, True)])
def test_joint_ce_is_both_cross_entropies_written_out(t, squared):
    """T squared multiplies the soft one alone."""
    for row, (s, z) in enumerate(zip(logits(0).tolist(), logits(1).tolist())):
        soft = -sum(a * math.log(b) for a, b in zip(softmax(z, t), softmax(s, t))) * (t * t if squared else 1)
        expected = soft - 0.2 * math.log(softmax(s, 1)[ROWS[row]])
        assert call("joint_ce", t, squared, hard_weight=0.2)[row] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_cosine_is_the_angle_to_the_refined_label_written_out(weight):
    def length(v):
        return math.sqrt(sum(a * a for a in v))

    for row, (s, z) in enumerate(zip(logits(0).tolist(), logits(1).tolist())):
        smooth = [0.9 if k == ROWS[row] else 0.1 / 4 for k in range(5)]
        label = [a / length(z) + weight * b / length(smooth) for a, b in zip(z, smooth)]
        expected = 1 - sum(a * b for a, b in zip(s, label)) / length(s) / length(label)
        assert call("cosine", 20.0, hard_weight=weight)[row] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert call("cosine", 1.0, hard_weight=weight) == call("cosine", 20.0, hard_weight=weight)


def test_cosine_does_not_change_the_stored_logits():
    teacher = logits(1)
    losses.cosine(logits(0), teacher, ROWS, PARTNERS, SHARE, LossKnobs("cosine", 1.0, False, 0.1))
    assert torch.equal(teacher, logits(1))


def test_ce_of_a_mixed_image_weighs_both_classes_by_their_pixels():
    for row, s in enumerate(logits(0).tolist()):
        p, share = softmax(s, 1), float(SHARE[row])
        expected = -share * math.log(p[ROWS[row]]) - (1 - share) * math.log(p[PARTNERS[row]])
        assert call("ce_mixed")[row] == pytest.approx(expected, rel=1e-5)
        assert call("ce")[row] == pytest.approx(-math.log(p[ROWS[row]]), rel=1e-5)


def test_kl_and_soft_ce_have_the_same_gradient_for_the_student():
    gradients = []
    for name in ("kl", "soft_ce"):
        s = logits(0).requires_grad_()
        losses.LOSSES[name](s, logits(1), ROWS, PARTNERS, SHARE, LossKnobs(name, 4.0, False, 0.0)).sum().backward()
        gradients.append(s.grad)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.fixture
def hundred(select):
    return select("random:ipc=10,seed=0")


@pytest.mark.parametrize("zeta, last", [(1.0, 0.0), (2.0, 0.5), (4.0, (1 + math.cos(math.pi / 4)) / 2)])
def test_smoothed_cosine_starts_at_the_rate_and_ends_where_zeta_says(recipe, hundred, zeta, last):
    r = recipe("rd3-v1", hundred, f"training.zeta={zeta}")
    assert training.learning_rate(r, 0) == r.training.learning_rate
    end = training.learning_rate(r, r.steps)  # one past the last step: the schedule's end
    assert end == pytest.approx(last * r.training.learning_rate, abs=1e-12)
    half = (1 + math.cos(math.pi / (2 * zeta))) / 2
    assert training.learning_rate(r, r.steps // 2) == pytest.approx(half * r.training.learning_rate)


def test_a_rate_by_epoch_is_constant_inside_an_epoch_and_one_by_step_is_not(recipe, hundred):
    r = recipe("rd3-v1", hundred)
    assert r.steps_per_epoch == 2 and training.learning_rate(r, 100) == training.learning_rate(r, 101)
    r = recipe("rd3-v1", hundred, "training.schedule_unit=step")
    assert training.learning_rate(r, 100) > training.learning_rate(r, 101)


def test_cosine_with_zeta_1_is_torchs(recipe, hundred):
    r = recipe("rd3-v1", hundred, "training.zeta=1.0", "training.epochs=30")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=r.training.learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    for epoch in range(30):
        ours = training.learning_rate(r, epoch * r.steps_per_epoch)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step(), scheduler.step()


def test_the_step_schedule_drops_tenfold_at_half(recipe, hundred):
    r = recipe("hard-label-v1", hundred, labels="hard")
    rates = [training.learning_rate(r, step) for step in range(r.steps)]
    assert rates[:150] == [0.01] * 150 and rates[150:] == pytest.approx([0.001] * 150)


def test_a_step_drops_in_the_epoch_that_its_milestone_says(recipe, hundred):
    """0.55 * 100 is 55.000000000000007 in floating point."""
    changes = "training.schedule=step", "training.milestones=[0.55]", "training.drop=0.1", "training.epochs=100"
    r = recipe("rd3-v1", hundred, *changes)
    rates = [training.learning_rate(r, epoch * r.steps_per_epoch) for epoch in range(100)]
    assert rates == pytest.approx([0.001] * 55 + [0.0001] * 45)


def test_linear_and_warm_up(recipe, hundred):
    r = recipe("rd3-v1", hundred, "training.schedule=linear", "training.zeta=1.0", "training.schedule_unit=step")
    assert training.learning_rate(r, r.steps // 4) == pytest.approx(0.75 * r.training.learning_rate)
    r = recipe("rd3-v1", hundred, "training.schedule=linear", "training.zeta=2.0", "training.schedule_unit=step")
    assert training.learning_rate(r, r.steps // 2) == pytest.approx(0.75 * r.training.learning_rate)
    r = recipe("rd3-v1", hundred, "training.schedule=constant", "training.warmup_epochs=5")
    rates = [training.learning_rate(r, step) / r.training.learning_rate for step in range(12)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1])


@pytest.mark.parametrize("zeta", [1.0, 2.0])
def test_ssrs_is_cosine_for_five_sixths_and_then_falls_in_a_line_from_a_sixth_of_it(recipe, hundred, zeta):
    """The two branches as torch's LambdaLR steps them, written with the numbers of EDC's eq. 33."""
    r = recipe("rd3-v1", hundred, "training.schedule=ssrs", f"training.zeta={zeta}", "training.epochs=60")
    n = 60
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=r.training.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda e: (
            (1 + math.cos(math.pi * e / (zeta * n))) / 2
            if e <= 50
            else (1 + math.cos(5 * math.pi / (6 * zeta))) / 2 * (6 * n - 6 * e) / (6 * n)
        ),
    )
    rates = []
    for epoch in range(n):
        rates.append(training.learning_rate(r, epoch * r.steps_per_epoch))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step(), scheduler.step()
    assert rates[51] == pytest.approx(rates[50] * 9 / 60) and rates[59] == pytest.approx(rates[50] / 60)


def test_a_warm_up_apart_is_torchs_linear_then_cosine(recipe, hundred):
    changes = "training.warmup_epochs=5", "training.warmup_start=0.01", "training.warmup_apart=true", "training.zeta=1.0"
    r = recipe("rd3-v1", hundred, *changes, "training.epochs=30")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=r.training.learning_rate)
    of = torch.optim.lr_scheduler
    parts = [of.LinearLR(optimizer, start_factor=0.01, total_iters=5), of.CosineAnnealingLR(optimizer, T_max=25)]
    scheduler = of.SequentialLR(optimizer, parts, milestones=[5])
    for epoch in range(30):
        for step in range(r.steps_per_epoch):
            ours = training.learning_rate(r, epoch * r.steps_per_epoch + step)
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step(), scheduler.step()


def test_a_warm_up_start_rises_within_an_epoch_where_the_unit_is_the_step(recipe, hundred):
    changes = "training.warmup_epochs=2", "training.warmup_start=0.2", "training.schedule_unit=step"
    r = recipe("rd3-v1", hundred, *changes, "training.schedule=constant")
    rates = [training.learning_rate(r, step) / r.training.learning_rate for step in range(6)]
    assert r.steps_per_epoch == 2 and rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_a_training_that_is_all_warm_up_is_the_warm_up(recipe, hundred):
    changes = "training.warmup_epochs=5", "training.warmup_start=0.01", "training.warmup_apart=true"
    r = recipe("rd3-v1", hundred, *changes, "training.epochs=3")
    rates = [training.learning_rate(r, 2 * epoch) / r.training.learning_rate for epoch in range(3)]
    assert rates == pytest.approx([0.01, 0.208, 0.406])


@pytest.mark.parametrize("student", ["resnet18", "vit_base_cifar", "swin_tiny_cifar"])
def test_norms_biases_and_position_embeddings_are_not_decayed_under_ndim_over_1(recipe, hundred, student):
    network = students.create(student, benchmarks.load("cifar10"), 0)
    groups = training.optimizer(recipe("rd3-v1", hundred), network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, p in network.named_parameters():
        assert decay[id(p)] == (0.01 if name.endswith("weight") and p.ndim > 1 else 0.0), name
    assert set(decay.values()) == {0.01, 0.0}
    groups = training.optimizer(recipe("hard-label-v1", hundred, labels="hard"), network).param_groups
    assert [group["weight_decay"] for group in groups] == [0.0005]
    assert len(groups[0]["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize(
    "knobs, of, settings",
    [
        (["optimizer=adamw", "betas=[0.8, 0.9]", "eps=0.01"], torch.optim.AdamW, {"betas": (0.8, 0.9), "eps": 0.01}),
        (["optimizer=adam", "betas=[0.8, 0.9]", "eps=0.01"], torch.optim.Adam, {"betas": (0.8, 0.9), "eps": 0.01}),
        (["optimizer=sgd", "momentum=0.5"], torch.optim.SGD, {"momentum": 0.5}),
        (["optimizer=sgd", "momentum=0.5", "nesterov=true"], torch.optim.SGD, {"momentum": 0.5, "nesterov": True}),
    ],
)
def test_an_optimizer_moves_as_torchs_does_with_the_same_knobs(recipe, hundred, knobs, of, settings):
    shared = ["learning_rate=0.1", "weight_decay=0.3", "decay=all"]
    networks = [nn.Linear(4, 3) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    r = recipe("rd3-v1", hundred, *(f"training.{knob}" for knob in shared + knobs))
    ours, theirs = training.optimizer(r, networks[0]), of(networks[1].parameters(), lr=0.1, weight_decay=0.3, **settings)
    for step in range(3):
        for network, optimizer in zip(networks, (ours, theirs)):
            optimizer.zero_grad()
            network(logits(step, 5, 4)).square().sum().backward()
            optimizer.step()
    for p, q in zip(*(network.parameters() for network in networks)):
        assert torch.allclose(p, q, rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_training_is_the_loop_written_out(script, tmp_path, digits, test_set, select, weighted):
    """Every epoch's loss, the network that is kept, and its score.

    CutMix of twenty digits, cross-entropy with both classes, batches of 16 and 4, batch norm in groups of 8 (the last smaller),
    weights of the images, a moving average of the network's.
    """
    images = select("random:ipc=2,seed=0")
    w = torch.linspace(0.2, 1.8, 20) if weighted else torch.ones(20)
    image_sets.save(
        image_sets.make("set", images.images, images.labels, images.class_names, "set", weights=w), tmp_path / "set"
    )
    knobs = ["training.epochs=3", "training.batch_size=16", "training.batch_norm=groups:8", "training.ema_decay=0.5",
             "views.mix=cutmix", "views.group=16", "views.mix_probability=1.0", "loss.name=ce_mixed",
             f"loss.image_weights={str(weighted).lower()}"]  # fmt: skip
    words = [word for knob in knobs for word in ("--set", knob)]
    done = script("train_student", "--protocol", "hard-label-v1", "--distilled", "set", "--student", "convnet2_bn", *words)
    assert done.code == 0, done.err
    run = json.loads(next(tmp_path.glob("results/**/seed0.json")).read_text())
    kept = load_file(next(tmp_path.glob("results/**/seed0/model.safetensors")))

    r = protocols.load("hard-label-v1").override(knobs).resolve(digits, "convnet2_bn", 2, 20, "hard")
    network = students.create("convnet2_bn", digits, 0).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    average, losses_of_epochs = None, []
    for epoch, rate in enumerate([0.01, 0.01, 0.001]):
        optimizer.param_groups[0]["lr"] = rate  # tenfold less from half of the three epochs on
        v, total = views.draw(r, 0, epoch), 0
        for batch in training.batches(r, v.order, 0, epoch):
            optimizer.zero_grad()
            for rows in batch.split(8):
                output = network(views.apply(images.images, v, rows, r.mean, r.std))
                top, left, bottom, right = v.mix_box[rows].T
                shown = 1 - (bottom - top) * (right - left) / 64
                mine, other = (nn.functional.cross_entropy(output, images.labels[of], reduction="none")
                               for of in (rows, v.mix_partner[rows]))  # fmt: skip
                loss = ((shown * mine + (1 - shown) * other) * w[rows]).sum() / w[batch].mean() / len(batch)
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            now = {name: p.detach().clone() for name, p in network.named_parameters()}
            average = {name: (average[name] + now[name]) / 2 for name in now} if average else now
        losses_of_epochs.append(total / 2)
    assert (v.mix_partner != torch.arange(20)).sum() > 10
    assert float((average["classifier.weight"] - now["classifier.weight"]).abs().max()) > 1e-4
    assert [entry["loss"] for entry in run["history"]] == pytest.approx(losses_of_epochs, rel=1e-5)
    wanted = {**average, **dict(network.named_buffers())}
    assert all(torch.allclose(kept[name].float(), wanted[name].float(), atol=1e-6) for name in wanted)
    network.load_state_dict(wanted)
    x = (test_set.images / 255 - torch.tensor(r.mean)[:, None, None]) / torch.tensor(r.std)[:, None, None]
    assert run["top1"] == float((network.eval()(x).argmax(1) == test_set.labels).double().mean())


@pytest.mark.parametrize("batch", [50, 25, 7, 100])
def test_every_row_is_trained_once_an_epoch_at_any_batch_size(recipe, hundred, batch):
    r = recipe("rd3-v1", hundred, f"training.batch_size={batch}")
    order = views.draw(r, 0, 3).order
    rows = training.batches(r, order, 1, 3)
    assert sorted(torch.cat(rows).tolist()) == list(range(100))
    assert [len(b) for b in rows[:-1]] == [batch] * (len(rows) - 1) and len(rows) == r.steps_per_epoch


def test_at_the_recipes_batch_size_every_batch_is_one_mixing_group(recipe, select):
    images = select("random:ipc=12,seed=0")  # 120 rows: groups of 50, 50 and 20
    r = recipe("rd3-v1", images)
    v = views.draw(r, 0, 0)
    groups = [set(g.tolist()) for g in v.order.split(50)]
    seen = set()
    for seed in range(8):
        batches = [set(b.tolist()) for b in training.batches(r, v.order, seed, 0)]
        assert sorted(map(sorted, batches)) == sorted(map(sorted, groups)) and len(batches[-1]) == 20
        seen.add(tuple(sorted(batches[0])))
    assert len(seen) == 2  # the student's seed shuffles the groups
    firsts = {tuple(sorted(training.batches(r, v.order, 0, epoch)[0].tolist())) for epoch in range(8)}
    assert firsts == seen  # in every epoch anew


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 50])
def test_shares_of_a_batch_add_up_to_its_mean(recipe, hundred, processes):
    r, rows, value = recipe("rd3-v1", hundred), torch.arange(50), torch.randn(100, dtype=torch.float64)
    parts = [training.share(rows, r, p, processes) for p in range(processes)]
    sizes = [sum(len(some) for some, _ in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 50
    total = [sum((value[some] * weights).sum() for some, weights in part) for part in parts]
    assert float(sum(total) / processes) == pytest.approx(float(value[:50].mean()))


@pytest.mark.parametrize("processes, batch_norm", [(1, "global"), (3, "global"), (2, "groups:8")])
def test_image_weights_are_scaled_to_mean_one_over_the_whole_batch(recipe, hundred, processes, batch_norm):
    r = recipe("rd3-v1", hundred, "loss.image_weights=true", f"training.batch_norm={batch_norm}")
    weighted = dataclasses.make_dataclass("Weighted", ["weights"])(torch.rand(100, dtype=torch.float64) + 0.1)
    w = training.image_weights(r, weighted)
    rows, value = torch.arange(30, 80), torch.randn(100, dtype=torch.float64)
    parts = [training.share(rows, r, p, processes, w) for p in range(processes)]
    total = sum((value[some] * weights).sum() for part in parts for some, weights in part) / processes
    assert float(total) == pytest.approx(float((value[rows] * w[rows]).sum() / w[rows].sum()))
    same = training.share(rows, r, 0, processes, torch.full((100,), 0.25))
    for (some, weights), (others, plain) in zip(same, training.share(rows, r, 0, processes)):
        assert torch.equal(some, others) and torch.allclose(weights, plain)


def test_image_weights_that_are_not_there_are_asked_for(recipe, hundred):
    assert training.image_weights(recipe("rd3-v1", hundred), hundred) is None
    with pytest.raises(UserError, match="random-ipc10-seed0@.* has no weights of its images"):
        training.image_weights(recipe("rd3-v1", hundred, "loss.image_weights=true"), hundred)


def test_image_weights_that_are_not_there_end_a_command_before_anything_is_trained(script, tmp_path):
    done = script("train_student", "--protocol", "hard-label-v1", "--set", "loss.image_weights=true")
    assert done.code == 2 and done.err.count("\n") == 1 and "has no weights of its images" in done.err
    assert not list(tmp_path.rglob("*.json"))


def test_a_process_without_a_row_computes_one_that_does_not_count(recipe, hundred):
    parts = [training.share(torch.tensor([8, 9]), recipe("rd3-v1", hundred), p, 3) for p in range(3)]
    weights = [float(w.sum()) for part in parts for _, w in part]
    assert sorted(weights) == [0.0, 1.5, 1.5]


def test_batch_norm_in_groups_deals_whole_groups(recipe, hundred):
    r = recipe("rd3-v1", hundred, "training.batch_norm=groups:8")
    parts = [training.share(torch.arange(50), r, p, 2) for p in range(2)]
    assert [[len(some) for some, _ in part] for part in parts] == [[8, 8, 8], [8, 8, 8, 2]]


def test_a_single_row_left_over_joins_the_batch_norm_group_before_it(recipe, hundred):
    r = recipe("rd3-v1", hundred, "training.batch_norm=groups:7")
    groups = [some for some, _ in training.share(torch.arange(50), r, 0, 1)]
    assert [len(some) for some in groups] == [7] * 6 + [8] and torch.cat(groups).tolist() == list(range(50))


def test_the_moving_average_is_the_recursion_and_its_buffers_are_live(recipe, hundred, digits):
    network = students.create("convnet1_bn", digits, 0)
    average = training.moving_average(recipe("rd3-v1", hundred, "training.ema_decay=0.9"), network)
    expected = None
    for step in range(5):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(step + 1.0)
        network.train()(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step)))
        average.update_parameters(network)
        weight = network.classifier.weight.detach().clone()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight
    assert torch.allclose(average.module.classifier.weight, expected, atol=1e-5)
    live, kept = dict(network.named_buffers()), dict(average.module.named_buffers())
    assert all(torch.equal(live[name], kept[name]) for name in live) and float(live["features.1.running_mean"].abs().max()) > 0
    assert training.moving_average(recipe("rd3-v1", hundred), network) is None


def test_a_batch_smaller_than_the_launch_is_refused(recipe, ten, digits):
    accelerator = type("Launch", (), {"num_processes": 11, "distributed_type": "x"})()
    with pytest.raises(UserError, match="the batch has 10 images .* 11 processes; use at most 10"):
        training.check_launch(recipe("rd3-v1", ten), nn.Linear(1, 1), accelerator)


def test_global_batch_norm_on_several_cpu_processes_is_refused(recipe, hundred, digits):
    accelerator = type("Launch", (), {"num_processes": 2, "distributed_type": "x"})()
    network = students.create("convnet3_bn", digits, 0)
    with pytest.raises(UserError, match="no synchronised batch norm"):
        training.check_launch(recipe("rd3-v1", hundred), network, accelerator)
    training.check_launch(recipe("rd3-v1", hundred, "training.batch_norm=local"), network, accelerator)
    training.check_launch(recipe("rd3-v1", hundred), students.create("convnet3", digits, 0), accelerator)


@pytest.mark.parametrize("override", ["training.batch_size=99", "training.batch_norm=groups:1"])
def test_batch_norm_of_a_single_image_is_refused(recipe, hundred, digits, override):
    alone = type("Launch", (), {"num_processes": 1, "distributed_type": "x"})()
    network = students.create("convnet3_bn", digits, 0)
    with pytest.raises(UserError, match="would see a single image"):
        training.check_launch(recipe("rd3-v1", hundred, override), network, alone)
    training.check_launch(recipe("rd3-v1", hundred, override), students.create("convnet3", digits, 0), alone)


def test_fewer_batch_norm_groups_than_processes_are_refused(recipe, hundred, digits):
    two = type("Launch", (), {"num_processes": 2, "distributed_type": "x"})()
    grouped = recipe("rd3-v1", hundred, "training.batch_norm=groups:50")
    with pytest.raises(UserError, match="1 groups for 2 processes"):
        training.check_launch(grouped, students.create("convnet3_bn", digits, 0), two)


def test_a_checkpoint_restores_everything(recipe, hundred, digits, tmp_path):
    def fresh():
        network = students.create("convnet2", digits, 0)
        r = recipe("rd3-v1", hundred, "training.ema_decay=0.5")
        return training.Learner(network, network, training.optimizer(r, network), None, training.moving_average(r, network))

    def step(learner, n):
        network, optimizer, average = learner.network, learner.optimizer, learner.average
        for k in range(n):
            x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(k))
            network(x).square().sum().backward()
            optimizer.step(), optimizer.zero_grad(), average.update_parameters(network)

    one, other = fresh(), fresh()
    step(one, 3)
    labels = {"kind": "soft", "views_seed": 0}
    history = [{"epoch": epoch, "loss": 1.0} for epoch in range(3)]
    training.save_checkpoint(tmp_path / "c.checkpoint", one, labels, 3, 9.5, history)
    assert training.load_checkpoint(tmp_path / "c.checkpoint", other, labels) == (3, 9.5, history)
    with pytest.raises(UserError, match="learned from other labels"):
        training.load_checkpoint(tmp_path / "c.checkpoint", fresh(), {**labels, "views_seed": 1})
    step(one, 2), step(other, 2)
    for a, b in zip(*([*learner.network.parameters(), *learner.average.parameters()] for learner in (one, other))):
        assert torch.equal(a, b)
    assert training.load_checkpoint(tmp_path / "none", fresh(), labels) == (0, 0.0, [])


@pytest.mark.parametrize("damage", ["a bit", "its end", "all of it", "another file", "a key"])
def test_a_damaged_checkpoint_is_said_and_never_trained_on(recipe, hundred, digits, tmp_path, capsys, damage):
    path, labels = tmp_path / "c.checkpoint", {"kind": "soft"}

    def learner(seed):
        network = students.create("convnet2", digits, seed)
        return training.Learner(network, network, training.optimizer(recipe("rd3-v1", hundred), network), None, None)

    def same(network, seed):
        others = students.create("convnet2", digits, seed).state_dict()
        return all(torch.equal(others[name], tensor) for name, tensor in network.state_dict().items())

    training.save_checkpoint(path, learner(0), labels, 0, 9.5, [])
    whole = path.read_bytes()
    damaged = []
    if damage == "a bit":
        for at in np.random.default_rng(0).integers(0, len(whole), 40):
            damaged.append(bytes([*whole[:at], whole[at] ^ 16, *whole[at + 1 :]]))
    elif damage == "a key":
        torch.save({key: value for key, value in torch.load(path).items() if key != "history"}, path)
        damaged = [path.read_bytes()]
    else:
        damaged = [{"its end": whole[:-200], "all of it": b"", "another file": b"{}\n" * 99}[damage]]
    for content in damaged:
        path.write_bytes(content)
        fresh = learner(1)
        resumed = training.load_checkpoint(path, fresh, labels)
        if resumed == (0, 0.0, []):
            assert "damaged: this student starts again" in capsys.readouterr().err and same(fresh.student, 1)
        else:  # a bit that says nothing, as of a record's date: what is read is what was written
            assert damage == "a bit" and resumed == (0, 9.5, []) and same(fresh.student, 0)


def test_effective_precision_says_what_really_runs():
    def launched(precision, kind):
        return type("Launch", (), {"mixed_precision": precision, "device": torch.device(kind)})()

    assert [launch.precision(launched(p, "cpu")) for p in ("no", "bf16", "fp16")] == ["fp32", "bf16", "fp32"]
    assert launch.precision(launched("fp16", "cuda")) == "fp16"


def test_dropout_is_seeded_by_student_epoch_and_process_so_that_nothing_needs_saving():
    draws = []
    for where in ((5, 0, 0), (5, 1, 0), (6, 0, 0), (5, 0, 1), (5, 0, 0)):
        training.seed_epoch(*where)
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[4] and len(set(map(tuple, draws))) == 4


def test_the_recipe_has_numbers_only(recipe, ten):
    assert not any(isinstance(v, dict) for part in ("training", "views", "labels", "loss")
                   for v in dataclasses.asdict(getattr(recipe("rd3-v1", ten), part)).values())  # fmt: skip
