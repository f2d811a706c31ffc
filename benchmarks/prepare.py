"""A large file of conversations, tokenised into the cache: seconds, peak memory and bytes.

    python -m benchmarks.prepare --gigabytes 2 --folder FOLDER

Writes the file first, of random words in conversations of two to six messages, and takes it away afterwards. It is prepared in a process of
its own as `python train.py` prepares it, with SmolLM2's tokenizer and chat template. Peak memory is that process's, what its imports take
included.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

PREPARE = """
import sys, time
from qpa.config import parse
from qpa.config.composing import composed
from qpa.config.context import Context
from qpa.runs import plan
from qpa.runs.record import peak_memory

file, cache = sys.argv[1:]
config = composed("train", ["data=files", f"data.train_files=[{file}]", f"cache_dir={cache}", "data.context=512"])
task = plan.make(parse(config), Context(), read=True).task
task.fetch()
import datasets, torch, transformers
before, began = peak_memory(), time.monotonic()
task.prepare()
print(before, peak_memory(), time.monotonic() - began)
"""


def write(file: Path, size: int) -> int:
    """Conversations until the file has so many bytes; how many."""
    draw, words, count = random.Random(0), [f"{a}{b}" for a in ("lo", "ta", "ber", "gin", "so") for b in ("ne", "ri", "k", "lan", "m")], 0
    with file.open("w") as out:
        while out.tell() < size:
            for _ in range(1000):
                roles = ("user", "assistant") * draw.randint(1, 3)
                messages = [{"role": role, "content": " ".join(draw.choices(words, k=draw.randint(5, 120)))} for role in roles]
                out.write(json.dumps({"messages": messages}) + "\n")
                count += 1
    return count


def main() -> None:
    """Write, prepare, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        file, cache = Path(place) / "chats.jsonl", Path(place) / "cache"
        count = write(file, int(given.gigabytes * 1e9))
        done = subprocess.run([sys.executable, "-c", PREPARE, str(file), str(cache)], capture_output=True, text=True, check=True)
        before, peak, seconds = map(float, done.stdout.split()[-3:])
        kept = sum(path.stat().st_size for path in (cache / "tokens").rglob("*.arrow"))
        table = Table("conversations", "GB read", "s", "MB of memory before", "MB at the peak", "GB of windows")
        numbers = (f"{file.stat().st_size / 1e9:.2f}", f"{seconds:.0f}", f"{before / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{kept / 1e9:.2f}")
        table.add_row(f"{count:,}", *numbers)
        Console().print(table)


if __name__ == "__main__":
    main()
