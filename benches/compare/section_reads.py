"""Reads against qemu-storage-daemon and nbdkit: through the page cache of the mount and past it."""
import os

from common import GIB, MIB, ratio, median
from contestants import Nbdkit, StorageDaemon, Synthdisk
from fio import fio

CONTESTANTS = {"synthdisk": Synthdisk, "qemu-storage-daemon": StorageDaemon, "nbdkit": Nbdkit}


def again(shown, span):
    """Read by one program what another one has just read."""
    args = dict(rw="read", bs="1M", keep_cache=True)
    fio(shown.path, shown.offset, span, **args)
    return fio(shown.path, shown.offset, span, **args)


def rows(seconds):
    timed = dict(seconds=seconds)
    for jobs in (1, 4):
        name = "1 job" if jobs == 1 else f"{jobs} jobs"
        yield f"sequential 1 MiB, O_DIRECT, {name}", "MiB/s", dict(
            rw="read", bs="1M", direct=True, jobs=jobs, **timed)
        yield f"random 4 KiB, O_DIRECT, {name}", "IOPS", dict(
            rw="randread", bs="4k", direct=True, jobs=jobs, **timed)
        # Through the cache, but not out of it: everything once.
        yield f"sequential 128 KiB, cached, {name}", "MiB/s", dict(rw="read", bs="128k", jobs=jobs)
        yield f"random 4 KiB, cached, {name}", "IOPS", dict(
            rw="randread", bs="4k", jobs=jobs, total=128 * MIB)
    yield "random 4 KiB, O_DIRECT, depth 16", "IOPS", dict(
        rw="randread", bs="4k", direct=True, depth=16, **timed)
    yield "sequential, cached, again by another program", "MiB/s", None


def run(bench):
    span = GIB // 4 if bench.options.quick else GIB
    image = bench.data_image(span)
    peers = [n for n in CONTESTANTS if n != "synthdisk"]
    table = []
    shown = {}
    try:
        for name, kind in CONTESTANTS.items():
            shown[name] = kind(bench, image)
            shown[name].__enter__()
        for row, unit, args in rows(bench.seconds):
            if not bench.wants(row):
                continue
            bench.say(f"reads: {row}")

            def measure(name):
                one = shown[name]
                bandwidth, iops = again(one, span) if args is None else fio(
                    one.path, one.offset, span, **args)
                return bandwidth / MIB if unit == "MiB/s" else iops

            results = bench.compare(list(CONTESTANTS), measure)
            values = [f"{median(results[n]):,.0f}" for n in CONTESTANTS]
            ratios = [f"{ratio(results, 'synthdisk', p):.2f}" for p in peers]
            table.append([row, unit] + values + ratios)
    finally:
        for one in shown.values():
            one.__exit__()
    bench.table(f"Reads ({span // MIB} MiB, image in the host's page cache)",
                ["", "unit"] + list(CONTESTANTS) + [f"ratio to {p}" for p in peers], table)
