"""Over NBD, on a Unix socket: `synthdisk serve` against nbdkit, qemu-nbd and qemu-storage-daemon.

All serve the same image from the host's page cache. Rewrites go to an overlay in synthdisk and to the
image itself in the others. First writes are compared with servers that keep the image as it is, too:
nbdkit's cow filter, and a qcow2 overlay in qemu-storage-daemon. The contestants take turns in each round,
forwards in one and backwards in the next.
"""
import os
import re
import shutil
import subprocess
import tempfile
import time

from common import GIB, MIB, Missing, median, ratio, sh, version, wait_for
from contestants import PARTITION, children
from section_qemu import Nbd, NbdkitFile, StorageDaemonNbd


class SynthdiskNbd(Nbd):
    """`overlay`: a qcow2 file, or None for the temporary one."""

    offset = PARTITION

    def command(self, socket):
        args = [self.bench.synthdisk, "serve", "--foreground", "--nbd", socket, "--force",
                "--bootloader", "none"]
        if self.options.get("overlay"):
            args += ["--overlay", os.path.join(self.place, "overlay.qcow2")]
        return args + [self.image]

    def start(self):
        os.environ.setdefault("TMPDIR", self.bench.dir)
        super().start()
        # The socket exists before it listens.
        wait_for(lambda: subprocess.run(["nbdinfo", "--size", self.path], capture_output=True)
                 .returncode == 0, what="synthdisk serve")


    def daemons(self):
        return [self.process.pid] + children(self.process.pid)


class CachedQemuNbd(Nbd):
    """From the page cache, as the others."""

    def command(self, socket):
        return ["qemu-nbd", "-f", "raw", "--cache=writeback", "--aio=threads", "--discard=unmap",
                "--persistent", "--shared=8", "--socket", socket, self.image]


class CachedStorageDaemon(StorageDaemonNbd):
    def command(self, socket):
        return ["qemu-storage-daemon", "--blockdev",
                f"driver=file,node-name=f,filename={self.image},aio=threads",
                "--blockdev", "driver=raw,node-name=image,file=f",
                "--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=8",
                "--export", "type=nbd,id=e,node-name=image,name=image,writable=on"]


class NbdkitCow(Nbd):
    def command(self, socket):
        return ["nbdkit", "--foreground", "--unix", socket, "--filter=cow", "file", self.image]


class StorageDaemonOverlay(Nbd):
    export = "overlay"

    def command(self, socket):
        overlay = os.path.join(self.place, "overlay.qcow2")
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image, overlay)
        return ["qemu-storage-daemon",
                "--blockdev", f"driver=file,node-name=f0,filename={self.image},read-only=on",
                "--blockdev", "driver=raw,node-name=image,file=f0,read-only=on",
                "--blockdev", f"driver=file,node-name=f1,filename={overlay},discard=unmap",
                "--blockdev", "driver=qcow2,node-name=overlay,file=f1,backing=image",
                "--nbd-server", f"addr.type=unix,addr.path={socket},max-connections=8",
                "--export", "type=nbd,id=e,node-name=overlay,name=overlay,writable=on"]


REWRITERS = {
    "synthdisk": SynthdiskNbd,
    "nbdkit": NbdkitFile,
    "qemu-nbd": CachedQemuNbd,
    "qemu-storage-daemon": CachedStorageDaemon,
}

FIRST_WRITERS = {
    "synthdisk": SynthdiskNbd,
    "nbdkit": NbdkitCow,
    "qemu-storage-daemon": StorageDaemonOverlay,
}


def requests(depth, count, write=False):
    """Requests of 4 KiB per second. Steps of 68 KiB, so that no two are merged."""
    def measure(shown, span):
        args = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(count), "-d", str(depth),
                "-s", "4096", "-S", str(68 << 10), "-o", str(shown.offset)]
        text = sh(*args, *(["-w"] if write else []), shown.path)
        return count / float(re.search(r"Run completed in ([0-9.]+) seconds", text).group(1))
    return measure


def fio(pattern, depth):
    """Random requests of 4 KiB per second, by fio over libnbd."""
    def measure(shown, span):
        text = sh("fio", "--name=x", "--ioengine=nbd", f"--uri={shown.path}", f"--rw={pattern}",
                  "--bs=4k", f"--iodepth={depth}", f"--offset={shown.offset}", f"--size={span}",
                  "--time_based", "--runtime=3", "--randseed=7", "--output-format=terse",
                  "--terse-version=3")
        fields = text.strip().splitlines()[-1].split(";")
        return float(fields[7] if "read" in pattern else fields[48])
    return measure


