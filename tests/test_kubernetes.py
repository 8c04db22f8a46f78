"""The manifest for Kubernetes fits the schemas of Kubernetes, and its settings are aiorelay's."""

import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from aiorelay.settings import ConfigFile, read

pytestmark = pytest.mark.slow  # these packages are not in test-quick

MANIFEST = Path(__file__).parent.parent / "docs" / "kubernetes.yaml"
RESOURCES = {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}
POD = RESOURCES["Deployment"]["spec"]["template"]["spec"]
RELAY = POD["containers"][0]


@pytest.mark.parametrize("kind", RESOURCES)
def test_resource_fits_the_schema(kind):
    kubernetes_validate.validate(RESOURCES[kind], kubernetes_validate.latest_version(), strict=True)


def settings():
    """Return the settings of the container, as aiorelay reads them."""
    values = tomllib.loads(RESOURCES["ConfigMap"]["data"]["relay.toml"])
    variables = {
        each["name"]: RESOURCES["Secret"]["stringData"][each["valueFrom"]["secretKeyRef"]["key"]]
        for each in RELAY["env"]
        if each["name"].startswith("AIORELAY_") and "valueFrom" in each
    }
    return read({}, variables, ConfigFile("relay.toml", Path("/etc/aiorelay/config"), values))[0]


def test_settings_are_accepted():
    assert settings().only == "rest1"


def test_pod_has_time_to_complete_uploads():
    pause = float(RELAY["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pause + settings().grace


def test_volumes_are_those_that_are_mounted():
    mounted = {each["name"] for each in RELAY["volumeMounts"]}
    assert mounted == {each["name"] for each in POD["volumes"]}


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_labels_select_the_pods(kind):
    selector = RESOURCES[kind]["spec"]["selector"]
    labels = RESOURCES["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert selector.get("matchLabels", selector).items() <= labels.items()


def test_ingress_leads_to_the_relay():
    (rule,) = RESOURCES["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == RESOURCES["Service"]["metadata"]["name"]
    assert backend["port"]["name"] in {each["name"] for each in RESOURCES["Service"]["spec"]["ports"]}
    assert RESOURCES["Service"]["spec"]["ports"][0]["targetPort"] in {each["name"] for each in RELAY["ports"]}
