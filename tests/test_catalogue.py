"""The catalogue: METHOD:ipc=K becomes the repo that publishes it."""

import dataclasses

import pytest

from rd3_utils.data import catalogue, selections, sources
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError
from rd3_utils.protocols import benchmark as benchmarks


def test_every_entry_is_a_repo_of_a_benchmark_with_its_maker_and_licence():
    for publisher in catalogue.publishers():
        benchmark = benchmarks.load(publisher.benchmark)
        assert publisher.made_by and publisher.licence and publisher.methods
        for method in publisher.methods:
            for ipc in publisher.ipc:
                repo = catalogue.located(sources.parse(f"{method}:ipc={ipc}"), benchmark)
                assert repo.text == repo.repo and method in repo.text and str(ipc) in repo.text


def test_a_method_and_a_number_find_their_repo(monkeypatch):
    asked = []
    monkeypatch.setattr(image_sets, "read", lambda source, benchmark, workers: asked.append(source.text))
    selections.image_set("sre2l:ipc=10", benchmarks.load("imagenet-1k"), None)
    selections.image_set("dm:ipc=10", benchmarks.load("digits"), None)
    assert asked == ["he-yang/2025-rethinkdc-imagenet-sre2l-ipc-10", "digits-dm-ipc10"]


@pytest.mark.parametrize(
    "source, wanted",
    [
        ("sre2k:ipc=10", "unknown method of imagenet-1k in the catalogue 'sre2k': did you mean 'sre2l'?"),
        ("sre2l:ipc=20", "has sre2l of imagenet-1k at 10, 50, 100 images per class, not at 20"),
    ],
)
def test_what_is_not_in_the_catalogue_is_named(source, wanted):
    with pytest.raises(UserError) as error:
        selections.image_set(source, benchmarks.load("imagenet-1k"), None)
    assert wanted in str(error.value)


def test_other_benchmarks_and_paths_are_left_alone(digits):
    method, set_of_a_repo = sources.parse("sre2l:ipc=10"), sources.parse("a/b:ipc-10")
    assert catalogue.located(method, digits) == method
    assert catalogue.located(set_of_a_repo, dataclasses.replace(digits, name="imagenet-1k")) == set_of_a_repo
