"""SOURCE: what people write is read once and printed in one spelling; what outputs say is read strictly."""

import random

import pytest

from rd3_utils.data import sources
from rd3_utils.data.sources import FULL, NetworkSource, Source
from rd3_utils.errors import UserError

PARTS = ["random", "full", "dm", "a", "Owner", "re-po.1", ":", ",", "@", "/", "=", "ipc", "seed", "0", "00", "1", "10", "010",
         "\u0663", " ", "\n", ".", "..", "~", "-", "refs/pr/1", "ipc=10", "seed=3", "random:ipc=2", "a/b", "hf-hub:a/b",
         "local-dir:", "torchvision:", "timm", "resnet18.a1_in1k", "default", "held-out:", "\0", "x" * 300]  # fmt: skip


def texts(count):
    """Texts of parts of the grammar in any order: many are a SOURCE, many nearly one."""
    generator = random.Random(0)
    return ["".join(generator.choices(PARTS, k=generator.randint(1, 6))) for _ in range(count)]


def read(parse, text):
    """What `parse` makes of a text, or the one line that it is told."""
    try:
        return parse(text)
    except UserError as error:
        assert "\n" not in str(error), text
        return str(error)


@pytest.mark.parametrize("parse", [sources.parse, sources.parse_network])
def test_a_source_has_one_spelling_which_reads_back_as_the_same(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = [one for one in (read(parse, text) for text in texts(5_000)) if not isinstance(one, str)]
    assert {one.kind for one in found} >= ({"path", "selection", "method", "name", "repo"} if parse is sources.parse else
                                           {"default", "local-dir", "hf-hub", "torchvision", "timm"})  # fmt: skip
    for one in found:
        again = parse(one.text)
        assert again == one and again.text == one.text == str(one) and parse(one) is one


def test_what_a_source_says_in_an_output_is_read_back_as_the_same():
    for one in filter(lambda one: isinstance(one, Source), (read(sources.parse, text) for text in texts(5_000))):
        stated = sources.recorded(one.text, "1" * 40 if one.repo else None)
        assert stated == one if one.kind in ("selection", "repo", "path") else stated.repo is stated.draw is None
    assert sources.recorded("a/b").kind == "path" and sources.recorded(sources.held_out(5).text) == sources.held_out(5)


NO_DRAWS = "random:ipc=01,seed=0|random:ipc=1,seed=00|random:ipc=1,seed=\u0663|random:ipc=0,seed=0|random:ipc=1,seed=0 |"
NO_DRAWS += "random:ipc=1,seed=0\n|random:seed=0,ipc=1|random:ipc=1|x random:ipc=1,seed=0|random|full"


@pytest.mark.parametrize("text", NO_DRAWS.split("|"))
def test_only_what_outputs_write_is_a_draw(text):
    assert sources.recorded(text).draw is None and sources.recorded("random:ipc=10,seed=2").draw == (10, 2)
    assert sources.recorded(text).is_selection == (text.startswith("random:") or text == "full")  # a wrong one is no path


def test_people_may_write_a_selection_in_any_order_and_outputs_write_it_in_one(select):
    assert sources.parse("random:seed=3,ipc=10").text == "random:ipc=10,seed=3"
    assert sources.parse("random:ipc=10") == sources.random(10, 0) and sources.parse("full") == FULL
    assert select("random:seed=0,ipc=1").source == "random:ipc=1,seed=0"


@pytest.mark.parametrize("text, wanted", [
    ("random:ipc=010", "'ipc=010' is not KEY=NUMBER"), ("random:ipc=1,seed=00", "'seed=00' is not KEY=NUMBER"),
    ("random:ipc=\u0661", "is not KEY=NUMBER"), ("random:ipc=1\n", "is not KEY=NUMBER"), ("random:ipc= 1", "is not KEY=NUMBER"),
    ("random:ipc=" + "1" * 19, "is not KEY=NUMBER"), ("random:ipc=0", "asks for 0 images per class, wanted at least 1"),
    ("random:", "lacks ipc"), ("random:seed=1", "lacks ipc"), ("full:ipc=1", "full takes no options"),
    ("random:ipc=1,ipc=2", "states ipc twice"),
    ("random:ipc=1,sede=1", "did you mean 'seed'"), ("a/b@c@d", "neither a path that exists"), ("a/b@", "neither a path"),
    ("a/b@../x", "neither a path"), ("a/b:../x", "neither a path"), ("a/b:x/..", "neither a path"), ("a b/c", "neither a path"),
    ("a/b/c", "neither a path"), ("a/b\n", "neither a path"), ("\u0430/b", "neither a path"),
])  # fmt: skip
def test_a_hostile_source_is_one_line(text, wanted):
    said = read(sources.parse, text)
    assert isinstance(said, str) and wanted in said


@pytest.mark.parametrize("text", ["../sets", "/nowhere/a/b", "./a b", "~/sets", ".", "/" + "x" * 5_000])
def test_what_begins_as_a_path_is_one_whether_it_is_there_or_not(text):
    assert sources.parse(text) == Source("path", text)


@pytest.mark.parametrize("text", ["random:ipc=1", "full", "dm:ipc=10", "owner/repo", "digits-dm-ipc1"])
def test_a_path_that_exists_wins(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = sources.parse(text).kind
    (tmp_path / "elsewhere" / text).mkdir(parents=True)
    assert sources.parse(text).kind == kind != "path"
    assert sources.parse(text, "elsewhere") == sources.parse(text, tmp_path / "elsewhere") == Source("path", text)


@pytest.mark.parametrize("text, wanted", [
    ("/data/dm.v2/train.parquet", "train"), ("sets/dm-ipc1", "dm-ipc1"), ("random:seed=3,ipc=10", "random-ipc10-seed3"),
    ("full", "full"), ("owner/repo", "repo"), ("owner/repo@v1:dm-ipc10", "repo-dm-ipc10"), ("owner/repo:a/b", "repo-a-b"),
])  # fmt: skip
def test_a_set_has_a_name_that_is_no_path(text, wanted):
    source = sources.folder(text) if text.startswith(("/", "sets")) else sources.parse(text)
    assert source.set_name == wanted


def test_outputs_name_no_machine(tmp_path):
    assert sources.parse_network(str(tmp_path)) == sources.parse_network(f"local-dir:{tmp_path}") == sources.saved(tmp_path)
    assert sources.saved(tmp_path).stated.text == f"local-dir:{tmp_path.name}"
    for text in ("local-dir:embedded/teacher", "hf-hub:owner/repo@v1", "torchvision:resnet18", "resnet18"):
        assert sources.parse_network(text).stated.text == text


def test_networks_have_an_architecture_a_tag_and_a_default():
    for text in ("resnet18.a1_in1k", "torchvision:resnet18.IMAGENET1K_V1"):
        one = sources.parse_network(text)
        assert (one.architecture, one.tag) == ("resnet18", text.rpartition(".")[2])
    assert sources.parse_network("default") == NetworkSource("default", "default")
    assert sources.parse_network("default", "hf-hub:a/b@v1") == NetworkSource("hf-hub", "a/b", "v1")
    assert "wanted hf-hub:OWNER/REPO[@REVISION]" in str(read(sources.parse_network, "hf-hub:a/b:c"))


@pytest.mark.parametrize("name", ["full", "random:ipc=1,seed=0", "held-out:ipc=3", "random:"])
def test_a_folder_that_is_called_as_a_selection_is_not_recorded_as_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for text in (name, str(tmp_path / name)):
        stated = sources.parse(text).stated
        assert stated.text == f"./{name}" and sources.recorded(stated.text) == stated
    assert sources.folder("/data/cifar10").stated.text == "cifar10" and sources.folder("sets/full").stated.text == "sets/full"


@pytest.mark.parametrize("text, kind", [
    ("labels/", "path"), ("my/labels/", "path"), ("my/labels", "repo"), ("a/b/c", "path"), ("my labels", "path"),
    ("soft_labels", "path"), ("./my/labels", "path"), ("a/b@v1:soft_labels/x", "repo"), ("a b/c", "path"), ("a/b:../x", "path"),
])  # fmt: skip
def test_label_stores_lie_in_a_repo_only_where_one_can_be_meant(text, kind, tmp_path, monkeypatch):
    assert sources.parse_stores(text).kind == kind
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "labels").mkdir(parents=True)
    assert sources.parse_stores("my/labels") == Source("path", "my/labels")


def test_an_end_with_a_slash_is_a_folder():
    assert sources.parse("my_set/") == Source("path", "my_set/") and sources.parse("a/b/").kind == "path"
