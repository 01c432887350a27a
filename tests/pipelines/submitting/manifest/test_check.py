"""A RayJob checked without a cluster: the shipped one passes, and each mistake made in it is told, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import doctor
from pipelines.recipe.errors import UserError
from pipelines.submitting.manifest.check import check_manifest, warnings_of_job

ROOT = Path(__file__).resolve().parents[4]
JOB = ROOT / "ray_job.yaml"
RECIPE = ROOT / "recipes" / "sd35m_8gpu.toml"
MANIFEST = yaml.safe_load(JOB.read_text())
CLUSTER = ("spec", "rayClusterSpec")
WORKERS = (*CLUSTER, "workerGroupSpecs")
REWARD = (*WORKERS, 2)
HEAD_POD = (*CLUSTER, "headGroupSpec", "template", "spec")

Change = Callable[[dict[str, Any]], None]


def put(*path: Any, value: Any) -> Change:
    """A change of a manifest: the value at this path."""

    def change(manifest: dict[str, Any]) -> None:
        table: Any = manifest
        for part in path[:-1]:
            table = table[part]
        table[path[-1]] = value

    return change


def take(*path: Any, to: str | None = None) -> Change:
    """A change of a manifest: what stands at this path is gone, or has another name."""

    def change(manifest: dict[str, Any]) -> None:
        table: Any = manifest
        for part in path[:-1]:
            table = table[part]
        value = table.pop(path[-1])
        if to:
            table[to] = value

    return change


def both(*changes: Change) -> Change:
    """Several changes of a manifest."""

    def change(manifest: dict[str, Any]) -> None:
        for one in changes:
            one(manifest)

    return change


def command(old: str, new: str) -> Change:
    """A change of the job's command."""

    def change(manifest: dict[str, Any]) -> None:
        assert old in manifest["spec"]["entrypoint"]
        manifest["spec"]["entrypoint"] = manifest["spec"]["entrypoint"].replace(old, new)

    return change


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[Change], Path]:
    """Writes the shipped manifest with a change."""

    def write(change: Change) -> Path:
        manifest = json.loads(json.dumps(MANIFEST))  # a copy in which the anchors' parts are apart
        change(manifest)
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(manifest))
        return path

    return write


