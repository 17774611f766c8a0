"""Writes against qemu-storage-daemon with a qcow2 over the image."""
import os

from common import GIB, MIB, median, ratio, sync, touch_memory
from contestants import StorageDaemon, Synthdisk
from fio import fio

CONTESTANTS = {
    "temporary": (Synthdisk, False),
    "persistent": (Synthdisk, True),
    "qemu-storage-daemon": (StorageDaemon, True),
}


def rows(seconds, span):
    """Name, unit, whether the span is written first, fio's arguments."""
    random_total = span // 16
    for direct in (True, False):
        how = "O_DIRECT" if direct else "buffered"
        for jobs in (1, 4):
            who = f"{how}, " + ("1 job" if jobs == 1 else f"{jobs} jobs")
            base = dict(direct=direct, jobs=jobs)
            sequential = dict(rw="write", bs="1M", **base)
            random = dict(rw="randwrite", bs="4k", **base)
            yield f"sequential 1 MiB, first write, {who}", "MiB/s", False, sequential
            yield f"sequential 1 MiB, rewrite, {who}", "MiB/s", True, sequential
            yield f"random 4 KiB, first write, {who}", "IOPS", False, dict(
                total=random_total, **random)
            yield f"random 4 KiB, rewrite, {who}", "IOPS", True, dict(seconds=seconds, **random)
    for jobs in (1, 4):
        who = "1 job" if jobs == 1 else f"{jobs} jobs"
        random = dict(rw="randwrite", bs="4k", direct=True, jobs=jobs, fdatasync=32)
        yield f"random 4 KiB, first write, fdatasync every 32, {who}", "IOPS", False, dict(
            total=random_total // 8, **random)
        yield f"random 4 KiB, rewrite, fdatasync every 32, {who}", "IOPS", True, dict(
            seconds=seconds, **random)


def measure_one(bench, image, span, kind, persistent, filled, args, **options):
    """A fresh overlay, filled or not, one run of fio; returns bytes and requests per second."""
    overlay = bench.path("overlay.qcow2") if persistent else None
    if overlay and os.path.exists(overlay):
        os.unlink(overlay)
    sync()
    with kind(bench, image, overlay=overlay, **options) as shown:
        if filled:
            fio(shown.path, shown.offset, span, rw="write", bs="1M", direct=True)
            sync()
        else:
            touch_memory(bench.dir, span)
        result = fio(shown.path, shown.offset, span, **args)
    if overlay:
        os.unlink(overlay)
    return result


def run(bench):
    span = GIB // 4 if bench.options.quick else GIB
    image = bench.data_image(span)
    table = []
    for row, unit, filled, args in rows(bench.seconds, span):
        if not bench.wants(row):
            continue
        bench.say(f"writes: {row}")

        def measure(name):
            kind, persistent = CONTESTANTS[name]
            bandwidth, iops = measure_one(bench, image, span, kind, persistent, filled, args)
            return bandwidth / MIB if unit == "MiB/s" else iops

        results = bench.compare(list(CONTESTANTS), measure)
        peer = "qemu-storage-daemon"
        values = [f"{median(results[n]):,.0f}" for n in CONTESTANTS]
        ratios = [f"{ratio(results, n, peer):.2f}" for n in ("temporary", "persistent")]
        table.append([row, unit] + values + ratios)
    bench.table(
        f"Writes ({span // MIB} MiB; qemu-storage-daemon exports a qcow2 over the image)",
        ["", "unit", "synthdisk, temporary overlay", "synthdisk, `--overlay`",
         "qemu-storage-daemon", "ratio, temporary", "ratio, `--overlay`"], table)
