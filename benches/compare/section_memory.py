"""What the programs that serve keep in memory after the whole disk was read."""
import threading

from common import GIB, MIB
from contestants import Nbdkit, StorageDaemon, Synthdisk

CONTESTANTS = {"synthdisk": Synthdisk, "qemu-storage-daemon": StorageDaemon, "nbdkit": Nbdkit}
FIELDS = ["RssAnon", "VmPTE"]


def usage(pids):
    """Bytes of each field, over all processes."""
    total = dict.fromkeys(FIELDS, 0)
    for pid in pids:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                name, _, value = line.partition(":")
                if name in total:
                    total[name] += int(value.split()[0]) << 10
    return total


def run(bench):
    size = GIB // 2 if bench.options.quick else 6 * GIB
    image = bench.data_image(size)
    table = []
    for name, kind in CONTESTANTS.items():
        bench.say(f"memory: {name}")
        options = dict(arguments=["--swap", "1G"]) if kind is Synthdisk else {}
        with kind(bench, image, **options) as shown:
            pids = shown.daemons()
            before = usage(pids)
            peak = dict(before)
            done = threading.Event()

            def watch():
                while not done.wait(0.02):
                    for field, value in usage(pids).items():
                        peak[field] = max(peak[field], value)

            watcher = threading.Thread(target=watch)
            watcher.start()
            with open(shown.path, "rb", buffering=0) as f:
                while f.read(4 * MIB):
                    pass
            done.set()
            watcher.join()
            after = usage(pids)
        mib = lambda value: f"{value / MIB:.1f} MiB"
        table.append([name, mib(before["RssAnon"]), mib(after["RssAnon"]), mib(peak["RssAnon"]),
                      mib(after["VmPTE"]), mib(peak["VmPTE"])])
    bench.table(f"Memory after reading {size / GIB:g} GiB of data",
                ["", "own memory (RssAnon) before", "after", "peak",
                 "page tables (VmPTE) after", "peak"], table)
