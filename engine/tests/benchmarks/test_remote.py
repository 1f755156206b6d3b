"""Tables and page of the benchmark of mirrors, and what it does without a program."""

import json
from dataclasses import asdict

import pytest
from benchmarks.ranks.training import Blocks
from benchmarks.remote import command, page, transfers
from benchmarks.remote.measure import Measurement, Settings
from benchmarks.remote.ways import WAYS, make

BLOCKS = Blocks(length=2, pairs=1)
SIZE = 10**9


def times(stall_s):
    """A training with batches of 1 s, and a stall after the batch that is saved."""
    starts, ends, now = [], [], 0.0
    for batch in range(1, BLOCKS.num_batches + 1):
        starts.append(now)
        now += 1.0
        ends.append(now)
        now += stall_s if batch in BLOCKS.saves else 0.0
    return [{"starts": starts, "ends": ends}]


def transfer(part, way, wall_s, number=0):
    facts = {"part": part, "way": way, "state_bytes": SIZE, "round": number}
    return {**facts, "wall_s": wall_s, "cpu_s": 0.5} if wall_s else {**facts, "error": "it is not installed"}


@pytest.fixture
def raw():
    uploads = [transfer("upload", *item) for item in (("ours", 4.0), ("ours", 6.0, 1), ("boto3", 10.0))]
    downloads = [transfer("download", *item) for item in (("ours", 2.0), ("boto3", 4.0), ("stream", 8.0))]
    facts = {"part": "training", "state_bytes": SIZE, "blocks": asdict(BLOCKS)}
    runs = [{**facts, "way": way, "times": times(0.0 if way == "none" else 0.25)} for way in WAYS]
    floor = {"copy_s": [0.01], "write_s": [0.1], "slow_bytes_per_s": 3e6}
    floor |= {"part": "floor", "state_bytes": SIZE, "blocks": asdict(BLOCKS)}
    about = dict.fromkeys(("date", "cpu", "cores", "file_system", "python", "torch", "lightning"), "x")
    settings = {"rounds": 2, "server": "1", "clients": "c", "s3fs": "pip"}
    lightning = transfer("upload", "lightning", None)
    return {
        "machine": about,
        "settings": settings,
        "command": "make",
        "runs": [*uploads, lightning, *downloads, *runs, floor],
    }


def test_each_program_is_compared_with_boto3(raw):
    ours, boto3, lightning = page.transfer_rows(raw, "upload", SIZE)
    assert ours[1:4] == ("5.00 (4.00 to 6.00)", "200", "x 0.50")
    assert boto3[3] == "x 1.00"
    assert lightning[1] == "not measured: it is not installed"


def test_the_page_and_the_plot_show_each_training(raw, tmp_path):
    text = page.text(raw)
    for name, way in WAYS.items():
        stall = "-" if name == "none" else "250"
        assert f"| {way.label} | {stall} |" in text
    assert "the slow store takes 3 MB/s" in text
    page.draw(raw, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_stored_measurement_is_reported(raw, tmp_path, capsys):
    path = tmp_path / "remote.json"
    path.write_text(json.dumps(raw))
    assert command.main(["--report", str(path)]) == 0
    assert "mirror, slow store" in capsys.readouterr().out


def test_a_program_that_is_not_installed_is_left_out_by_name(tmp_path, monkeypatch):
    settings = Settings(tmp_path, 1, 1, 1.0, None, 1.0)
    found = Measurement(settings, type("Store", (), {"url": "http://127.0.0.1:9"})(), 10**7, lambda part, facts: None)
    lightning = found._transfer("upload", "lightning", transfers.UPLOADS["lightning"], "s3://b/p", tmp_path)
    assert lightning == {"error": "s3fs is not installed; see --s3fs"}
    monkeypatch.setattr("benchmarks.remote.measure.find_spec", lambda name: None)
    boto3 = found._transfer("upload", "boto3", transfers.UPLOADS["boto3"], "s3://b/p", tmp_path)
    assert boto3 == {"error": "boto3 is not installed"}


def test_only_ways_with_a_mirror_have_one(tmp_path):
    kinds = {}
    for name, way in WAYS.items():
        callbacks = make(way, "memory://bench/run", 1.0)(tmp_path / name, lambda batch: False)
        kinds[name] = [len(item.listeners) for item in callbacks]
    assert kinds == {"none": [], "off": [0], "on": [1], "slow": [1], "hanging": [1]}


def test_the_folders_of_this_machine_are_not_on_the_page():
    repeated = command._repeat_command(["--sizes", "1", "--s3fs", "/here/s3fs", "--dir", "/here", "--out", "/there"])
    assert repeated == "make bench ARGS='remote --sizes 1 --s3fs s3fs'"
