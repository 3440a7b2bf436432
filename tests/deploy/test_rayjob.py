"""The Kubernetes manifest is valid, and its commands and flags are those of this version."""

import importlib.metadata
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml

from jobs.match import Config
from pipeline.cluster.resources import Cluster, Nodes, choose_device
from pipeline.matching.stream import MATCH_CPUS
from pipeline.matching.workers import choose_workers

MANIFEST = Path(__file__).parents[2] / "deploy" / "rayjob.yaml"
VALIDATOR = jsonschema.Draft202012Validator(yaml.safe_load(Path(__file__).with_name("rayjob_schema.yaml").read_text()))


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load(MANIFEST.read_text())


def _config(manifest: Any) -> Config:
    python, option, module, *flags = shlex.split(manifest["spec"]["entrypoint"])
    assert (python, option, module) == ("python", "-m", "jobs.match")
    return tyro.cli(Config, args=flags)


def test_it_is_what_kuberay_defines(manifest: Any) -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(manifest)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["spec", "shutdownAfterJobFinished"], True),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "basic"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"], "4"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers"], []),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limit"], {}),
    ],
)
def test_the_schema_refuses(manifest: Any, place: list[Any], value: object) -> None:
    inside = manifest
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value

    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(manifest)


def test_its_command_is_one_of_ours_and_keeps_everything_in_the_bucket(manifest: Any) -> None:
    config = _config(manifest)
    config.check()

    assert config.pairs.startswith("s3://")
    assert config.out.startswith("s3://")


def test_its_cluster_has_a_place_for_every_process_it_asks_for(manifest: Any) -> None:
    config = _config(manifest)
    groups = []
    for group in manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        has = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        groups.append(Nodes(has=has, count=group["maxReplicas"]))
    cluster = Cluster(now=[], later=groups)

    assert choose_device("auto", cluster) == config.device
    least, most = choose_workers(config.workers, config.device, config.gpus_per_worker, cluster)
    room = sum(group.room_for({"CPU": MATCH_CPUS, "GPU": config.gpus_per_worker}) for group in groups)
    assert least <= most == room


def test_it_names_the_ray_that_the_package_wants(manifest: Any) -> None:
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")


def test_no_pod_runs_as_root_and_all_get_the_same_secret(manifest: Any) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]

    for pod in pods:
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["envFrom"] == [{"secretRef": {"name": "nemf-s3"}}]
        assert "env" not in container
