"""What TensorRT measured in earlier builds, kept in a folder that several builds may use at once.

A file holds what one version measured on one kind of GPU, since TensorRT takes no other. A build adds to what is there
when it ends, under a lock, and puts the new file in place of the old one as a whole.
"""

from __future__ import annotations

import fcntl
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertc.errors import error
from bertc.writing import replacing


@dataclass(frozen=True)
class TimingCache:
    """The file of one version and GPU."""

    path: Path

    @classmethod
    def of(cls, folder: Path, version: str, gpu: str) -> TimingCache:
        """Raises BertcError B0605 when the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise _unusable(folder, problem) from None
        return cls(folder / f"tensorrt-{version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu)}.cache")

    def load(self, config: Any, log: Any) -> None:
        """Let a build begin with what is known; with a warning it begins anew where TensorRT does not take the file."""
        known = self._known(config)
        if known is None or not config.set_timing_cache(known, False):
            message = f"the timing cache `{self.path}` is begun anew, since TensorRT does not take it: {log.worst()}"
            warnings.warn(message, stacklevel=2)
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self, config: Any) -> None:
        """Add what a build measured to what is in the file. Raises BertcError B0605 when it cannot be written."""
        cache = config.get_timing_cache()
        try:
            with self._locked(), replacing(self.path) as beside:
                known = self._known(config)
                if known is not None:
                    cache.combine(known, False)
                beside.write_bytes(cache.serialize())
        except OSError as problem:
            raise _unusable(self.path, problem) from None

    def _known(self, config: Any) -> Any:
        """What the file holds, or None when it is damaged: TensorRT then gives None, or a cache that is empty."""
        serialized = self._read()
        known = config.create_timing_cache(serialized)
        if known is None:
            return None
        nothing = bytes(config.create_timing_cache(b"").serialize())
        is_emptied = bytes(known.serialize()) == nothing and serialized not in (b"", nothing)
        return None if is_emptied else known

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as problem:
            raise _unusable(self.path, problem) from None

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Alone among all processes; the lock goes with the file's descriptor."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _unusable(path: Path, problem: OSError) -> Exception:
    message = f"the timing cache `{path}` cannot be used: {problem.strerror}"
    return error("B0605", message, None, "name a folder that you may write in")
