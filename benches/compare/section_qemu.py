"""Through QEMU's block layer, as a guest's requests go: `qemu-img bench` on disk.raw, on the bare
file, on qemu-storage-daemon's FUSE export, and over NBD.

qemu-img opens files with `cache=none` (`-t none`), as QEMU is told to: that is O_DIRECT, which bypasses
the page cache of the mount. The bare file is measured with and without the host's page cache, as
synthdisk serves from it. `aio` is how QEMU does I/O on files; it has no meaning over NBD. The contestants
take turns in each round, forwards in one and backwards in the next.
"""
import os
import re
import shutil
import subprocess
import tempfile

from common import GIB, MIB, Missing, median, ratio, sh, version, wait_for
from contestants import Contestant, StorageDaemon, Synthdisk

AIO = ["threads", "io_uring", "native"]


class BareFile(Contestant):
    """The file itself: no export at all."""

    def start(self):
        self.path = self.image


class CachedFile(BareFile):
    """The file through the host's page cache, from which disk.raw is served as well."""

    cache = "writeback"


class Nbd(Contestant):
    """A server on a Unix socket; `path` is its URI."""

    def start(self):
        socket = os.path.join(self.place, "s")
        self.spawn(*self.command(socket))
        wait_for(lambda: os.path.exists(socket) or self.process.poll() is not None, what="NBD")
        if self.process.poll() is not None:
            raise RuntimeError("the NBD server ended; see contestants.log")
        self.path = f"nbd+unix:///{self.export}?socket={socket}"

    export = ""


class QemuNbd(Nbd):
    def command(self, socket):
        return ["qemu-nbd", "-f", "raw", "--cache=none", "--aio=io_uring", "--persistent",
                "--shared=4", "--socket", socket, self.image]


class StorageDaemonNbd(Nbd):
    export = "image"

    def command(self, socket):
        return ["qemu-storage-daemon", "--blockdev",
                f"driver=file,node-name=f,filename={self.image},aio=io_uring,cache.direct=on",
                "--blockdev", "driver=raw,node-name=image,file=f",
                "--nbd-server", f"addr.type=unix,addr.path={socket}",
                "--export", "type=nbd,id=e,node-name=image,name=image,writable=on"]


class NbdkitFile(Nbd):
    def command(self, socket):
        return ["nbdkit", "--foreground", "--unix", socket, "file", self.image]


class WritableStorageDaemon(StorageDaemon):
    """Its FUSE export of the raw file, writable: no overlay has to be read."""

    def start(self):
        path = os.path.join(self.place, "export")
        open(path, "w").close()
        self.spawn("qemu-storage-daemon", "--blockdev",
                   f"driver=file,node-name=f0,filename={self.image},aio=io_uring,cache.direct=on",
                   "--blockdev", "driver=raw,node-name=image,file=f0", "--export",
                   f"type=fuse,id=e,node-name=image,mountpoint={path},writable=on")
        wait_for(lambda: os.path.getsize(path) > 0 or self.process.poll() is not None,
                 what="qemu-storage-daemon")
        if self.process.poll() is not None:
            raise RuntimeError("qemu-storage-daemon ended; see contestants.log")
        self.path = path


CONTESTANTS = {
    "disk.raw": Synthdisk,
    "the bare file": BareFile,
    "the bare file, page cache": CachedFile,
    "qemu-storage-daemon, FUSE": WritableStorageDaemon,
    "qemu-nbd": QemuNbd,
    "qemu-storage-daemon, NBD": StorageDaemonNbd,
    "nbdkit, NBD": NbdkitFile,
}

# Requests of 4 KiB each: (what, writes, depth, number of requests).
ROWS = [
    ("read, depth 1", False, 1, 20_000),
    ("read, depth 16", False, 16, 60_000),
    ("write, depth 1", True, 1, 10_000),
    ("write, depth 16", True, 16, 30_000),
]


def once(shown, aio, write, depth, count):
    """Requests per second of one run. Steps of 68 KiB over the image, so that no two are merged."""
    cache = getattr(shown, "cache", "none")
    args = ["qemu-img", "bench", "-f", "raw", "-t", cache, "-c", str(count), "-d", str(depth),
            "-s", "4096", "-S", str(68 << 10), "-o", str(shown.offset)]
    if aio:
        args += ["-i", aio]
    if write:
        args += ["-w"]
    text = sh(*args, shown.path)
    seconds = float(re.search(r"Run completed in ([0-9.]+) seconds", text).group(1))
    return count / seconds


def supported(bench, source):
    """The kinds of I/O that this QEMU and this kernel have."""
    found = []
    for aio in AIO:
        try:
            sh("qemu-img", "bench", "-f", "raw", "-t", "none", "-c", "8", "-i", aio, source)
            found.append(aio)
        except RuntimeError:
            bench.say(f"qemu: no aio={aio} here")
    return found


def run(bench):
    span = GIB // 4 if bench.options.quick else GIB // 2
    source = bench.data_image(span)
    scale = 10 if bench.options.quick else 1
    work = tempfile.mkdtemp(prefix="qemu-", dir=bench.dir)
    bench.temporary.append(work)
    shown = {}
    table = []
    try:
        contestants = {name: (kind, {}) for name, kind in CONTESTANTS.items()}
        for name, program in bench.others():
            contestants[f"disk.raw, {name}"] = Synthdisk, {"binary": program}
        for i, (name, (kind, options)) in enumerate(contestants.items()):
            # QEMU locks what it writes to, so each has a file of its own.
            image = os.path.join(work, f"image{i}")
            shutil.copyfile(source, image)
            try:
                one = kind(bench, image, **options)
                one.__enter__()
                shown[name] = one
            except Missing as e:
                bench.say(f"qemu: without {name}: {e}")
        # The whole span is written once, so that all rows are rewrites as in a guest that runs.
        for ours in (one for one in shown.values() if isinstance(one, Synthdisk)):
            subprocess.run(["dd", "if=" + source, "of=" + ours.path, "bs=4M", "conv=notrunc",
                            f"seek={ours.offset}", "oflag=direct,seek_bytes", "status=none"],
                           check=True)
        entries = []
        for aio in supported(bench, source):
            # QEMU's aio=native needs O_DIRECT.
            entries += [(name, aio) for name in shown if "nbd" not in name.lower()
                        and not (aio == "native" and "page cache" in name)]
        entries += [(name, None) for name in shown if "nbd" in name.lower()]
        names = [f"{name}, {aio}" if aio else name for name, aio in entries]
        by_name = dict(zip(names, entries))
        columns = []
        for row, write, depth, count in ROWS:
            bench.say(f"qemu: {row}")
            results = {name: [] for name in names}
            for turn in range(bench.rounds):
                order = names[turn % len(names):] + names[:turn % len(names)]
                for name in order if turn % 2 == 0 else reversed(order):
                    contestant, aio = by_name[name]
                    results[name].append(
                        once(shown[contestant], aio, write, depth, count // scale))
            columns.append(results)
        base = "the bare file, threads"
        for name in names:
            cells = [name]
            for results in columns:
                cells += [f"{median(results[name]):,.0f}", f"{ratio(results, name, base):.2f}"]
            table.append(cells)
    finally:
        for one in shown.values():
            one.__exit__()
    heads = [""]
    for row, _, _, _ in ROWS:
        heads += [row, "ratio"]
    bench.table(f"Requests of 4 KiB through QEMU's block layer, per second ({span // MIB} MiB in the "
                "host's page cache; ratio to the bare file with aio=threads)", heads, table,
                [version("qemu-nbd", "--version") + "; " + version("nbdkit", "--version")])