def test_the_shipped_job_passes_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([str(JOB), str(RECIPE)]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in out
    assert not err
    assert "fits" in out


PROBLEMS: dict[str, tuple[Change, str]] = {
    "a typo in a key": (
        take(*REWARD, "minReplicas", to="minReplica"),
        "spec.rayClusterSpec.workerGroupSpecs[2].minReplica: no such key; did you mean minReplicas?",
    ),
    "a typo on the way to many others": (take(*CLUSTER, to="rayClusterSpek"), "did you mean rayClusterSpec?"),
    "a wrong type": (
        put(*REWARD, "maxReplicas", value="4"),
        'maxReplicas = "4": it must be of the type integer; write 4',
    ),
    "a number where a string is due": (
        put(*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus", value=0),
        'num-cpus = 0: it must be of the type string; write "0"',
    ),
    "an unknown value": (put(*CLUSTER, "autoscalerOptions", "version", value="v3"), "allowed are v1, v2"),
    "ttl without shutdown": (
        put("spec", "shutdownAfterJobFinishes", value=False),
        "spec.ttlSecondsAfterFinished = 600 needs spec.shutdownAfterJobFinishes: true",
    ),
    "min above max": (put(*REWARD, "minReplicas", value=5), "reward: minReplicas = 5 is above maxReplicas = 3"),
    "replicas outside": (put(*REWARD, "replicas", value=0), "reward: replicas = 0 lies outside of minReplicas = 1"),
    "no quantity": (
        put(*HEAD_POD, "containers", 0, "resources", "limits", "memory", value="16GB"),
        'limits.memory = "16GB": it must be a quantity, such as 500m, 4 or 16Gi; write "16G"',
    ),
    "no cluster": (take(*CLUSTER), "spec.rayClusterSpec: missing"),
    "another version of Ray": (
        put(*CLUSTER, "rayVersion", value="2.9.0"),
        "rayVersion = 2.9.0, but EchoRay runs on Ray",
    ),
    "an image of another version": (
        put(*HEAD_POD, "containers", 0, "image", value="registry.example/echoray:0.1.0-ray2.9.0"),
        "head: image 'registry.example/echoray:0.1.0-ray2.9.0' has Ray 2.9.0, but EchoRay runs on Ray",
    ),
    "an image without a version": (
        put(*HEAD_POD, "containers", 0, "image", value="registry.example:5000/echoray"),
        "its tag does not name the version of Ray",
    ),
    "a label that no group has": (
        put(*REWARD, "labels", value={"pool": "judge"}),
        "label: no node has pool=reward, which the pool reward asks for",
    ),
    "too few GPUs": (
        both(*(put(*WORKERS, 1, key, value=2) for key in ("replicas", "minReplicas", "maxReplicas"))),
        "but not on the right nodes: rollout 3 x (CPU 1, GPU 1) with pool=rollout",
    ),
    "fewer GPUs than are asked for in all": (
        both(
            put(*WORKERS, 1, "maxReplicas", value=1),
            put(*REWARD, "maxReplicas", value=2),
            *(put(*WORKERS, 1, key, value=1) for key in ("replicas", "minReplicas")),
        ),
        "GPU: asked 8 (rollout 3 x 1, reward 1 x 1, policy 4 x 1), the cluster has 7",
    ),
    "GPUs of which no node has enough": (
        both(
            put(*WORKERS, 1, "maxReplicas", value=6),
            *(
                put(*WORKERS, 0, "template", "spec", "containers", 0, "resources", kind, "nvidia.com/gpu", value=0)
                for kind in ("limits", "requests")
            ),
        ),
        "a worker of the pool policy does not fit on any node with pool=policy: it asks for CPU 1, GPU 1",
    ),
    "a start that does not wait for nodes": (
        both(
            *(put(*WORKERS, 1, key, value=2) for key in ("replicas", "minReplicas")),
            command("--set cluster.node_timeout_s=1800", ""),
        ),
        "before the autoscaler has added nodes",
    ),
    "a bad command": (command("pipelines.train", "pipelines.tran"), "it must begin with 'python -m pipelines.train'"),
    "no command": (take("spec", "entrypoint"), "spec.entrypoint: missing"),
    "an unknown option": (command("--resume", "--resum3"), "unrecognized arguments: --resum3"),
    "a quote that is not closed": (command("--resume", "--resume '"), "cannot be read as a command"),
    "a recipe that is not there": (command("sd35m_8gpu", "sd35m_9gpu"), "no recipe at"),
    "a recipe outside of the image": (command("recipes/", "/mine/"), "the image has no /mine/sd35m_8gpu.toml"),
    "another recipe": (
        command("recipes/sd35m_8gpu.toml", "recipes/sd35m_qwen25vl7b_1gpu.toml"),
        "spec.entrypoint runs recipes/sd35m_qwen25vl7b_1gpu.toml, not",
    ),
    "an override of an unknown key": (command("reward.labels", "reward.label"), "did you mean labels?"),
    "a run folder in a pod": (
        command("--out s3://your-bucket/", "--out /tmp/"),
        "--out /tmp/runs/sd35m-8gpu: a pod's disk",
    ),
    "checkpoints in a pod": (command("--resume", "--resume --set loop.checkpoints=/tmp"), "loop.checkpoints = '/tmp'"),
    "prompts that stay here": (
        command("data.train=s3://your-bucket/prompts", "data.train=data"),
        "data.train = 'data/train.parquet': the image",
    ),
    "retries without --resume": (command("--resume", ""), "without --resume a retry"),
    "resources in both places": (
        both(put(*REWARD, "rayStartParams", "num-gpus", value="1"), put(*REWARD, "resources", value={"GPU": "1"})),
        "resources stand in rayStartParams (num-gpus) and in the group's resources",
    ),
    "labels in the wrong place": (
        put(*REWARD, "rayStartParams", "labels", value="a=b"),
        "write them as the group's labels",
    ),
    "a wrong submission mode": (
        put("spec", "submissionMode", value="K8SJobMode"),
        "spec.submissionMode = K8SJobMode: allowed are K8sJobMode, HTTPMode, InteractiveMode, SidecarMode",
    ),
    "a submitter that nobody starts": (
        lambda manifest: manifest["spec"].update(submissionMode="HTTPMode", submitterConfig={"backoffLimit": 1}),
        "spec.submitterConfig: no pod submits the job",
    ),
    "restarts with autoscaler v2": (
        put(*HEAD_POD, "restartPolicy", value="Always"),
        "head: restartPolicy = Always: with autoscaler v2 it must be Never",
    ),
    "a long name": (put("metadata", "name", value="a" * 48), "metadata.name has 48 characters: at most 47"),
    "a wrong name": (put("metadata", "name", value="SD35"), "metadata.name = SD35: give lower-case letters"),
    "two groups of one name": (
        put(*REWARD, "groupName", value="rollout"),
        "rollout: 2 groups of workers have this groupName",
    ),
    "a secret in plain text": (
        put(*HEAD_POD, "containers", 0, "env", value=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]),
        "env AWS_SECRET_ACCESS_KEY is written in plain text",
    ),
    "a secret in the environment of the job": (
        put("spec", "runtimeEnvYAML", value="env_vars:\n  HF_TOKEN: x\n"),
        "spec.runtimeEnvYAML holds a secret",
    ),
    "a number that Ray cannot read": (
        put(*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus", value="none"),
        "head: its resources cannot be read: could not convert string to float: 'none'",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_mistake_is_told_and_nothing_else(name: str, broken: Callable[[Change], Path]) -> None:
    change, told = PROBLEMS[name]
    found = check_manifest(broken(change), RECIPE)
    assert len(found.problems) == 1, found.problems
    assert told in found.problems[0]
    assert not found.warnings


WARNINGS: dict[str, tuple[Change, str]] = {
    "no shared memory": (
        put(*HEAD_POD, "containers", 0, "volumeMounts", value=[]),
        "head: no volume in memory at /dev/shm",
    ),
    "less shared memory than the object store": (
        put(*HEAD_POD, "volumes", 0, "emptyDir", "sizeLimit", value="1Gi"),
        "head: /dev/shm holds 1.0 GiB, less than the object store's 2.0 GiB",
    ),
    "shared memory that leaves nothing": (
        put(*HEAD_POD, "volumes", 0, "emptyDir", "sizeLimit", value="16Gi"),
        "head: /dev/shm may take all of the container's memory",
    ),
    "memory without a limit": (
        take(*HEAD_POD, "containers", 0, "resources", "limits", "memory"),
        "head: its container has no limit of memory",
    ),
    "a head with a GPU": (put(*CLUSTER, "headGroupSpec", "rayStartParams", "num-gpus", value="1"), "head: it has GPUs"),
    "a pool that cannot reach its max": (
        put(*REWARD, "maxReplicas", value=2),
        "reward.max = 3: the cluster cannot have room",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_would_run_but_not_well_is_a_warning(name: str, broken: Callable[[Change], Path]) -> None:
    change, told = WARNINGS[name]
    found = check_manifest(broken(change), RECIPE)
    assert not found.problems
    assert len(found.warnings) == 1, found.warnings
    assert told in found.warnings[0]


def test_object_stores_that_are_too_small_for_the_images_in_flight_are_a_warning() -> None:
    found = check_manifest(JOB)
    assert found.recipe
    assert warnings_of_job(found, found.recipe, bytes_in_flight=int(0.6 * found.store_bytes)) == []
    [told] = warnings_of_job(found, found.recipe, bytes_in_flight=int(0.7 * found.store_bytes))
    assert "the object stores hold 42.0 GiB in all" in told


def test_all_mistakes_are_told_at_once(broken: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]) -> None:
    names = [
        "a typo in a key",
        "a wrong type",
        "ttl without shutdown",
        "another version of Ray",
        "a label that no group has",
    ]
    path = broken(both(*(PROBLEMS[name][0] for name in names)))
    assert doctor.main([str(RECIPE), str(path)]) == 2  # in either order
    err = capsys.readouterr().err
    assert [PROBLEMS[name][1] in err for name in names] == [True] * len(names)


def test_the_recipe_is_that_of_the_command_with_its_overrides(
    broken: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([str(broken(command("--resume", "--resume --set policy.micro_batch=48")))]) == 1
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is not YAML"),
        ("kind: RayCluster", "holds RayCluster: it must hold one object with kind: RayJob"),
        ("", "holds nothing"),
        ("kind: RayJob\napiVersion: ray.io/v1alpha1", "only ray.io/v1 is known"),
    ],
)
def test_a_file_without_a_job_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(text)
    with pytest.raises(UserError, match=re.escape(told)):
        check_manifest(tmp_path / "job.yml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest at"):
        check_manifest(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    "arguments",
    [[str(JOB), str(JOB)], [str(RECIPE), str(RECIPE)], [str(JOB), "--set", "rollout.size=2"]],
    ids=["two jobs", "two recipes", "overrides in two places"],
)
def test_a_command_line_that_says_two_things_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main(arguments)
    assert ended.value.code == 2


def test_other_objects_may_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: Secret\n---\n" + JOB.read_text())
    assert check_manifest(tmp_path / "job.yaml", RECIPE).problems == []
