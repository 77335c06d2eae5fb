"""Holds deploy/ against the binary: every metric that a query names is one that it has, every configuration is one that it
takes, every image is this version's, and Debian's Prometheus, where it is installed, scrapes it and evaluates every rule."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import promql_parser
import yaml

BINARY = os.environ["POLLGATE_BIN"]
DEPLOY = Path("deploy")
PATIENCE = 30
VERSION = tomllib.loads(Path("Cargo.toml").read_text())["package"]["version"]
IMAGE = f"pollgate:{VERSION}"
# What Prometheus itself has.
BUILT_IN = {"up", "ALERTS"}


def fetch(url, headers=None):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5) as answer:
        return answer.read().decode()


def eventually(what, look):
    """What `look` returns once that is something; errors on the way there are waited out."""
    until, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < until:
        try:
            if found := look():
                return found
        except (OSError, ValueError) as error:
            last = error
        time.sleep(0.05)
    sys.exit(f"deploy: never came: {what} ({last})")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(processes, log, *arguments):
    with open(log, "w", encoding="utf-8") as out:
        processes.append(subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT))


def address_in(log, phrase):
    return lambda: (found := re.search(phrase + r" (127\.0\.0\.1:\d+)", log.read_text())) and found[1]


def metric_names(expression):
    """The metrics that a query asks for."""
    tree = promql_parser.parse(expression)
    name = r"(?<![\w\"~=:])(?:pollgate[\w:]*|process_\w+|up|ALERTS)(?=\s*[{\[)]|\s|$)"
    names = set(re.findall(name, str(tree.prettify())))
    return names


def families(exposition):
    """The names of all samples that there can be of what is exposed."""
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.MULTILINE):
        names |= {name + suffix for suffix in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names


def queries():
    """Where a query stands, and the query."""
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert") or rule["record"]
            yield name, rule["expr"]
            if "alert" not in rule:
                continue
            if not (rule["annotations"].get("summary") and rule["annotations"].get("runbook")):
                sys.exit(f"deploy: {name} has no runbook")
            for quoted in re.findall(r'printf "([^"]*)"', rule["annotations"].get("description", "")):
                yield f"description of {name}", quoted.replace("%s", "any")
    dashboard = json.loads((DEPLOY / "grafana/pollgate.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    if len({panel["id"] for panel in dashboard["panels"]}) != len(dashboard["panels"]):
        sys.exit("deploy: two panels of one id")
    for panel in panels:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            yield f"panel {panel['title']!r}", expression


def recorded():
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    return {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}


def check_queries(exposed):
    known, used = exposed | recorded() | BUILT_IN, set()
    for place, expression in queries():
        try:
            names = metric_names(expression)
        except ValueError as error:
            sys.exit(f"deploy: {place}: {error}")
        if unknown := names - known:
            sys.exit(f"deploy: {place}: no such metric: {', '.join(sorted(unknown))}")
        used |= names
    print(f"deploy: {len(used)} metrics named in rules and panels, all of them there")


def selector(expression):
    """How a query picks the requests that it counts as errors."""
    return re.search(r"pollgate_requests_total\{(code=[^,}]*)", expression)[1]


def check_client_errors():
    """The panel counts what clients see as errors as the alert does."""
    told = dict(queries())
    alert = selector(told["pollgate:client_errors:ratio_rate5m"])
    panel = selector(told["panel 'Errors that clients see'"])
    if alert != panel:
        sys.exit(f"deploy: the alert counts {alert}, the panel {panel}")


def documents(rendered, kind):
    return [document for document in rendered if document["kind"] == kind]


def containers(rendered):
    for deployment in documents(rendered, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        yield from (one for one in pod.get("initContainers", []) + pod["containers"] if one["name"] == "pollgate")


def check_kubernetes(scratch, manifests):
    """The binary takes the file and the environment that each pod gets; every pod runs this version's image."""
    for manifest in manifests:
        rendered = list(yaml.safe_load_all(manifest.read_text()))
        data = {}
        for config in documents(rendered, "ConfigMap"):
            data |= config["data"]
        file = scratch / "pollgate.toml"
        file.write_text(data["pollgate.toml"])
        environment = {name: value for name, value in data.items() if name.startswith("POLLGATE_")}
        environment["POLLGATE_CONFIG"] = str(file)
        # What a pod reads from a Secret.
        secret = scratch / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef\n")
        variables = [variable["name"] for one in containers(rendered) for variable in one.get("env", [])]
        environment |= {name: str(secret) for name in variables if name.endswith("_FILE")}
        answer = subprocess.run([BINARY, "check"], env=environment, check=True, stdout=subprocess.PIPE, text=True)
        in_force = tomllib.loads(answer.stdout)
        image = [one["image"] for one in containers(rendered)]
        if image != [IMAGE]:
            sys.exit(f"deploy: {manifest.name}: {image} in place of {IMAGE}")
        # Beyond loopback only together with a policy.
        beyond = not in_force["listen"]["admin"].startswith("127.")
        if beyond != bool(documents(rendered, "NetworkPolicy")):
            sys.exit(f"deploy: {manifest.name}: listen.admin is {in_force['listen']['admin']}, and the policy does not fit")
    text, example = Path(DEPLOY / "kubernetes/sidecar/settings/pollgate.toml"), Path("config/sidecar.toml")
    said = {section: keys for section, keys in tomllib.loads(example.read_text()).items() if keys}
    if tomllib.loads(text.read_text()) != said:
        sys.exit(f"deploy: {text} and {example} differ")
    print(f"deploy: the configurations of {len(manifests)} Kubernetes manifests load")


