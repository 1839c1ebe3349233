"""What the system knows of a process (proc(5))."""

import os
import subprocess
from pathlib import Path


def cpu_sec(pid: int) -> float:
    """The CPU time that it has used."""
    # The name, in brackets, may hold anything; utime and stime are the 12th and 13th fields behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Its resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children_of(pid: int, what: str = "display") -> list[int]:
    """Its children with this in their command line."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", what], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in found.split()]
