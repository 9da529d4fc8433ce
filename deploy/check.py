"""Does what deploy/ says, without containers and without systemd: python3 deploy/check.py HEFU

Runs the program HEFU as compose.yaml would: its certificates are made, its nodes started with their files,
variables and volumes, its health checks asked. Then a county takes in a list and the command of
hefu-sync.service brings it to the city. Paths lead into a temporary folder, ports are free ones of loopback.
Needs PyYAML.
"""

import csv
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time

import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent
HEFU = pathlib.Path(sys.argv[1]).resolve()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
NODES = [name for name in SERVICES if name != "pki"]
# What the image sets and runs.
IMAGE = (DEPLOY / "Dockerfile").read_text()
IMAGE_ENV = dict(re.findall(r"^ENV (\w+)=(\S+)$", IMAGE, re.M))
COMMAND = json.loads(re.search(r"^CMD (\[.*\])$", IMAGE, re.M)[1])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Container:
    """The part of a container that a process can have: its files below a folder, its variables."""

    def __init__(self, root, name, ports):
        self.name, self.ports, self.spec = name, ports, SERVICES[name]
        self.root = root / name
        for volume in self.spec["volumes"]:
            source, target = volume.split(":")[:2]
            target = self.root / target.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.startswith("."):
                text = (DEPLOY / source).resolve(strict=True).read_text()
                target.write_text(self.here(text) if target.suffix == ".toml" else text)
            else:
                assert source in COMPOSE["volumes"], f"{name}: no volume {source}"
                (root / "volumes" / source).mkdir(parents=True, exist_ok=True)
                target.symlink_to(root / "volumes" / source)

    def here(self, text):
        """Leads a container's paths into its folder, and its names and ports to loopback."""
        text = re.sub(r"/(etc|var/lib)/hefu", lambda found: f"{self.root}{found[0]}", text)
        for node, port in self.ports.items():
            text = text.replace(f"https://{node}:7443", f"https://localhost:{port}")
        return text.replace("0.0.0.0:7443", f"127.0.0.1:{self.ports.get(self.name)}")

    def run(self, command, start=subprocess.run, **options):
        env = {"PATH": f"{HEFU.parent}:/usr/bin:/bin", "HEFU_SERVER": f"https://localhost:{self.ports.get(self.name)}"}
        env |= IMAGE_ENV | self.spec.get("environment", {})
        # Whether this machine has gigabytes to spare is not what is checked.
        env["HEFU_STORAGE_WATERMARK_MIB"] = "16"
        env = {name: self.here(value) for name, value in env.items()}
        return start([self.here(word) for word in command], env=env, text=True, **options)

    def asked(self, *command):
        ran = self.run([HEFU.name, *command], stdout=subprocess.PIPE)
        assert ran.returncode == 0, (self.name, command, ran.returncode)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def healthy(self, limit=60):
        test = self.spec["healthcheck"]["test"]
        assert test[0] == "CMD" and json.dumps(test[1:]) in IMAGE, "another check than the image's"
        end = time.monotonic() + limit
        while (ran := self.run(test[1:], capture_output=True)).returncode:
            assert time.monotonic() < end, (self.name, ran.stdout, ran.stderr)
            time.sleep(0.1)


def who(identity):
    return ["--cert", f"/etc/hefu/pki/{identity}.pem", "--key", f"/etc/hefu/pki/{identity}.key"]


def no_power():
    """Nothing runs with more than it needs, and nothing listens beyond this machine."""
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] and not service.get("privileged"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert re.search(r"^USER [1-9]\d*$", IMAGE, re.M), "the image runs as root"


def run_everything(root):
    ports = {name: free_port() for name in NODES}
    pki = Container(root, "pki", ports)
    made = []
    for _ in range(2):
        # Compose reads $$ as $.
        words = [word.replace("$$", "$") for word in pki.spec["entrypoint"] + pki.spec["command"]]
        pki.run(words, check=True, stdout=subprocess.DEVNULL)
        made.append({path.name: path.stat().st_ino for path in (root / "volumes/pki").iterdir()})
    assert made[0] == made[1], "a second start made certificates anew"

    containers = [Container(root, name, ports) for name in NODES]
    running = [each.run([HEFU.name, *COMMAND], start=subprocess.Popen) for each in containers]
    try:
        for each in containers:
            each.healthy()
        carry(root, *(next(each for each in containers if each.name == name) for name in ("nantong", "qidong")))
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(60) for process in running]
    assert codes == [0] * len(codes), f"exit codes when stopped: {codes}"


def carry(root, city, county):
    """A list goes in at the county, and up by the nightly job's command."""
    agency = "qidong-emergency"
    with open(DEPLOY.parent / "seeds/risks.csv", encoding="utf-8-sig") as seeds:
        rows = [row for row in csv.DictReader(seeds) if row["name"].startswith(f"agencies/{agency}/")][:3]
    with open(root / "risks.csv", "w") as file:
        (writer := csv.DictWriter(file, rows[0])).writeheader()
        writer.writerows(rows)
    county.run([HEFU.name, "submit", "risks", str(root / "risks.csv"), *who(f"agency-{agency}")], check=True)
    unit = (DEPLOY / "systemd/hefu-sync.service").read_text()
    nightly = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.M)[1])
    county.run([HEFU.name, *nightly[1:]], check=True)
    listed = city.asked("list", "risks", "-o", "json", *who("admin-operator"))
    names = sorted(row["risk"]["name"] for row in listed)
    assert names == sorted(row["name"] for row in rows), names


no_power()
with tempfile.TemporaryDirectory() as folder:
    run_everything(pathlib.Path(folder))
print(f"deploy: {len(NODES)} nodes up as compose.yaml says, a list carried by the nightly job, clean stops")