def check_images():
    """One name, with this version, wherever the image is named."""
    for file, service in (("compose", "pollgate"), ("fleet", "sidecar1")):
        compose = yaml.safe_load((DEPLOY / file / "compose.yaml").read_text())
        if compose["services"][service]["image"] != IMAGE:
            sys.exit(f"deploy: {file}/compose.yaml names another image")
    label = f'org.opencontainers.image.version="{VERSION}"'
    if label not in (DEPLOY / "Dockerfile").read_text():
        sys.exit(f"deploy: Dockerfile has no {label}")
    for file in ("Dockerfile", "README.md"):
        named = set(re.findall(r"(?<![\w/])pollgate:\d[\w.]*", (DEPLOY / file).read_text()))
        if named != {IMAGE}:
            sys.exit(f"deploy: {file} names {', '.join(sorted(named))} in place of {IMAGE}")


def check_image_sources():
    """The image's build has every file that the source includes: .dockerignore lets it through."""
    let_through = [Path(line[1:]) for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in [Path("build.rs"), *Path("src").rglob("*.rs")]:
        for name in re.findall(r'include(?:_str|_bytes)?!\("([^"]+)"\)', source.read_text()):
            included = (source.parent / name).resolve().relative_to(Path.cwd())
            if not any(included.is_relative_to(path) for path in let_through):
                sys.exit(f"deploy: {source} includes {included}, which .dockerignore keeps from the image's build")
    print("deploy: the image is built from every file that the source includes")


def check_prometheus(scratch, processes, admin):
    """A Prometheus of one's own, with the compose file's configuration, at a quicker pace."""
    if not shutil.which("prometheus"):
        print("deploy: SKIPPED, for want of prometheus: scraping the binary")
        return
    config = (DEPLOY / "compose/prometheus.yaml").read_text()
    config = config.replace("pollgate:9090", admin).replace("15s", "1s")
    (scratch / "prometheus.yaml").write_text(config)
    shutil.copy(DEPLOY / "prometheus/rules.yaml", scratch)
    port = free_port()
    start(
        processes, scratch / "prometheus.log", "prometheus", f"--config.file={scratch / 'prometheus.yaml'}",
        f"--storage.tsdb.path={scratch / 'data'}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    )  # fmt: skip

    def ask(path):
        return json.loads(fetch(f"http://127.0.0.1:{port}/api/v1/{path}"))["data"]

    def rules():
        every = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        return every if every and all(rule["health"] != "unknown" for rule in every) else None

    eventually("a scrape", lambda: ask("query?query=up==1")["result"])
    broken = [rule for rule in eventually("an evaluation", rules) if rule["health"] != "ok"]
    if broken:
        sys.exit(f"deploy: rules that do not evaluate: {broken}")
    eventually("a metric", lambda: ask("query?query=pollgate_build_info")["result"])
    print("deploy: Prometheus scrapes the binary and evaluates every rule")


def main():
    processes = []
    check_images()
    check_image_sources()
    check_client_errors()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        try:
            check_kubernetes(scratch, [Path(name) for name in sys.argv[1:]])
            log = scratch / "simulator.log"
            start(processes, log, BINARY, "simulate", "--listen", "127.0.0.1:0")
            upstream = eventually("the simulator", address_in(log, "on"))
            log = scratch / "gateway.log"
            # A member of a fleet, whose metrics are asked for too; nobody need be there.
            (scratch / "fleet.key").write_text("0123456789abcdef" * 2)
            config = scratch / "pollgate.toml"
            config.write_text('[fleet]\nengine = "redis://127.0.0.1:9"\n' f'secret_file = "{scratch}/fleet.key"\n')
            start(
                processes, log, BINARY, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                "--upstream", f"http://{upstream}", "--config", str(config),
            )  # fmt: skip
            admin = eventually("the admin port", address_in(log, "admin listening on"))
            gateway = eventually("the port", address_in(log, "pollgate listening on"))
            # A family is there once there is something to tell: one poll, one forwarded request.
            for path in ("/v1/videos/task_none", "/v1/models"):
                try:
                    fetch(f"http://{gateway}{path}", {"authorization": "Bearer sk-any"})
                except urllib.error.HTTPError:
                    pass
            check_queries(families(fetch(f"http://{admin}/metrics")))
            check_prometheus(scratch, processes, admin)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(10)


main()
