"""Hostile sizes: each is one line of error, within seconds, and the memory of no machine; in a process that may take 1 GB."""

import importlib.util
import io
import json
import os
import resource
import signal
import struct
import traceback
import zlib

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import PROJECT, run_script
from PIL import Image

from rd3_utils import bounded, hub, limits
from rd3_utils.data import convert, decoding, images, shards, soft_labels, sources, stamps, tables
from rd3_utils.errors import UserError
from rd3_utils.learning import students
from rd3_utils.studies import study

SECONDS, MEMORY = 20, 1_000_000_000


def bounded_call(call):
    """("refused" or "read" or "failed", words) of `call()` in a forked process of at most so many seconds and bytes more."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            signal.alarm(SECONDS)
            with open("/proc/self/statm") as file:
                data = int(file.read().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY, data + MEMORY))
            try:
                said = ["read", str(call())[:500]]
            except UserError as error:
                said = ["refused", str(error)]
            except BaseException:
                said = ["failed", traceback.format_exc()[-1500:]]
            os.write(writer, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return json.loads(data or '["failed", "killed"]')


def refusal(call):
    """The one line that refuses `call()`."""
    outcome, words = bounded_call(call)
    assert outcome == "refused", (outcome, words)
    assert "\n" not in words and len(words) < 1000, words
    return words


SETS = {
    "views.randaugment=1000": "at most 100",
    "training.epochs=1000000000000": "at most 1,000,000",
    "training.batch_size=10000000000": "at most 1,000,000,000",
    "training.learning_rate=1e308": "wanted at most",
    "training.learning_rate=1e400": "wanted finite",
    "training.learning_rate=" + "9" * 400: "wanted",
    "training.epochs=" + "9" * 5000: "wanted int",
    "training.milestones=" + "[" * 3000 + "]" * 3000: "wanted a list",
    "training.milestones=[" + "0.5," * 5000 + "]": "at most 1000",
    "training.epochs=3\nx=4": "wanted int",
    "training.epochs=1979-05-27": "wanted int",
    "labels.teacher_bn=groups:" + "9" * 5000: "groups:N",
    "labels.teacher_bn=groups:\N{SUPERSCRIPT TWO}": "groups:N",
    "labels.teachers=1000000": "at most 100",
    "views.padding=1e6": "at most 1",
    "training.test_resize=100000": "at most 4,096",
    "x" * 5000 + "=1": "unknown knob",
}
WORDS = {
    "seeds": (["--seeds", ",".join(map(str, range(12000)))], "12000 numbers are too many"),
    "more seeds": (["--seeds", ",".join(map(str, range(100000)))], "characters, wanted at most"),
    "draws": (["--draws", "1000000"], "wanted at most 1000"),
    "workers": (["--workers", "1000000"], "wanted at most 1024"),
    "forward batch": (["--forward-batch", "1000000000"], "wanted at most 100000"),
    "cache": (["--label-cache-gb", "nan"], "is no number of gigabytes"),
    "ipc": (["--distilled", "random:ipc=1000000000000000,seed=0"], "more than 64 GB"),
    "student": (["--student", "x" * 5000], "unknown student"),
    "no utf-8": (["--distilled", "a\udcff/b"], "neither a path"),
    "a NUL": (["--distilled", "a\0b"], "no folder or file"),
}


def test_a_command_that_asks_for_too_much_is_one_line(tmp_path):
    cases = {f"--set {text[:40]}": (["--set", text], words) for text, words in SETS.items()} | WORDS
    for name, (words, wanted) in cases.items():
        done = run_script(tmp_path, "train_student", "--dry-run", *words)
        assert done.code == 2 and done.err.count("\n") == 1 and len(done.err) < 4200 and wanted in done.err, (name, done.err)


TOML = {
    "deep": "a=" + "[" * 5000 + "]" * 5000,
    "digits": "a=" + "9" * 5000,
    "a NUL": "a=1\0",
    "a BOM": "\ufeffa=1",
    "huge": "a='" + "x" * 5_000_000 + "'",
    "a long key": "a" + ".a" * 1_000_000 + "=1",
    "a long header": "[" + "a . " * 1_000_000 + "a]",
}
JSON = {
    "deep": b"[" * 100_000,
    "deeper than copies go": b"[" * 50 + b"]" * 50,
    "digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "no number": b'{"schema": NaN}',
    "an endless number": b'{"schema": 1e400}',
    "a key twice": b"{" + b",".join(b'"k%d":1' % k for k in range(200_000)) + b',"k199999":2}',
    "a BOM": b"\xef\xbb\xbf{}",
    "no text": b"\xff\xfe",
    "large": b"[" + b"1," * 5_000_000 + b"1]",
}


@pytest.mark.parametrize("name", TOML)
def test_hostile_toml_is_refused(tmp_path, name):
    path = tmp_path / "x.toml"
    path.write_text(TOML[name])
    assert str(path) in refusal(lambda: bounded.read_toml(path))


@pytest.mark.parametrize("name", JSON)
def test_hostile_json_is_refused(tmp_path, name):
    path = tmp_path / "config.json"
    path.write_bytes(JSON[name])
    assert "config.json" in refusal(lambda: students.read_timm_config(tmp_path))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "folder.toml").mkdir()
    for name, target in {"zero": "/dev/zero", "loop": "loop.toml", "memory": "/proc/self/mem", "none": "nowhere"}.items():
        (tmp_path / f"{name}.toml").symlink_to(target)
    for name in ("fifo", "folder", "zero", "loop", "memory", "none"):
        assert "cannot read" in refusal(lambda path=tmp_path / f"{name}.toml": study.load(path))


def test_a_study_of_a_million_students_is_refused_before_they_are_listed(tmp_path):
    (tmp_path / "many.toml").write_text(f"""
