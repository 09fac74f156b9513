"""What a run leaves behind: metrics, timings, environment and status files always; wandb and TensorBoard on request."""

from __future__ import annotations

import datetime
import json
import netrc
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from memnets.files import write_atomic
from memnets.training.settings import LoggerSettings

Row = dict[str, Any]


class RunLogger:
    """Writes rows to `metrics.jsonl` and `timings.jsonl`, and hands metrics to the services asked for.

    `metrics.jsonl` holds nothing that depends on the clock: a resumed run's file equals the straight run's, byte for
    byte. What does depend on it goes to `timings.jsonl`.
    """

    def __init__(self, folder: Path, settings: LoggerSettings, config: dict[str, Any]) -> None:
        self.folder = folder
        self._metrics = folder / "metrics.jsonl"
        self._metrics.touch()
        self._services = _services(folder, settings, config)

    @property
    def position(self) -> int:
        """Bytes of metrics written: a checkpoint keeps this."""
        return self._metrics.stat().st_size

    def rewind(self, position: int) -> None:
        """Drop the rows written after a checkpoint that is being resumed from."""
        os.truncate(self._metrics, min(position, self.position))

    def metrics(self, row: Row) -> None:
        """Append a row of metrics; numbers keep all their digits, NaN is null."""
        row = {key: None if value != value else value for key, value in row.items()}
        _append(self._metrics, row)
        for service in self._services:
            service.log(row)

    def timing(self, row: Row) -> None:
        """Append a row of timings."""
        _append(self.folder / "timings.jsonl", row)

    def close(self) -> None:
        """Finish what the services hold."""
        for service in self._services:
            service.close()


class Backend(Protocol):
    """A metrics service once it has started."""

    def log(self, row: Row) -> None:
        """Take in a row."""

    def close(self) -> None:
        """Finish."""


class Service:
    """A backend that can never stop a run: its first failure is one warning, then it is left out."""

    def __init__(self, name: str, start: Callable[[], Backend]) -> None:
        self.name = name
        self._backend: Backend | None = None
        with self._guard():
            self._backend = start()

    def log(self, row: Row) -> None:
        """Hand on a row."""
        with self._guard():
            if self._backend is not None:
                self._backend.log(row)

    def close(self) -> None:
        """Finish."""
        with self._guard():
            if self._backend is not None:
                self._backend.close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._backend = None
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"{self.name} failed and is left out of this run: {reason}", stacklevel=2)


def _services(folder: Path, settings: LoggerSettings, config: dict[str, Any]) -> list[Service]:
    services = []
    if settings.wandb:
        services.append(Service("wandb", lambda: WandbBackend(folder, settings.wandb_project, config)))
    if settings.tensorboard:
        services.append(Service("TensorBoard", lambda: TensorBoardBackend(folder)))
    return services


class WandbBackend:
    """Weights & Biases; offline where there is no key or no connection, to be uploaded later with `wandb sync`."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        def start(mode: Literal["online", "offline"] | None) -> Any:
            return wandb.init(
                project=project,
                name=folder.name,
                id=folder.name.rpartition("-")[2],
                resume="allow",
                dir=str(folder),
                config=config,
                mode=mode,
                settings=wandb.Settings(silent=True, init_timeout=30, reinit="create_new"),  # replicas: a run each
            )

        if os.environ.get("WANDB_MODE"):
            self._run = start(None)
        elif not has_wandb_key():
            self._run = start("offline")
        else:
            try:
                self._run = start("online")
            except Exception as error:
                warnings.warn(f"wandb can't be reached and logs offline: {error}", stacklevel=2)
                self._run = start("offline")

    def log(self, row: Row) -> None:
        """Log every number under its split."""
        numbers = {f"{row['split']}/{key}": value for key, value in row.items() if isinstance(value, int | float)}
        self._run.log(numbers, step=row["step"])

    def close(self) -> None:
        """Finish the wandb run."""
        self._run.finish()


def has_wandb_key() -> bool:
    """Whether the environment or the user's netrc holds a key for wandb's host."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        known = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        known = None
    return bool(os.environ.get("WANDB_API_KEY") or known)


class TensorBoardBackend:
    """Event files in the run folder's `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, row: Row) -> None:
        """Write every number under its split."""
        for key, value in row.items():
            if isinstance(value, int | float) and key not in ("step", "sequences"):
                self._writer.add_scalar(f"{row['split']}/{key}", value, row["step"])

    def close(self) -> None:
        """Flush the event file."""
        self._writer.close()


def _append(path: Path, row: Row) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def write_json(path: Path, content: Row) -> None:
    """Replace a JSON file, whole."""
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def environment(device: torch.device) -> Row:
    """Return what else a result depends on: versions, commit, machine, and the command that ran.

    The working tree is dirty if it differs from the commit elsewhere than in its results.
    """
    packages = ("memnets", "torch", "numpy", "hydra-core", "einops", "safetensors", "triton")
    return {
        "command": os.environ.get("MEMNETS_COMMAND") or command_line(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ":(top)", ":(top,exclude)results")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": _processor(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "num_threads": torch.get_num_threads(),
        "started": now(),
    }


def command_line() -> str:
    """Return the command that started this process, as one would type it."""
    return shlex.join(["python", *sys.argv])


def _git(*words: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the CPU's name and its vectors: CPUs of one name can differ in these, and so in speed."""
    info, name = Path("/proc/cpuinfo"), platform.processor() or platform.machine()
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else platform.machine()
    vectors = torch.backends.cpu.get_cpu_capability()
    return name if vectors == "DEFAULT" else f"{name}, {vectors}"
