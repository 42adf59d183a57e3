"""kubernetes/vllama.yaml against Kubernetes' own schemas, and against what vllama promises.

Run with the Python of tests/clients, which has the packages: python -m unittest discover -s tests/kubernetes
"""

import copy
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = "1.30", "1.37"  # versions of Kubernetes


def manifest():
    """The documents of the file, by their kinds."""
    documents = yaml.safe_load_all((ROOT / "kubernetes/vllama.yaml").read_text())
    return {document["kind"]: document for document in documents}


class Manifest(unittest.TestCase):
    def test_kubernetes_knows_every_field(self):
        documents = manifest()
        self.assertEqual(set(documents), {"Service", "StatefulSet"})
        for document in documents.values():
            for version in [OLDEST, NEWEST]:
                with self.subTest(kind=document["kind"], version=version):
                    kubernetes_validate.validate(document, version, strict=True)

    def test_the_schemas_would_complain(self):
        broken = copy.deepcopy(manifest()["StatefulSet"])
        broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 90
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, NEWEST, strict=True)

    def test_service_and_pod_find_each_other(self):
        documents = manifest()
        service, pods = documents["Service"]["spec"], documents["StatefulSet"]["spec"]
        labels = pods["template"]["metadata"]["labels"]
        self.assertEqual((service["selector"], pods["selector"]["matchLabels"]), (labels, labels))
        self.assertEqual(pods["serviceName"], documents["Service"]["metadata"]["name"])
        (container,) = pods["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        self.assertLessEqual({service["ports"][0]["targetPort"]}, ports)
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
            self.assertIn(container[probe]["httpGet"]["port"], ports)
        volumes = {volume["name"] for volume in pods["template"]["spec"]["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in pods["volumeClaimTemplates"]}
        self.assertEqual({mount["name"] for mount in container["volumeMounts"]}, volumes)

    def test_only_a_vllama_that_is_dead_is_ended_and_a_drain_has_its_time(self):
        pod = manifest()["StatefulSet"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        asked = {probe: container[probe]["httpGet"]["path"] for probe in ["startupProbe", "livenessProbe", "readinessProbe"]}
        live, ready = "/health/live", "/health/ready"
        self.assertEqual(asked, {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready})
        (drain,) = [int(entry["value"].removesuffix("s")) for entry in container["env"] if entry["name"] == "VLLAMA_DRAIN"]
        engines = 15  # seconds: --stop-timeout
        self.assertGreater(pod["terminationGracePeriodSeconds"], drain + engines)


if __name__ == "__main__":
    unittest.main()
