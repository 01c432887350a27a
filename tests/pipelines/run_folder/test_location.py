"""Run folders at a URL: the same files as on a disk, taken there while the run goes on, and taken up again by the next start."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import fsspec
import pytest

from pipelines import plan, report, submit
from pipelines.engine.driver import Driver
from pipelines.planning.measured import read_run
from pipelines.recipe.errors import UserError
from pipelines.recipe.load import load_recipe
from pipelines.run_folder import location as place_module
from pipelines.run_folder.location import RunLocation
from pipelines.train import main
from tests.support.plain_run import in_no_time


@pytest.fixture
def url(s3, request):
    return f"{s3}/{request.node.name}"


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(place_module, "PUSH_EVERY_S", 0.02)


def names_at(url):
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return {found.removeprefix(root).lstrip("/") for found in system.find(root)}


def read(url):
    system, path = fsspec.core.url_to_fs(url)
    return system.cat_file(path)


def until(true):
    give_up = time.monotonic() + 30
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def ignore(text):
    pass


def test_a_path_is_worked_on_where_it_is(tmp_path):
    with RunLocation(f"{tmp_path}/run/") as place:
        place.watch(ignore)
        assert (place.path, place.name, place.shown) == (tmp_path / "run", "run", f"{tmp_path}/run")
        assert place.checkpoints == f"{tmp_path}/run/checkpoints"


def test_a_changed_file_is_taken_to_the_url_while_the_run_goes_on(url, often):
    with RunLocation(url) as place:
        place.watch(ignore)
        (place.path / "metrics.jsonl").write_text("one\n")
        until(lambda: "metrics.jsonl" in names_at(url))
        with (place.path / "metrics.jsonl").open("a") as file:
            file.write("two\n")
        until(lambda: read(f"{url}/metrics.jsonl") == b"one\ntwo\n")


def test_the_last_changes_are_taken_at_the_end_and_the_copy_is_removed(url):
    with RunLocation(url) as place:
        place.watch(ignore)
        (place.path / "samples").mkdir()
        (place.path / "samples" / "grid.png").write_bytes(b"png")
        (place.path / "summary.json.tmp").write_bytes(b"half")
    assert names_at(url) == {"samples/grid.png"}
    assert not place.path.parent.exists()


def test_what_lies_at_the_url_is_taken_up_but_for_what_is_large(url):
    system, root = fsspec.core.url_to_fs(url)
    for name in ("events.jsonl", "samples/a.png", "samples/shards/s.parquet", "checkpoints/step-000001/manifest.json"):
        system.pipe_file(f"{root}/{name}", name.encode())
    with RunLocation(url) as place:
        found = {file.relative_to(place.path).as_posix() for file in place.path.rglob("*") if file.is_file()}
    assert found == {"events.jsonl", "samples/a.png"}


def test_a_token_neither_goes_to_the_url_nor_comes_from_there(url):
    system, root = fsspec.core.url_to_fs(url)
    with RunLocation(url) as place:
        place.watch(ignore)
        (place.path / "ray_token").write_text("secret")
        (place.path / "status.json").write_text("{}")
    assert names_at(url) == {"status.json"}
    system.pipe_file(f"{root}/ray_token", b"planted")
    with RunLocation(url) as place:
        assert {file.name for file in place.path.iterdir()} == {"status.json"}


def test_what_did_not_change_is_not_written_again(url):
    system, root = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{root}/recipe.toml", b"x")
    with RunLocation(url) as place:
        place.watch(ignore)
        (place.path / "status.json").write_text("{}")
        system.pipe_file(f"{root}/recipe.toml", b"of another hand")
    assert read(f"{url}/recipe.toml") == b"of another hand"
    assert names_at(url) == {"recipe.toml", "status.json"}


def test_a_bucket_that_is_not_there_is_a_users_mistake_and_leaves_nothing(s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="no-such-bucket"), RunLocation("s3://no-such-bucket/run"):
        pass
    with pytest.raises(UserError, match="nothing://run"), RunLocation("nothing://run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_cannot_be_taken_back_stays_and_says_where(s3):
    bucket = fsspec.filesystem("s3")
    bucket.mkdir("gone")

    def run():
        with RunLocation("s3://gone/run") as place:
            place.watch(ignore)
            bucket.rm("gone", recursive=True)
            (place.path / "status.json").write_text("{}")

    with pytest.raises(OSError, match="it is kept in") as raised:
        run()
    kept = Path(str(raised.value).rpartition(" ")[2])
    assert (kept / "status.json").is_file()
    shutil.rmtree(kept.parent)


def train(recipe, out, *options):
    return in_no_time([str(recipe), "--out", out, "--executor", "local", *options])


def test_a_run_at_a_url_ends_with_the_digest_of_one_on_disk(plain_world, tmp_path, url):
    assert train(plain_world, str(tmp_path / "run")) == 0
    assert train(plain_world, url) == 0
    on_disk = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads(read(f"{url}/summary.json"))["digest"] == on_disk["digest"]
    assert {name for name in names_at(url) if not name.startswith("tensorboard")} == {
        file.relative_to(tmp_path / "run").as_posix()
        for file in (tmp_path / "run").rglob("*")
        if file.is_file() and "tensorboard" not in file.parts
    }
    assert train(plain_world, url) == 2  # it holds a run


def test_a_run_at_a_url_goes_on_from_there(plain_world, tmp_path, url, monkeypatch):
    short = ["--set", "loop.steps=4", "--set", "heldout.every=100"]
    assert train(plain_world, str(tmp_path / "run"), *short) == 0
    step_over = Driver.step_over

    def over_then_stopped(driver, train):
        step_over(driver, train)
        if train.step == 2:
            driver.control.stop()

    monkeypatch.setattr(Driver, "step_over", over_then_stopped)
    assert train(plain_world, url, *short) == 130
    monkeypatch.undo()
    assert json.loads(read(f"{url}/status.json"))["status"] == "stopped"
    assert train(plain_world, url, *short, "--resume") == 0
    on_disk = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads(read(f"{url}/summary.json"))["digest"] == on_disk["digest"]
    assert [json.loads(line)["step"] for line in read(f"{url}/metrics.jsonl").splitlines()] == [1, 2, 3, 4]


def test_a_report_is_written_beside_a_run_at_a_url(plain_world, url):
    assert train(plain_world, url, "--set", "loop.steps=1") == 0
    fsspec.filesystem("s3").rm(f"{url}/report.html")
    assert report.main([url]) == 0
    assert b"<html" in read(f"{url}/report.html")


def test_a_url_that_denies_for_a_while_is_tried_again_and_said_once(url, often, flaky_s3):
    notes = []
    with RunLocation(url) as place:
        flaky_s3.fail(status=403, request="PUT")
        (place.path / "status.json").write_text("{}")
        place.watch(notes.append)
        until(lambda: sum("PUT" in request for request in flaky_s3.requests) >= 3)
        assert len(notes) == 1
        assert "access is denied" in notes[0]
        flaky_s3.calm()
        until(lambda: len(notes) == 2)
    assert "again" in notes[1]
    assert names_at(url) == {"status.json"}


def test_a_url_that_denies_is_refused_before_anything_is_done(url, flaky_s3):
    flaky_s3.fail(status=403)
    with pytest.raises(UserError, match="access is denied"), RunLocation(url):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch, tiny_world):
    """A home folder with the prompts and models of the tiny world in it."""
    for name in ("train.jsonl", "heldout.jsonl", "image", "judge", "recipe.toml"):
        (tmp_path / name).symlink_to(tiny_world.parent / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_home_folder_is_meant_by_a_tilde_in_every_key(home):
    keys = {
        "data.train": "train.jsonl",
        "data.heldout": "heldout.jsonl",
        "policy.model": "image",
        "reward.model": "judge",
        "loop.checkpoints": "ck",
    }
    settings = [word for key, name in keys.items() for word in ("--set", f"{key}=~/{name}")]
    assert train("~/recipe.toml", "~/run", *settings, "--set", "loop.steps=1", "--set", "heldout.every=100") == 0
    assert (home / "run" / "summary.json").is_file()
    [checkpoint] = (home / "ck").iterdir()
    recipe = load_recipe(home / "run" / "recipe.toml")
    assert recipe.policy.model == str(home / "image")
    again = ("--resume", f"~/ck/{checkpoint.name}", *settings, "--set", "loop.steps=1")
    assert train("~/recipe.toml", "~/other", *again, "--set", "heldout.every=100") == 0
    assert report.main(["~/other"]) == 0
    with pytest.raises(UserError, match=r"--measured .* of its 1 steps can be measured"):
        read_run("~/run")


NO_PLACES = {
    "": "it is empty",
    "s3://": "names no bucket",
    "s3:///runs/a": "names no bucket",
    "s3:/bucket/run": "two slashes",
    "~nobody-of-this-name/x": "there is no user",
    "nothing://bucket/run": "not known",
    "gs://bucket/run": "gcsfs",
    "{file}/run": "",
    "{folder}/" + 300 * "x": "",
}


PLACES = ("--out", "--resume", "loop.checkpoints", "data.train", "RUN", "--measured")
NOT_URLS = ("submit", "policy.model", "reward.model", "RECIPE")  # where it is told in other words


def test_an_empty_recipe_is_told_by_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "argument recipe: it is empty (is a variable unset?)" in capsys.readouterr().err


@pytest.mark.parametrize("given", NO_PLACES)
@pytest.mark.parametrize("key", [*PLACES, *NOT_URLS])
def test_what_is_no_place_ends_with_2_before_any_worker_starts(key, given, tiny_world, tmp_path, capsys):
    (tmp_path / "file").touch()
    place = given.format(file=tmp_path / "file", folder=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if given == "" and key in ("loop.checkpoints", "RECIPE"):
        return  # checkpoints in the run folder; told by the command line
    if key == "RECIPE":
        code = main([place, "--out", str(tmp_path / "run")])
    elif key in ("--out", "--resume"):
        code = main([str(tiny_world), "--out", str(tmp_path / "run"), key, place])
    elif key == "RUN":
        code = report.main([place])
    elif key == "--measured":
        code = plan.main(["recipes/toy.toml", "--measured", place])
    elif key == "submit":
        code = submit.main(["recipes/toy.toml", "--out", place, "--address", "http://127.0.0.1:1"])
    else:
        code = main([str(tiny_world), "--out", str(tmp_path / "run"), "--set", f"{key}={place}"])
    assert code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error")
    assert NO_PLACES[given] in said or key in NOT_URLS
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_folder_is_no_checkpoint_and_other_files_are_no_run(plain_world, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    assert train(plain_world, str(tmp_path / "new"), "--resume", str(tmp_path / "run")) == 2
    assert f"to go on with it, give --out {tmp_path}/run --resume" in capsys.readouterr().err
    assert train(plain_world, str(tmp_path / "new"), "--resume", str(tmp_path / "nowhere")) == 2
    assert "Give a folder such as checkpoints/step-000050" in capsys.readouterr().err
    assert train(plain_world, str(tmp_path), "--resume") == 2
    assert "holds no run to go on with, but other files (run)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
