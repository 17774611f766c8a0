"""From typing `synthdisk mount` to a disk that can be read."""
import os
import subprocess
import tempfile
import time

from common import median, sh, wait_for


def run(bench):
    sizes = {"2 GiB": bench.mini_guest("2G"), "1.9 TiB, sparse": bench.huge_guest("1945G")}
    images = {f"{size}{adapted}": (image, adapt)
              for adapted, adapt in (("", "none"), (", guest adapted", "auto"))
              for size, image in sizes.items()}
    place = tempfile.mkdtemp(prefix="mnt-", dir=bench.dir)
    disk = os.path.join(place, "disk.raw")

    def measure(name):
        start = time.perf_counter()
        image, adapt = images[name]
        subprocess.run([bench.synthdisk, "mount", "--adapt", adapt, image, place], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE)
        ready = time.perf_counter()
        with open(disk, "rb", buffering=0) as f:
            boots = f.read(512)[510:] == b"\x55\xaa"
        read = time.perf_counter()
        sh(bench.synthdisk, "umount", place)
        wait_for(lambda: not os.path.exists(disk), what="unmount")
        if not boots:
            raise RuntimeError(f"{name}: no boot sector")
        return (ready - start) * 1e3, (read - ready) * 1e3

    rounds, bench.rounds = bench.rounds, max(5, 4 * bench.rounds)
    try:
        measure("2 GiB")
        bench.say("mount")
        results = bench.compare(list(images), measure)
    finally:
        bench.rounds = rounds
        os.rmdir(place)
    table = []
    small = [r[0] for r in results["2 GiB"]]
    for name, values in results.items():
        ready = [v[0] for v in values]
        table.append([
            name, f"{median(ready):.1f} ms", f"{min(ready):.1f} ms", f"{max(ready):.1f} ms",
            f"{median([v[1] for v in values]):.2f} ms",
            f"{median([a / b for a, b in zip(ready, small)]):.2f}",
        ])
    bench.table("Mount to ready",
                ["image", "median", "least", "most", "then the first sector", "ratio to 2 GiB"],
                table)
