"""The heap of a process that trains on a CPU: huge pages where that costs nothing."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
from pathlib import Path
from trainer.loop import heap

if sys.argv[1:] == ["limited"]:
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
heap.keep_freed_memory()
heap.keep_freed_memory()  # for the next run
parts = Path("/proc/self/smaps").read_text().split("[heap]")[1:]
sizes = [int(part.partition("Size:")[2].split()[0]) << 10 for part in parts]
flags = [part.partition("VmFlags:")[2].partition("\\n")[0].split() for part in parts]
rss = sum(int(part.partition("Rss:")[2].split()[0]) << 10 for part in parts)
print(sum(sizes) >= heap.HUGE_BYTES, all("hg" in of for of in flags), rss < 64 << 20)
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="needs glibc and a kernel with huge pages",
)


def told(*arguments: str) -> str:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_heap_has_huge_pages_and_no_memory_that_it_does_not_use() -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("address space counts here")
    assert told() == "True True True"


def test_where_address_space_is_limited_the_heap_stays_as_it_is() -> None:
    assert told("limited") == "False False True"
