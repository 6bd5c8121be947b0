"""How long one set takes at worst while a cache grows: CPU time of every single one, by itself.

The store is compiled with its spans measured (`-DMEMCACHEPY_SPANS`) and loaded from an empty cache
by one process, with and without the maintainer's work beside it, in turns. CPU time omits waiting,
but not what a hypervisor or an interrupt takes from this core: a maximum is believed when it comes
again. usage: growth.py [--items N] [--memory MB] [--value BYTES] [--rounds N]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORE = HERE.parent / "memcachepy" / "core"
LAYERS = ("base", "mem", "store")
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-DMEMCACHEPY_SPANS")
NAMES = {
    "put": "one whole set",
    "table_grow_step": "a step of a hash table's growth",
    "pool_grow": "memory taken from the host",
}


def build(folder: Path) -> Path:
    """Compile the loader with the layers below the protocol."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("no C compiler; install gcc")
    binary = folder / "growth"
    sources = sorted(str(path) for layer in LAYERS for path in (CORE / layer).glob("*.c"))
    command = [compiler, *FLAGS, f"-I{CORE}", str(HERE / "growth" / "growth.c"), *sources]
    subprocess.run([*command, "-o", str(binary), "-lpthread"], check=True)
    return binary


def measure(binary: Path, items: int, memory_mb: int, value_bytes: int, *how: str) -> None:
    """One load, printed as rows of the table."""
    command = [str(binary), str(items), str(memory_mb), str(value_bytes), *how]
    first, *rows = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    print(f"<!-- {' '.join(how) or 'alone'}: {first} -->")
    for row in rows:
        name, *fields = row.split()
        cells = [field.split("=")[1] for field in fields]
        print("|", " | ".join([how[0] if how else "alone", NAMES[name], *cells]), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--memory", type=int, default=4096, help="in megabytes")
    parser.add_argument("--value", type=int, default=100, help="bytes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| | what | times | mean µs | 99.99th percentile µs | largest µs | above 1 ms |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        binary = build(Path(folder))
        for _ in range(options.rounds):
            for how in ((), ("maintained",)):
                measure(binary, options.items, options.memory, options.value, *how)


if __name__ == "__main__":
    main()
