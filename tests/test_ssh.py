"""Through a real OpenSSH server on a loopback port: the connection is cut, the run is not."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.terminal import Terminal

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="no OpenSSH server and client here"
)


class Server:
    """An sshd of our own: its keys, its configuration and its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("host", "client"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)],
                check=True,
            )
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = folder / "sshd_config"
        config.write_text(
            f"""
ListenAddress 127.0.0.1
Port {self.port}
HostKey {folder / "host"}
AuthorizedKeysFile {folder / "authorized_keys"}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserEnvironment no
"""
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        assert SSHD is not None
        self.log = (folder / "sshd.log").open("w+")
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=self.log)
        end = time.monotonic() + 120
        while not self._listens():
            if time.monotonic() > end or self.process.poll() is not None:
                self.log.seek(0)
                pytest.skip(f"sshd does not start here: {self.log.read().strip()[-200:]}")
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def login(self, command: str) -> Terminal:
        """A terminal on the other side, running a command."""
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "IdentitiesOnly": "yes",
        }
        ssh = ["ssh", "-tt", "-F", "none", "-p", str(self.port), "-i", str(self.folder / "client")]
        for key, value in options.items():
            ssh += ["-o", f"{key}={value}"]
        return Terminal([*ssh, f"{getpass.getuser()}@127.0.0.1", command])

    def close(self) -> None:
        """End the server and all its connections."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.name().startswith("sshd"):
                child.kill()
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    running = Server(folder)
    yield running
    running.close()


def log_of(runs: Path) -> list[dict[str, object]]:
    """The events of the only run so far."""
    logs = list(runs.glob("*/events.jsonl"))
    lines = logs[0].read_text().splitlines(keepends=True) if logs else []
    return [json.loads(line)["event"] for line in lines if line.endswith("\n")]


def kinds(runs: Path) -> list[object]:
    return [event["kind"] for event in log_of(runs)]


def apps(runs: Path) -> list[psutil.Process]:
    """Processes of the app on the server's side: their command names the runs' folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "tui" in line and str(runs) in line and line[0] == sys.executable:
            found.append(process)
    return found


def test_a_run_outlives_its_connection_and_obeys_the_next_one(
    server: Server, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    app = [sys.executable, "-m", "tui", "--runs-dir", str(runs), "--data", "synthetic"]
    # no shell between sshd and the program that could outlive it
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    words = [f"{key}={value}" for key, value in environment.items()]
    command = shlex.join(["exec", "env", *words, *app, "--device", "cpu"])

    first = server.login(command)
    try:
        first.wait("first paint", lambda: "synthetic" in first.text(), 120)
        first.press("n")
        first.wait("form", lambda: "ctrl+s starts" in first.text(), 120)
        for key in ("\t", "\t", "\t", "\t", "50"):  # preset, model, norm, data, epochs
            first.press(key)
            first.settle()
        first.wait("50 epochs", lambda: "50 epochs" in first.text(), 120)
        first.press("\r")
        first.wait("start of training", lambda: "Progress" in kinds(runs), 120)
        assert len(apps(runs)) == 1
        trainer = psutil.Process(
            int(str(next(e for e in log_of(runs) if e["kind"] == "RunStarted")["pid"]))
        )
    finally:
        first.kill()  # the laptop is closed

    try:
        end = time.monotonic() + 120
        while apps(runs) and time.monotonic() < end:
            time.sleep(0.05)
        assert not apps(runs), "the app goes on, though its terminal is gone"
        before = len(log_of(runs))
        end = time.monotonic() + 120
        while len(log_of(runs)) < before + 3 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(log_of(runs)) >= before + 3, "training has ended with the connection"
        assert trainer.is_running()

        second = server.login(command)
        try:
            seconds = second.wait("the run, live", lambda: "training" in second.text(), 120)
            print(f"reattached in {seconds:.2f} s, ssh included")
            second.press("2")
            second.wait("the dashboard", lambda: "test loss" in second.text(), 120)
            second.press("x")
            second.wait("the question", lambda: "Stop this run" in second.text(), 120)
            second.press("x")
            second.wait("the run's end", lambda: "RunEnded" in kinds(runs), 120)
            second.wait("its state on the screen", lambda: "stopped" in second.text(), 120)
            second.press("q")
            second.wait("the program's end", lambda: second.status() is not None, 120)
            assert second.status() == 0
        finally:
            second.kill()
        assert log_of(runs)[-1]["state"] == "stopped"
        assert (next(runs.glob("*/events.jsonl")).parent / "checkpoints" / "last.pt").is_file()
        trainer.wait(30)  # its app is gone and its runs have ended
    finally:
        if trainer.is_running():
            trainer.kill()