name = "many"
title = "many"
benchmarks = ["digits"]
seeds = {list(range(1000))}
[[images]]
method = "random"
source = "random:ipc={{ipc}},seed={{draw}}"
ipc = {list(range(1, 1001))}
draws = {list(range(1000))}
[[grid]]
protocols = ["rd3-v1"]
""")
    assert "1,000,000,000 students" in refusal(lambda: study.load(tmp_path / "many.toml"))


TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(10_000_000, 3, 8, 8),
    "overlapping": lambda: torch.zeros(10_000).as_strided((1000, 3, 8, 8), (9, 3, 8, 1)),
    "sparse": lambda: torch.sparse_coo_tensor(torch.zeros(4, 1).long(), torch.ones(1), (10**9, 3, 8, 8)),
    "without data": lambda: torch.zeros(10**9, 3, 8, 8, device="meta"),
    "fp8": lambda: torch.zeros(10, 3, 8, 8).to(torch.float8_e4m3fn),
    "complex": lambda: torch.zeros(10, 3, 8, 8, dtype=torch.complex64),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(10, 3, 8, 8), 1.0, 0, torch.quint8),
    "a list": lambda: [torch.zeros(10, 3, 8, 8)],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_file_brings_the_memory_that_it_takes(digits, tmp_path, name):
    path = tmp_path / "images_best.pt"
    torch.save(TENSORS[name](), path)
    assert "wanted" in refusal(lambda: convert.read_images(path, digits)) or name in ("expanded", "overlapping")


def test_storages_of_before_and_packed_archives_are_not_read(digits, tmp_path):
    import zipfile

    path = tmp_path / "images_best.pt"
    torch.save(torch.zeros(10, 3, 8, 8), path, _use_new_zipfile_serialization=False)
    assert "no archive as torch.save writes it" in refusal(lambda: convert.read_images(path, digits))
    torch.save(torch.zeros(10, 3, 8, 8), path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    assert "a compressed archive" in refusal(lambda: convert.read_images(path, digits))


def png(width, height, *chunks):
    """A grey PNG that states a size and has no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in ((b"IHDR", header), *chunks, (b"IDAT", b""), (b"IEND", b"")))


PICTURES = {
    "10^8 pixels": png(10_000, 10_000),
    "10^18 pixels": png(2**31 - 1, 2**31 - 1),
    "a text of 1 GB": png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "a profile of 1 GB": png(8, 8, (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n",
    "an end": png(8, 8)[:40],
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_judged_by_its_header(name):
    refusal(lambda: decoding.picture(PICTURES[name], "image 0", photographs=True))


def test_large_photographs_take_the_memory_of_one(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (6000, 5000)).save(file, "JPEG")
    with pytest.raises(UserError, match="is 6000x5000, wanted 8x8"):
        decoding.picture(file.getvalue(), "image 0", size=8)
    assert bounded_call(lambda: decoding.picture(file.getvalue(), "image 0", photographs=True).size) == ["read", "(6000, 5000)"]


def test_parquet_is_judged_by_its_footer(digits, tmp_path, monkeypatch):
    path = tmp_path / "train-0.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"label": [0] * 1000}), path)
    monkeypatch.setattr(limits, "MOST_ROWS", 999)
    assert "holds 1,000 rows" in refusal(lambda: images.read(str(tmp_path), digits))
    monkeypatch.undo()
    nested = {"image": [[[{"bytes": b"x"}]]], "label": [[[0]]]}
    pyarrow.parquet.write_table(pyarrow.table(nested), path)
    assert "column" in refusal(lambda: images.read(str(tmp_path), digits))
    packed = pyarrow.table({"image": pyarrow.array([bytes(2_000_000)]), "label": [0]})
    pyarrow.parquet.write_table(packed, path, compression="gzip")
    monkeypatch.setattr(limits, "MOST_FREELY_PACKED", 1_000_000)
    assert "2 MB unpacked" in refusal(lambda: images.read(str(tmp_path), digits))


def test_local_files_are_read_where_no_cache_can_be_written(digits, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(stamps, "STAMPS", tmp_path / "cache" / "stamps")
    from rd3_utils.data import embedded

    table = tables.published(sources.parse("x/y"), digits, embedded.EMBEDDED / "digits-dm-ipc1")
    assert len(table.split_fingerprint) == 64 and (tmp_path / "cache").read_text() == "no folder"


def test_a_network_is_no_larger_than_its_file_may_say(tmp_path):
    for change in ({"num_classes": 10**12}, {"model_args": {"embed_dim": 10**9}}, {"model_args": {"depths": [2, 10**9]}}):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "convnet3", **change}))
        assert "wanted at most" in refusal(lambda: students.read_timm_config(tmp_path))


def test_the_page_of_limits_is_made_of_their_lines():
    spec = importlib.util.spec_from_file_location("render_limits", PROJECT / "docs/render_limits.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.page()
    assert (PROJECT / "docs/limits.md").read_text() == text
    assert all(f"| {name} |" in text for name in vars(limits) if name.isupper())


def test_an_index_of_a_repo_is_read_within_limits(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    path.write_text("[" * 100_000)
    monkeypatch.setattr(hub, "download", lambda *_, **how: path)
    files = shards.HubFolder("a/b", "0" * 40, "labels")
    assert "nested too deeply" in refusal(lambda: soft_labels.read_index(files))
    with open(path, "wb") as file:
        file.truncate(2_000_000_000)  # sparse
    assert "has at most 16 MB" in refusal(lambda: soft_labels.read_index(files))
