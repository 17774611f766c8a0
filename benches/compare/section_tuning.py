"""Builds of synthdisk against each other, by throughput and by the daemon's CPU time per request.

`--also NAME=PROGRAM` names the others: a build with another constant, or a wrapper script. CPU
time tells small differences from the noise of a busy machine where throughput can't.
"""
import os

from common import GIB, MIB, median, ratio, sync, touch_memory
from contestants import Synthdisk
from fio import fio

READS = [
    ("read, sequential 1 MiB, O_DIRECT", dict(rw="read", bs="1M", direct=True)),
    ("read, random 4 KiB, O_DIRECT, 1 job", dict(rw="randread", bs="4k", direct=True)),
    ("read, random 4 KiB, O_DIRECT, 4 jobs", dict(rw="randread", bs="4k", direct=True, jobs=4)),
    ("read, random 4 KiB, cached", dict(rw="randread", bs="4k", total=64 * MIB)),
]
WRITES = [
    ("write, random 4 KiB, first", False, dict(rw="randwrite", bs="4k", direct=True)),
    ("write, random 4 KiB, again", True, dict(rw="randwrite", bs="4k", direct=True)),
    ("write, sequential 1 MiB, first", False, dict(rw="write", bs="1M", direct=True)),
    ("write, random 4 KiB, first, fdatasync=32", False,
     dict(rw="randwrite", bs="4k", direct=True, fdatasync=32)),
]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(bench):
    programs = {"this": bench.synthdisk}
    programs.update(bench.others())
    names = list(programs)
    span = GIB // 4
    image = bench.data_image(span)
    overlay = bench.path("overlay.qcow2")
    table = []

    def once(name, row, written, fill, args):
        args = dict(args)
        if args["rw"] == "randread" and "total" not in args:
            args["total"] = 256 * MIB
        if args["rw"] == "randwrite":
            # Half of the span, in random order: long enough to time, and hardly a block twice.
            args["total"] = span // 2
        sync()
        with Synthdisk(bench, image, overlay=overlay if written else None,
                       binary=programs[name]) as shown:
            if fill:
                fio(shown.path, shown.offset, span, rw="write", bs="1M", direct=True)
                sync()
            elif written:
                touch_memory(bench.dir, span)
            pids = shown.daemons()
            before = sum(map(cpu_seconds, pids))
            bandwidth, iops = fio(shown.path, shown.offset, span, **args)
            cpu = sum(map(cpu_seconds, pids)) - before
        size = os.stat(overlay).st_blocks * 512 if written else 0
        if written:
            os.unlink(overlay)
        requests = args.get("total", span) / (4096 if args["bs"] == "4k" else MIB)
        return iops, cpu / requests * 1e6, size

    for row, fill, args, written in [(r, False, a, False) for r, a in READS] + [
            (r, f, a, True) for r, f, a in WRITES]:
        if not bench.wants(row):
            continue
        bench.say(f"tuning: {row}")
        results = bench.compare(names, lambda name: once(name, row, written, fill, args))
        for name in names:
            iops, cpu, size = (median([r[i] for r in results[name]]) for i in range(3))
            speed = ratio({n: [r[0] for r in results[n]] for n in names}, name, "this")
            table.append([f"{row}: {name}", f"{iops:,.0f}", f"{speed:.2f}", f"{cpu:.1f}",
                          f"{size / MIB:.0f} MiB" if written else "-"])
    bench.table("Builds against each other",
                ["", "requests/s", "ratio to this", "daemon's CPU, µs per request", "overlay"],
                table)
