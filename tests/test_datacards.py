"""An owner's dataset card: what they wrote on it stays, whatever it is; what is added to it is there once."""

import re

import pytest
import yaml

from rd3_utils import pushing
from rd3_utils.data import sources
from rd3_utils.errors import UserError
from rd3_utils.publishing import dataset_repo, student_repo

SECTIONS = {"my-set/card.md": "## Images: my-set\n\nx"}
FRONTS = {
    "plain": "license: mit\npretty_name: Mine",
    "comments": "license: mit  # because\n# a comment\ntags:\n- a  # mine\n# last",
    "keys that are no texts": "license: mit\non: 5\n1: x\n2024-01-01: y",
    "one tag": "tags: alpha",
    "no tag": "tags:\nlicense: mit",
    "tags in brackets": "tags: [b,\n  a]\nlicense: mit",
    "tags that are numbers": "tags: [2024, b]",
    "all in braces": "{license: mit, tags: [a]}",
    "tables": "extra_gated_fields:\n  Name: text\n  I agree: checkbox\ntrain-eval-index:\n- config: x\n  tags: deep",
    "nothing": "extra_gated_prompt: null\nviewer: false",
    "numbers": "date: 2024-01-01\nv: 1e3\nw: 0o17\nversion: 1.10",
    "letters": "pretty_name: Größe 日本\nlanguage:\n- no\n- en",
    "long": f"pretty_name: {'word ' * 60}\nquoted: 'it''s'\nfolded: >\n  a\n\n  b\nkept: |\n  # no comment\n  tags: x",
    "own configs": "configs:\n  - config_name: b\n    data_files: b/*\n  # and\n  - config_name: my-set\n    data_files: x",
    "one config": "configs:\n  config_name: default\n  data_files: data/*",
    "quoted keys": "'tags': [a]\n\"configs\":\n- config_name: 1\n  data_files: x/*",
    "last": "dataset_info:\n  features:\n  - name: image\n    dtype: image\n\n\n# end",
}
TEXTS = {
    "text": "# Mine\n\nText with --- in it\n\n---\n\nafter",
    "code": "    indented code first\n\n\tmore",
    "marks in a line": f"It writes `{dataset_repo.BEGIN}` and `{dataset_repo.END}` here",
    "windows": "# Mine\r\n\r\nText",
    "nothing": "",
}


def merged(old):
    new = dataset_repo.dataset_card("alice/my", old, SECTIONS, {"rd3"})
    assert dataset_repo.dataset_card("alice/my", new, SECTIONS, {"rd3"}) == new, "a second push changes it"
    assert new.count(SECTIONS["my-set/card.md"]) == 1
    return new


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_what_an_owner_wrote_on_a_card_stays(front, text):
    for mark, end in (("", "\n"), ("\ufeff", "\n"), ("", "\r\n")):
        new = merged(f"{mark}---{end}{front.replace(chr(10), end)}{end}---{end}{end}{text}\n")
        block, rest = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", new, re.DOTALL).groups()
        before, after = yaml.safe_load(front), yaml.safe_load(block)
        assert {key: after[key] for key in before if key not in ("tags", "configs")} == {
            key: value for key, value in before.items() if key not in ("tags", "configs")
        }
        tags = before.get("tags") or []
        assert after["tags"] == [*([tags] if isinstance(tags, str) else tags), "rd3"]
        assert [c["config_name"] for c in after["configs"]][-1] == "my-set" and len(after["configs"]) <= 2
        assert rest.startswith(text or "# my"), rest
        if front.startswith(("license", "extra", "date", "pretty")):
            assert all(line in block.splitlines() for line in front.splitlines() if "tags" not in line), block


def test_a_card_that_begins_with_a_rule_is_text():
    new = merged("---\n\nI begin with a rule\n\n---\n\nafter\n")
    assert "---\n\nI begin with a rule\n\n---\n\nafter\n" in new and yaml.safe_load(new.split("---\n")[1])["tags"] == ["rd3"]


def test_our_part_is_found_by_whole_lines_and_an_end_alone_ends_nothing():
    end = f"{dataset_repo.END}\n\nbetween\n\n"
    new = merged(f"{end}{dataset_repo.BEGIN}\n\nkept\n\n{dataset_repo.BEGIN}\n\nold\n\n{dataset_repo.END}\n\nlast\n")
    assert f"{end}{dataset_repo.BEGIN}\n\nkept\n\n{dataset_repo.BEGIN}\n\n## Images" in new and "old" not in new
    assert new.endswith(f"{dataset_repo.END}\n\nlast\n")


@pytest.mark.parametrize("front, said", [
    ("a: [", "cannot be read (no YAML"), ("tags: {a: b}", "tags that are no list"), ("configs: x", "configs that are no list"),
    ("configs: [x]", "configs that are no list"), ("a: &x [1]\nb: *x", "YAML with aliases"),
    ("a: !!python/name:os.system ''", "no YAML"),
])  # fmt: skip
def test_a_card_that_nothing_can_be_added_to_is_said_in_one_line(front, said):
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        merged(f"---\n{front}\n---\n")
    assert "README.md of alice/my" in str(refusal.value) and "\n" not in str(refusal.value)


BAD = ["my set", "set[1]", "set(1)", "a=b", "a,b", "ünï", "x'y", 'q"q', "a#b", "a%20b", "set*", "a:b", "..x", ".", "__x", "a/b",
       "soft_labels", "a&b", "a+b", ""]  # fmt: skip
GOOD = ["plain", "10", "true", "-x", "data", "train-1", "card", "default", "train", "test", "a@b", "set.v2"]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_a_reader_would_not_take_back_is_not_published(name):
    with pytest.raises(UserError, match="rename its folder"):
        dataset_repo.check_name("alice/sets", name)


@pytest.mark.parametrize("name", GOOD)
def test_other_names_are_and_read_back_as_the_folder_in_the_repo(name):
    dataset_repo.check_name("alice/sets", name)
    assert sources.parse(f"alice/sets:{name}") == sources.in_repo("alice/sets", name)


def test_the_licence_of_a_student_s_repo_is_read_off_any_card(monkeypatch):
    target, there = pushing.Target("alice/student", "model"), {"README.md": None}
    for front, kept in (("license: mit\non: 5", b"license: mit\n"), ("one\ntwo", b""), ("1: x", b"")):
        monkeypatch.setattr(pushing, "text", lambda *_, front=front: f"\ufeff---\n{front}\n---\n# Mine")
        assert student_repo.with_licence(b"---\ntags: []\n---\n", target, "1", there) == b"---\n" + kept + b"tags: []\n---\n"
    monkeypatch.setattr(pushing, "text", lambda *_: "---\nlicense: [\n---\n")
    with pytest.raises(UserError, match="README.md of alice/student states its licence where it cannot be read"):
        student_repo.with_licence(b"", target, "1", there)
