"""Files and folders are whole or absent, whoever else reads, writes or is killed meanwhile; a disk that refuses is one line."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from safetensors import SafetensorError
from safetensors.torch import save_file

from rd3_utils import files
from rd3_utils.data import images as image_sets
from rd3_utils.errors import UserError

WRITER = """
import sys
from pathlib import Path
from rd3_utils import files
path, letter = Path(sys.argv[1]), sys.argv[2].encode()
for k in range(40):
    files.write_whole(path, letter * (300_000 + k))
"""
FOLDERS = """
import sys
from pathlib import Path
from rd3_utils import files
folder, letter = Path(sys.argv[1]), sys.argv[2]
for k in range(40):
    with files.whole_folder(folder, replaces=True) as partial:
        for name in ("a", "b", f"{letter}{k}"):
            (partial / name).write_text(f"{letter}{k}")
"""
STUCK = """
import sys, time
from pathlib import Path
from rd3_utils import files
write = files.whole_folder if sys.argv[2] == "folder" else files.whole_file
with write(Path(sys.argv[1])) as partial:
    target = partial / "part" if sys.argv[2] == "folder" else partial
    target.write_bytes(b"half")
    print("half", flush=True)
    time.sleep(600)
"""


def started(code, *words, **more):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(PROJECT)}, **more)  # fmt: skip


def ended(*processes):
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def raising(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_reader_never_sees_half_a_file_though_two_commands_write_it(tmp_path):
    path, seen = tmp_path / "new" / "file", set()
    writers = [started(WRITER, path, letter) for letter in "xy"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            data = path.read_bytes()
            assert data == data[:1] * len(data) and len(data) >= 300_000
            seen.add(data[:1])
        time.sleep(0.002)
    ended(*writers)
    assert seen == {b"x", b"y"} and names(tmp_path / "new") == {"file"}


def test_two_commands_that_replace_a_folder_leave_one_of_theirs_whole(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "old").write_text("old")
    ended(*[started(FOLDERS, folder, letter) for letter in "xy"])
    last = (folder / "a").read_text()
    assert last in ("x39", "y39") and names(tmp_path) == {"site", "site/a", "site/b", f"site/{last}"}
    assert (folder / "b").read_text() == last


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("there", [False, True])
def test_a_write_that_raises_leaves_what_was_there_and_nothing_else(tmp_path, error, there):
    if there:
        (tmp_path / "file").write_text("old")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "a").write_text("old")
    before = names(tmp_path)
    wanted = UserError if isinstance(error, OSError) else type(error)
    for target, write in (("file", files.whole_file), ("folder", files.whole_folder)):
        with pytest.raises(wanted), write(tmp_path / target) as partial:
            (partial / "a" if target == "folder" else partial).write_text("half")
            raise error
    with pytest.raises(wanted), files.whole_folder(tmp_path / "folder", replaces=True) as partial:
        raise error
    assert names(tmp_path) == before and all(p.read_text() == "old" for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("number, words", [
    (errno.ENOSPC, "is full: free some space, or do this."), (errno.EDQUOT, "free some space, or do this."),
    (errno.EROFS, "is read-only: do this."), (errno.EACCES, "may not write there: do this."), (errno.EIO, "error: do this."),
])  # fmt: skip
def test_a_disk_that_refuses_is_one_line_that_names_the_path_and_what_to_do(tmp_path, monkeypatch, number, words):
    path = tmp_path / "deep" / "file"
    with pytest.raises(UserError) as told, files.whole_file(path, "do this"):
        raising(number)()
    assert str(told.value).startswith(f"{path} cannot be written, ") and str(told.value).endswith(words)
    monkeypatch.setattr(files.os, "fsync", raising(number))  # a network disk says so only then
    with pytest.raises(UserError, match=f"^{tmp_path}/x cannot be written, .*{words}$"):
        files.write_whole(tmp_path / "x", "text", "do this")
    with pytest.raises(UserError, match=f"^{tmp_path}/y cannot be written, .*{words}$"):
        files.try_folder(tmp_path / "y", "do this")
    assert names(tmp_path) == {"deep"}


def test_a_name_and_a_place_that_cannot_be_are_one_line_too(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for path, words in (("file/x", f"'{tmp_path}/file' is no folder: remove it, or"), ("n" * 300, "use a shorter one"),
                        ("folder", "a folder lies where a file is wanted")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            files.write_whole(tmp_path / path, b"new")
    files.write_whole(tmp_path / ("n" * 255), b"new")  # the longest that file systems take
    files.write_whole(tmp_path / ("é" * 127), b"new")
    assert names(tmp_path) == {"file", "folder", "folder/inner", "n" * 255, "é" * 127}


def test_a_real_limit_on_the_size_of_files_is_told_and_nothing_stays(tmp_path):
    """By Python's own writing, and by that of safetensors, which has its own exceptions."""
    code = """
import resource, sys, torch
from rd3_utils import files
from rd3_utils.errors import UserError
from safetensors import SafetensorError
from safetensors.torch import save_file
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for name in ("plain", "tensors"):
    try:
        with files.whole_file(sys.argv[1] + "/" + name, failures=(SafetensorError,)) as partial:
            partial.write_bytes(bytes(20_000)) if name == "plain" else save_file({"x": torch.zeros(9999)}, partial)
    except UserError as error:
        print(error)
"""
    told, err = started(code, tmp_path).communicate(timeout=100)
    assert told.count("larger than files may be here: raise that limit") == 2, (told, err)
    assert names(tmp_path) == set()