def processor_time(pids):
    """Seconds that these processes have used."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def cost(pattern, depth, count, size):
    """Requests that the server does in a second of processor time: other load matters little."""
    def measure(shown, span):
        pids = shown.daemons()
        before = processor_time(pids)
        sh("fio", "--name=x", "--ioengine=nbd", f"--uri={shown.path}", f"--rw={pattern}",
           f"--bs={size}", f"--iodepth={depth}", f"--offset={shown.offset}", f"--size={span}",
           f"--number_ios={count}")
        return count / max(processor_time(pids) - before, 0.01)
    return measure


def copied(args):
    """MiB per second that nbdcopy copies."""
    def measure(shown, span):
        began = time.monotonic()
        sh("nbdcopy", *args(shown.path))
        return span / MIB / (time.monotonic() - began)
    return measure


# (what, contestants, measure)
def rows(source, scale):
    return [
        ("sequential reads, nbdcopy, MiB/s", REWRITERS, copied(lambda uri: [uri, "null:"])),
        ("random reads, depth 1", REWRITERS, fio("randread", 1)),
        ("random reads, depth 16", REWRITERS, fio("randread", 16)),
        ("QEMU's reads, depth 1", REWRITERS, requests(1, 20_000 // scale)),
        ("QEMU's reads, depth 16", REWRITERS, requests(16, 60_000 // scale)),
        ("random rewrites, depth 1", REWRITERS, fio("randwrite", 1)),
        ("random rewrites, depth 16", REWRITERS, fio("randwrite", 16)),
        ("QEMU's rewrites, depth 1", REWRITERS, requests(1, 20_000 // scale, True)),
        ("QEMU's rewrites, depth 16", REWRITERS, requests(16, 60_000 // scale, True)),
        ("reads per second of CPU, depth 1", REWRITERS, cost("randread", 1, 30_000, "4k")),
        ("reads per second of CPU, depth 16", REWRITERS, cost("randread", 16, 60_000, "4k")),
        ("reads of 256 KiB per second of CPU", REWRITERS, cost("read", 8, 4_096, "256k")),
        ("rewrites per second of CPU, depth 1", REWRITERS, cost("randwrite", 1, 30_000, "4k")),
        ("rewrites per second of CPU, depth 16", REWRITERS, cost("randwrite", 16, 60_000, "4k")),
        ("QEMU's first writes, depth 16", FIRST_WRITERS, requests(16, 7_000 // scale, True)),
    ]


def run(bench):
    span = GIB // 4 if bench.options.quick else GIB // 2
    source = bench.data_image(span)
    work = tempfile.mkdtemp(prefix="nbd-", dir=bench.dir)
    bench.temporary.append(work)
    table = []
    running = {}
    images = {}

    def start(name, kind):
        if name not in images:
            images[name] = os.path.join(work, f"image{len(images)}")
            shutil.copyfile(source, images[name])
        return kind(bench, images[name])

    try:
        for name, kind in REWRITERS.items():
            try:
                running[name] = start(name, kind)
                running[name].__enter__()
            except Missing as e:
                running.pop(name)
                bench.say(f"nbd: without {name}: {e}")
        # The whole span is written once, so that rewrites are rewrites.
        for one in running.values():
            fio_fill = ["fio", "--name=x", "--ioengine=nbd", f"--uri={one.path}", "--rw=write",
                        "--bs=256k", "--iodepth=4", f"--offset={one.offset}", f"--size={span}"]
            sh(*fio_fill)
        for row, contestants, measure in rows(source, 10 if bench.options.quick else 1):
            if not bench.wants(row):
                continue
            bench.say(f"nbd: {row}")
            names = [name for name in contestants if contestants is not REWRITERS or name in running]
            results = {name: [] for name in names}
            for turn in range(bench.rounds):
                order = names[turn % len(names):] + names[:turn % len(names)]
                for name in order if turn % 2 == 0 else reversed(order):
                    if contestants is REWRITERS:
                        results[name].append(measure(running[name], span))
                        continue
                    # Each run begins with an empty overlay.
                    with start(f"first {name}", contestants[name]) as fresh:
                        results[name].append(measure(fresh, span))
            cells = [row]
            for name in REWRITERS:
                if name not in results:
                    cells.append("–")
                elif name == "synthdisk":
                    cells.append(f"{median(results[name]):,.0f}")
                else:
                    worth = ratio(results, "synthdisk", name)
                    cells.append(f"{median(results[name]):,.0f} ({worth:.2f})")
            table.append(cells)
    finally:
        for one in running.values():
            one.__exit__()
    heads = [""] + [name if name == "synthdisk" else f"{name} (ratio)" for name in REWRITERS]
    bench.table(f"NBD on a Unix socket, {span // MIB} MiB in the host's page cache; requests of 4 KiB "
                "per second unless something else is said (ratio: synthdisk's times the peer's)",
                heads, table, [version("qemu-nbd", "--version") + "; " + version("nbdkit", "--version")])
