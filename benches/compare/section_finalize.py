"""Writing a disk out against cp and qemu-img convert, and sharing its blocks.

What a copy takes counts until it is on storage: `finalize` waits for that by itself, after the
others comes a `sync` of their file.
"""
import os
import shutil
import subprocess
import time

from common import GIB, MIB, median, ratio, sh, sync, touch_memory, warm


def half_zeros(bench, size):
    """As much data as zeros that are stored, a MiB of each in turn."""
    path = bench.path(f"half-{size // MIB}M.img")
    if not os.path.exists(path) or os.path.getsize(path) != size:
        bench.say(f"making {path}")
        with open(path + ".new", "wb") as f:
            for _ in range(size // (2 * MIB)):
                f.write(os.urandom(MIB) + bytes(MIB))
        sync()
        os.rename(path + ".new", path)
    warm(path)
    return path


def timed(*args):
    start = time.perf_counter()
    sh(*args)
    return time.perf_counter() - start


def copies(bench, span):
    out = bench.path("finalized")
    source = ["--bootloader", "none", "--swap", "0", "--adapt", "none"]

    def finalize(image, *options, program=bench.synthdisk):
        return timed(program, "finalize", "-q", *source, *options, image, "-o", out)

    def cp(image):
        return timed("cp", "--sparse=always", image, out) + timed("sync", out)

    def convert(image, kind):
        took = timed("qemu-img", "convert", "-f", "raw", "-O", kind, image, out)
        return took + timed("sync", out)

    raw = {
        "finalize": lambda image: finalize(image, "--reflink", "never"),
        "cp --sparse=always": cp,
        "qemu-img convert": lambda image: convert(image, "raw"),
    }
    qcow2 = {
        "finalize": lambda image: finalize(image, "--format", "qcow2"),
        "qemu-img convert": lambda image: convert(image, "qcow2"),
    }
    for name, program in bench.others():
        raw[name] = lambda image, p=program: finalize(image, "--reflink", "never", program=p)
        qcow2[name] = lambda image, p=program: finalize(image, "--format", "qcow2", program=p)
    rows = [
        ("raw, all data", bench.data_image(span), raw),
        ("raw, half of it zeros", half_zeros(bench, span), raw),
        ("qcow2, all data", bench.data_image(span), qcow2),
    ]
    table = []
    for row, image, ways in rows:
        if not bench.wants(row):
            continue
        bench.say(f"finalize: {row}")

        def measure(name):
            if os.path.exists(out):
                os.unlink(out)
            sync()
            touch_memory(bench.dir, span)
            return span / MIB / ways[name](image)

        results = bench.compare(list(ways), measure)
        os.unlink(out)
        names = list(raw)
        cells = [f"{median(results[n]):,.0f}" if n in results else "" for n in names]
        cells += [f"{ratio(results, 'finalize', n):.2f}" if n in results else "" for n in names[1:]]
        table.append([row] + cells)
    names = list(raw)
    bench.table(f"Writing {span // MIB} MiB out, in MiB/s, until it is on storage (image in the "
                "host's page cache)", [""] + names + [f"ratio to {n}" for n in names[1:]], table)


def shared(bench):
    """Sharing on a filesystem that can, in a file."""
    if os.geteuid() != 0:
        bench.say("finalize: sharing blocks needs root for its filesystems; left out")
        return
    table = []
    for kind in ("xfs", "btrfs"):
        if not shutil.which(f"mkfs.{kind}"):
            bench.say(f"finalize: mkfs.{kind} is not installed (scripts/setup --test); left out")
            continue
        image, place = bench.path(f"{kind}.fs"), bench.path(f"{kind}.mnt")
        os.makedirs(place, exist_ok=True)
        with open(image, "wb") as f:
            f.truncate(3 * GIB)
        try:
            sh(f"mkfs.{kind}", "-q", image)
            sh("mount", "-t", kind, "-o", "loop", image, place)
            guest = os.path.join(place, "guest.img")
            sh("cp", bench.data_image(GIB), guest)
            for size in (GIB, 1 << 40):
                os.truncate(guest, size)
                sync()
                out = os.path.join(place, "out.raw")
                took = []
                for _ in range(max(5, bench.rounds)):
                    took.append(timed(bench.synthdisk, "finalize", "-q", "--bootloader", "none",
                                      "--swap", "0", "--reflink", "always", guest, "-o", out))
                    os.unlink(out)
                name = "1 GiB" if size == GIB else "1 TiB, sparse"
                table.append([f"{name}, on {kind}"] + [
                    f"{1e3 * value:.1f} ms" for value in (median(took), min(took), max(took))])
        finally:
            subprocess.run(["umount", place], check=False)
            os.unlink(image)
            os.rmdir(place)
    bench.table("Writing out by sharing blocks (1 GiB of data)",
                ["image", "median", "least", "most"], table)


def run(bench):
    span = GIB // 4 if bench.options.quick else GIB
    copies(bench, span)
    if bench.wants("shared"):
        shared(bench)
