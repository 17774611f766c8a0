"""What all sections share: running programs, images, tables."""
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
GIB = 1 << 30


class Missing(Exception):
    """A program that is not installed."""


def sh(*args, **kwargs):
    """Run a program; its output is kept, and shown when it fails."""
    try:
        done = subprocess.run(
            [str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
        )
    except FileNotFoundError:
        raise Missing(f"{args[0]} is not installed; scripts/setup --bench installs it") from None
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
    return done.stdout


def version(*args):
    try:
        return sh(*args).splitlines()[0]
    except (Missing, RuntimeError):
        return f"{args[0]}: not there"


def median(values):
    return statistics.median(values)


class Bench:
    """Options, images, and where the results go."""

    def __init__(self, options):
        self.options = options
        self.dir = options.dir
        self.rounds = options.rounds
        self.seconds = options.seconds
        if options.synthdisk:
            self.synthdisk = os.path.abspath(options.synthdisk)
        else:
            print("building synthdisk", file=sys.stderr)
            subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=options.root, check=True)
            target = json.loads(sh("cargo", "metadata", "--format-version=1", "--no-deps",
                                   cwd=options.root))["target_directory"]
            self.synthdisk = os.path.join(target, "release", "synthdisk")
        self.temporary = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for path in self.temporary:
            shutil.rmtree(path, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def script(self, name, *args):
        return sh(os.path.join(self.options.root, "scripts", name), *args).strip()

    def others(self):
        """Name and program of the other builds that `--also` gives."""
        return [item.split("=", 1) for item in self.options.also]

    def wants(self, row):
        return self.options.rows.lower() in row.lower()

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    # ---- images ------------------------------------------------------------------------------

    def data_image(self, size):
        """An image of data that no filesystem can store smaller; kept between runs."""
        path = self.path(f"data-{size // MIB}M.img")
        if not os.path.exists(path) or os.path.getsize(path) != size:
            self.say(f"making {path}")
            with open(path + ".new", "wb") as f:
                for _ in range(size // (4 * MIB)):
                    f.write(os.urandom(4 * MIB))
            sync()
            os.rename(path + ".new", path)
        warm(path)
        return path

    def mini_guest(self, size):
        path = self.path(f"mini-{size}.img")
        if not os.path.exists(path):
            self.say(f"making {path}")
            self.script("make-mini-guest", path, "--size", size)
        return path

    def huge_guest(self, size):
        """The mini guest's files in a sparse filesystem of `size`, most of which was never used."""
        path = self.path(f"mini-{size}.img")
        if not os.path.exists(path):
            self.say(f"making {path}")
            tree = path + ".tree"
            shutil.rmtree(tree, ignore_errors=True)
            os.mkdir(tree)
            sh("debugfs", "-R", f"rdump / {tree}", self.mini_guest("2G"))
            sh("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-N", "65536", "-d", tree,
               "-E", "lazy_itable_init=1,lazy_journal_init=1", path + ".new", size)
            shutil.rmtree(tree)
            os.rename(path + ".new", path)
        return path

    # ---- output ------------------------------------------------------------------------------

    def print_machine(self):
        with open("/proc/cpuinfo") as f:
            model = next((l.split(":")[1].strip() for l in f if l.startswith("model name")), "?")
        load = os.getloadavg()[0]
        lines = [
            f"{os.cpu_count()} x {model}, Linux {platform.release()}, load {load:.1f} at the start",
            version("qemu-storage-daemon", "--version"),
            version("nbdkit", "--version"),
            version("fio", "--version"),
            f"{self.rounds} rounds",
        ]
        print("; ".join(lines) + "\n", flush=True)

    def table(self, title, columns, rows, notes=()):
        """`rows` are lists of strings, the first one a name."""
        if self.options.markdown:
            print(f"### {title}\n")
            print("| " + " | ".join(columns) + " |")
            print("|" + "|".join(["---"] + ["---:"] * (len(columns) - 1)) + "|")
            for row in rows:
                print("| " + " | ".join(row) + " |")
        else:
            widths = [max(len(r[i]) for r in [columns] + rows) for i in range(len(columns))]
            print(title)
            for row in [columns] + rows:
                cells = [row[0].ljust(widths[0])]
                cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
                print("  " + "  ".join(cells).rstrip())
        print()
        for note in notes:
            print(note + "\n")
        sys.stdout.flush()

    def compare(self, names, measure):
        """Let the contestants take turns; returns {name: [value per round]}."""
        results = {name: [] for name in names}
        for turn in range(self.rounds):
            # Whoever goes first may have it harder or easier, so the order rotates.
            order = names[turn % len(names):] + names[:turn % len(names)]
            for name in order:
                results[name].append(measure(name))
        return results


def ratio(results, ours, peer, higher_is_better=True):
    """How many times better `ours` is: the median over the rounds."""
    pairs = zip(results[ours], results[peer])
    return median([a / b if higher_is_better else b / a for a, b in pairs])


def sync():
    os.sync()


def touch_memory(directory, size):
    """Leave at least `size` bytes of free memory, in pieces of all sizes, that really exist.

    In a virtual machine free memory may be the host's until it is touched, at many times the cost
    of the write that needs it; who is measured must not pay for that, or one pays for the other.
    So write files as the contestants do (aligned, shifted, in small pieces) and remove them.
    """
    paths = []
    for first, piece in ((0, MIB), (320 << 10, MIB), (0, 4096)):
        path = os.path.join(directory, f"touch-{first}-{piece}")
        paths.append(path)
        data = b"x" * piece
        with open(path, "wb", buffering=0) as f:
            for at in range(first, first + size, piece):
                os.pwrite(f.fileno(), data, at)
    for path in paths:
        os.unlink(path)


def warm(path):
    """Bring a file into the page cache."""
    with open(path, "rb", buffering=0) as f:
        while f.read(8 * MIB):
            pass


def wait_for(condition, seconds=20, what="it"):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not become ready")
        time.sleep(0.01)