def test_what_a_library_raises_instead_says_the_same(tmp_path):
    for text, words in (("I/O error: No space left on device (os error 28)", "the disk is full: free some space"),
                        ("somehow", "somehow: choose another folder")):  # fmt: skip
        with pytest.raises(UserError, match=words), files.whole_file(tmp_path / "x", failures=(SafetensorError,)):
            raise SafetensorError(text)
    with files.whole_file(tmp_path / "x", failures=(SafetensorError,)) as partial:
        save_file({"x": torch.ones(3)}, partial)
    assert names(tmp_path) == {"x"}


def test_links_are_not_followed_where_a_file_is_written(tmp_path, monkeypatch):
    """One that somebody put at the temporary name, and one at the target, which is replaced."""
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("untouched")
    target.symlink_to(victim)
    planted = tmp_path / f".target.{os.getpid()}-00000000.partial"
    planted.symlink_to(victim)
    tokens = iter(["00000000", "11111111"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(tokens))
    files.write_whole(target, "new")
    assert victim.read_text() == "untouched" and target.read_text() == "new" and not target.is_symlink()
    assert planted.is_symlink() and next(tokens, None) is None


def test_a_link_to_a_folder_keeps_leading_there(tmp_path):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    for replaces in (False, True):
        with files.whole_folder(tmp_path / "link", replaces=replaces) as partial:
            (partial / "a").write_text("new")
            assert partial.parent == tmp_path / "disk"
        assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk") == {"real", "real/a"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_command_left_goes_with_a_later_write_of_the_same_target(tmp_path, kind):
    target, foreign = tmp_path / "target", [".target.txt.partial", ".other.12-00000000.partial", ".target.partial.bak"]
    writer = started(STUCK, target, kind)
    assert writer.stdout.readline() == "half\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    (left,) = tmp_path.iterdir()
    assert str(writer.pid) in left.name
    for name in foreign:
        (tmp_path / name).write_text("not ours")
        os.utime(tmp_path / name, (0, 0))
    files.write_whole(target, "new")
    assert left.exists()  # young: somebody may be writing it
    os.utime(left, (time.time() - files.ABANDONED - 1,) * 2)
    files.write_whole(target, "newer")
    assert names(tmp_path) == {"target", *foreign} and target.read_text() == "newer"
    files.remove_abandoned(tmp_path)
    assert names(tmp_path) == {"target", foreign[0], foreign[2]}


def test_files_go_into_a_folder_that_is_there_one_by_one_the_telling_one_last(tmp_path, monkeypatch):
    folder, moved = tmp_path / "student", []
    folder.mkdir()
    for name in ("card.md", "config.json", "a", "z"):
        (folder / name).write_text("old")
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda old, new: (moved.append(Path(new).name), replace(old, new)))
    with files.whole_folder(folder, last="config.json") as partial:
        for name in ("config.json", "a", "z"):
            (partial / name).write_text("new")
    assert sorted(moved[:2]) == ["a", "z"] and moved[2:] == ["config.json"]
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"card.md": "old", "config.json": "new", "a": "new", "z": "new"}


