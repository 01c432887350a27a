"""What is taken for a model, and what is not."""

from pathlib import Path

import pytest

from actors.models.path import PIPELINE_MARKER, VLM_MARKER, check_model


@pytest.mark.parametrize("marker", [VLM_MARKER, PIPELINE_MARKER])
def test_a_folder_with_the_marker_passes(tmp_path: Path, marker: str):
    (tmp_path / marker).write_text("{}")
    check_model(str(tmp_path), marker)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-VL-8B-Instruct", "black-forest-labs/FLUX.1-dev"])
def test_a_hub_name_passes(name: str):
    check_model(name, VLM_MARKER)


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "no/such/folder", "nothing", "./nothing", "../no-such-folder", "~/model", "", "a/b/"]
)
def test_a_path_to_nothing_is_an_error_that_names_it(path: str):
    with pytest.raises(ValueError, match=r"no folder.*config\.json.*Give the path") as error:
        check_model(path, VLM_MARKER)
    assert repr(path) in str(error.value)


def test_a_mistyped_local_path_is_not_taken_for_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models" / "judge").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no folder 'models/jugde'"):
        check_model("models/jugde", VLM_MARKER)


def test_a_folder_without_the_marker_and_a_file_are_errors(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no model_index\.json"):
        check_model(str(tmp_path), PIPELINE_MARKER)
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_model(str(tmp_path / "weights.bin"), VLM_MARKER)
