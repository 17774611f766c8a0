"""Time to the first kernel line and to `login:`: disk.raw, QEMU's own -kernel, the copied disk.

The same kernel, initrd and command line for all. "copied" is the way that people go without
synthdisk: a new file with a partition table, dd, mkswap, a loop device, grub-install.
"""
import json
import os
import select
import subprocess
import tempfile
import time

from common import MIB, Missing, median, sh
from contestants import Synthdisk

MARKS = (b"Linux version", b"login:")
LIMIT = 300


def boot(accel, drives, extra=(), limit=LIMIT, marks=MARKS):
    """Seconds from starting QEMU until each mark was on the serial console, and its CPU time
    until the first one."""
    args = ["qemu-system-x86_64", "-machine", f"pc,accel={accel}", "-m", "1024", "-display", "none",
            "-no-reboot", "-serial", "stdio", "-monitor", "none", "-nic", "none", *drives, *extra]
    start = time.perf_counter()
    qemu = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)
    seen, times, cpu = b"", [], None
    try:
        while len(times) < len(marks):
            left = limit - (time.perf_counter() - start)
            if left <= 0 or not select.select([qemu.stdout], [], [], left)[0]:
                raise RuntimeError(f"no {marks[len(times)]} within {limit} s:\n"
                                   + seen[-800:].decode(errors="replace"))
            data = os.read(qemu.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError("QEMU ended:\n" + seen[-800:].decode(errors="replace"))
            seen += data
            while len(times) < len(marks) and marks[len(times)] in seen:
                times.append(time.perf_counter() - start)
                if cpu is None:
                    with open(f"/proc/{qemu.pid}/stat") as f:
                        fields = f.read().rpartition(")")[2].split()
                    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    finally:
        qemu.kill()
        qemu.wait()
    return times + [cpu]


def drive(path, extra=""):
    """As `synthdisk run` and the line that `mount` prints have it."""
    return ["-drive", f"if=virtio,format=raw,cache=none,aio=threads,file={path}{extra}"]


def take_out(bench, shown, name):
    """Kernel and initrd as files, for -kernel and for the copied disk's menu."""
    regions = json.loads(sh(bench.synthdisk, "map", "--json", shown.image))["regions"]
    paths = []
    for kind in ("kernel", "initrd"):
        path = bench.path(f"{name}-{kind}")
        with open(shown.path, "rb") as disk, open(path, "wb") as out:
            for region in regions:
                if region["kind"] == kind:
                    disk.seek(region["start"])
                    out.write(disk.read(region["length"] if "length" in region else region["len"]))
        paths.append(path)
    cmdline = next(l for l in shown.summary.splitlines() if l.startswith("cmdline:"))
    return *paths, cmdline.partition(":")[2].strip()


def copy(image, disk, kernel, initrd, cmdline):
    """Make a bootable disk by copying; returns the seconds it took."""
    start = time.perf_counter()
    size = os.path.getsize(image)
    root, swap = MIB, 512 * MIB
    with open(disk, "wb") as f:
        f.truncate(root + size + swap)
    sectors = lambda n: n // 512
    table = (f"label: dos\nstart={sectors(root)}, size={sectors(size)}, type=83, bootable\n"
             f"start={sectors(root + size)}, size={sectors(swap)}, type=82\n")
    sh("sfdisk", "-q", disk, input=table)
    sh("dd", f"if={image}", f"of={disk}", "bs=4M", "oflag=seek_bytes", f"seek={root}",
       "conv=notrunc,sparse")
    loop = sh("losetup", "-f", "--show", disk).strip()
    mounted = None
    try:
        sh("partx", "-u", loop)
        sh("mkswap", loop + "p2")
        mounted = tempfile.mkdtemp(prefix="copy-", dir=os.path.dirname(disk))
        sh("mount", loop + "p1", mounted)
        grub = os.path.join(mounted, "boot", "grub")
        os.makedirs(grub, exist_ok=True)
        for path, name in ((kernel, "bench-vmlinuz"), (initrd, "bench-initrd")):
            # The guest has them too, but where is for its menu to say.
            sh("cp", path, os.path.join(mounted, "boot", name))
        with open(os.path.join(grub, "grub.cfg"), "w") as f:
            f.write("set timeout=0\nmenuentry bench {\n"
                    f"linux /boot/bench-vmlinuz {cmdline}\ninitrd /boot/bench-initrd\n}}\n")
        sh("grub-install", "--target=i386-pc", "--boot-directory", os.path.join(mounted, "boot"),
           loop)
    finally:
        if mounted:
            subprocess.run(["umount", mounted])
            os.rmdir(mounted)
        sh("partx", "-d", loop)
        sh("losetup", "-d", loop)
    return time.perf_counter() - start


def pick_accel(bench, kernel_args):
    """KVM where a guest prints a line with it, else TCG."""
    if bench.options.accel:
        return bench.options.accel
    if os.access("/dev/kvm", os.W_OK):
        try:
            boot("kvm", *kernel_args, limit=15, marks=MARKS[:1])
            return "kvm"
        except RuntimeError:
            bench.say("boot: no guest prints a line under KVM here; taking TCG")
    return "tcg"


def one_guest(bench, name, image, append):
    bench.say(f"boot: {name}")
    # Each contestant waits equally for devices that the guest's fstab names and KVM has not.
    arguments = ["--append", append] if append else []
    with Synthdisk(bench, image, boot=True, arguments=arguments) as shown:
        kernel, initrd, cmdline = take_out(bench, shown, name)
    disk = bench.path(f"{name}-copied.raw")
    contestants = {
        "disk.raw": None,
        "-kernel": (drive(image, ",snapshot=on"),
                    ["-kernel", kernel, "-initrd", initrd, "-append", cmdline]),
    }
    copied = []
    try:
        copied.append(copy(image, disk, kernel, initrd, cmdline))
        contestants["copied, GRUB"] = (drive(disk, ",snapshot=on"), [])
    except (Missing, RuntimeError, PermissionError) as e:
        bench.say(f"boot: no copied disk: {e}")

    def measure(which):
        if which == "disk.raw":
            with Synthdisk(bench, image, boot=True, arguments=arguments) as shown:
                return boot(accel, drive(shown.path))
        return boot(accel, *contestants[which])

    accel = pick_accel(bench, contestants["-kernel"])
    bench.options.accel = accel
    try:
        results = bench.compare(list(contestants), measure)
    finally:
        if os.path.exists(disk):
            os.unlink(disk)
    table = []
    for which, runs in results.items():
        first, login, cpu = ([r[i] for r in runs] for i in range(3))
        row = [f"{name}, {which}"]
        for i, values in enumerate((first, login)):
            row.append(f"{median(values):.2f} s")
            row.append(f"{min(values):.2f} s")
            ours = [r[i] for r in results["disk.raw"]]
            row.append(f"{median([o / v for o, v in zip(ours, values)]):.2f}")
        row.append(f"{median(cpu):.2f} s")
        row.append(f"{copied[0]:.1f} s" if which.startswith("copied") else "-")
        table.append(row)
    return table


def run(bench):
    table = []
    if bench.options.guest in ("mini", "both"):
        table += one_guest(bench, "mini", bench.mini_guest("256M"), "")
    if bench.options.guest in ("domu", "both"):
        directory = bench.script("make-domu")
        table += one_guest(bench, "domU", os.path.join(directory, "disk.img"),
                           "systemd.default_device_timeout_sec=5")
    bench.table(
        f"Boot under {bench.options.accel}",
        ["", "first kernel line", "least", "disk.raw takes", "`login:`", "least",
         "disk.raw takes", "QEMU's CPU time to the first line", "making the disk"],
        table,
        ["\"disk.raw takes\" is its time over that row's; below 1 it is faster."])