def test_files_and_folders_may_be_read_by_whoever_may_read_others(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "file", "text")
        with files.whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")] == [0o640, 0o750]


# --- the output folder is tried before hours of work


def test_trying_a_folder_makes_nothing(tmp_path):
    for folder in (tmp_path / "a" / "b" / "c", tmp_path):
        files.try_folder(folder)
        files.check_new(folder)
        assert names(tmp_path) == set()


def test_an_output_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "file/deep/er", "nowhere", "nowhere/deep"):
        there = tmp_path / name.partition("/")[0]
        with pytest.raises(UserError, match=f"^{tmp_path}/{name} cannot be written, '{there}' is no folder: remove it, or"):
            files.try_folder(tmp_path / name)
    with pytest.raises(UserError, match="use a shorter one"):
        files.try_folder(tmp_path / ("n" * 300) / "x")
    for name in ("file", "."):
        with pytest.raises(UserError, match="nothing is overwritten"):
            files.check_new(tmp_path / name)
    assert names(tmp_path) == {"file", "nowhere"}


def test_the_folder_of_the_command_and_a_circle_of_links_are_told_for_what_they_are(script, tmp_path, monkeypatch):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="circle' is no folder: remove it"):
        files.check_new(tmp_path / "circle")
    with pytest.raises(UserError, match="circle' is no folder: remove it"), files.whole_folder(tmp_path / "circle"):
        pass
    (tmp_path / "circle").unlink()
    monkeypatch.chdir(tmp_path)
    files.check_new(".")
    with files.whole_folder(".") as partial:
        (partial / "mine").write_text("new")
    assert names(tmp_path) == {"mine"} and Path.cwd().samefile(tmp_path)
    (tmp_path / "mine").unlink()
    done = script("rd3_utils", "leaderboard", "--results", tmp_path, "--out", ".")
    assert done.code == 2 and "is the folder that this command runs in" in done.err and names(tmp_path) == set()


@pytest.mark.parametrize("name", ["n" * 300, "circle/x"])
@pytest.mark.parametrize("command", ["train", "label", "train, its labels", "synthesize", "study", "leaderboard", "transfer"])
def test_a_name_that_cannot_be_one_is_one_line_of_every_command(script, tmp_path, monkeypatch, command, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    done = script(*COMMANDS[command].replace("OUT", name).split())
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert names(tmp_path) == {"here", "circle"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="this user may not write there"):
        files.try_folder(tmp_path / "out")


COMMANDS = {
    "train": "train_student --teacher default --out OUT/results",
    "label": "generate_soft_labels --out OUT/labels",
    "train, its labels": "train_student --teacher default --out results --soft-labels ./OUT/labels",
    "synthesize": "rd3_utils synthesize dm --ipc 1 --out OUT/set",
    "convert": "rd3_utils convert images_best.pt OUT/set --benchmark digits",
    "study": "rd3_utils study digits-smoke.toml --out OUT/results",
    "leaderboard": "rd3_utils leaderboard --results here --out OUT/site",
    "transfer": "rd3_utils transfer here --to digits --out OUT/results",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_tries_its_output_folder_before_it_works(script, tmp_path, monkeypatch, command):
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("old")
    before = names(tmp_path)
    work = AssertionError("work was begun")
    monkeypatch.setattr(image_sets, "test_split", lambda *_: (_ for _ in ()).throw(work))
    done = script(*COMMANDS[command].replace("OUT", "file").split())
    assert done.code == 2 and "file' is no folder: remove it, or choose another" in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "file/" in done.err
    monkeypatch.setattr(files, "sync_file", raising(errno.ENOSPC))
    full = script(*COMMANDS[command].replace("OUT", "new").split())
    assert full.code == 2 and "the disk is full: free some space" in full.err and full.err.count("\n") == 1
    assert names(tmp_path) == before


@pytest.mark.parametrize("command", ["train", "label", "study"])
def test_a_dry_run_makes_nothing(script, tmp_path, command):
    done = script(*COMMANDS[command].replace("OUT", "new").split(), "--dry-run")
    assert done.code == 0 and names(tmp_path) == set(), done.err
