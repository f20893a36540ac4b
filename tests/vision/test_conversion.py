from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backend.errors import WeightsError
from backend.vision.conversion import Source, cached_export, drop_export


def build(calls: list[int], fail: bool = False) -> Source:
    """A network that doubles."""
    import torch

    class Double(torch.nn.Module):
        def forward(self, pixels: Any) -> tuple[Any]:
            if fail:
                raise ValueError("first line\nsecond line")
            return (pixels.float() * 2,)

    calls.append(1)
    return Source(Double(), {"answer": 42}, (-1, 3, -1, -1), (4, 6))


def test_is_built_once_and_read_from_then_on(tmp_path: Path) -> None:
    calls: list[int] = []
    first = cached_export("net", ("hash",), tmp_path, lambda: build(calls))
    second = cached_export("net", ("hash",), tmp_path, lambda: build(calls))
    assert len(calls) == 1
    assert first.facts == second.facts == {"answer": 42}


def test_other_weights_get_another_folder(tmp_path: Path) -> None:
    calls: list[int] = []
    for key in ("a", "b"):
        cached_export("net", (key,), tmp_path, lambda: build(calls))
    assert len(calls) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_build_leaves_nothing_and_one_line(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be converted to OpenVINO") as caught:
        cached_export("net", ("hash",), tmp_path, lambda: build([], fail=True))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_is_not_mistaken_for_a_whole_one(tmp_path: Path) -> None:
    def killed() -> Source:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_export("net", ("hash",), tmp_path, killed)
    calls: list[int] = []
    cached_export("net", ("hash",), tmp_path, lambda: build(calls))
    assert calls


def test_what_killed_builds_left_is_removed_after_a_day(tmp_path: Path) -> None:
    for name, age in ((".partial-old", 2 * 24 * 3600), (".partial-live", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cached_export("net", ("hash",), tmp_path, lambda: build([]))
    assert not (tmp_path / ".partial-old").exists()
    assert (tmp_path / ".partial-live").exists()


def test_the_slower_of_two_processes_uses_what_the_faster_made(tmp_path: Path) -> None:
    def overtaken() -> Source:
        cached_export("net", ("hash",), tmp_path, lambda: build([]))
        return build([])

    assert cached_export("net", ("hash",), tmp_path, overtaken).facts == {"answer": 42}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "facts.json"])
@pytest.mark.parametrize("content", [b"", b"\x00", b"{}", None])
def test_a_damaged_export_is_made_again(name: str, content: bytes | None, tmp_path: Path) -> None:
    calls: list[int] = []
    cached_export("net", ("hash",), tmp_path, lambda: build(calls))
    [folder] = tmp_path.iterdir()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    again = cached_export("net", ("hash",), tmp_path, lambda: build(calls))
    assert again.facts == {"answer": 42}
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


FULL = """
import resource, signal, sys
from pathlib import Path
from backend.errors import WeightsError
from backend.vision.conversion import cached_export
from tests.vision.test_conversion import build
source = build([])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    cached_export("net", ("hash",), Path(sys.argv[1]), lambda: source)
except WeightsError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False
    )
    assert f"cannot be written to {tmp_path}" in done.stderr
    assert "free some space on that disk" in done.stderr
    assert "GPU" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_converting_tells_nobody_and_writes_nothing_else(tmp_path: Path) -> None:
    # In a process of its own: openvino reports, if at all, when it is first imported.
    program = """
import socket, sys, torch
asked = []
socket.getaddrinfo = lambda *address, **_: asked.append(address) or []
from backend.vision.conversion import Source
from backend.vision.conversion import convert
class Double(torch.nn.Module):
    def forward(self, pixels):
        return (pixels.float() * 2,)
convert(Source(Double(), {}, (-1, 3, -1, -1), (4, 6)))
import time; time.sleep(1)
sys.exit(f"asked for {asked}" if asked else 0)
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert [path.name for path in home.rglob("*") if "cache" not in str(path)] == []


def test_a_dropped_export_is_made_again(tmp_path: Path) -> None:
    calls: list[int] = []
    drop_export("net", ("hash",), tmp_path)
    for _ in range(2):
        cached_export("net", ("hash",), tmp_path, lambda: build(calls))
        drop_export("net", ("hash",), tmp_path)
    assert len(calls) == 2
    assert list(tmp_path.iterdir()) == []
