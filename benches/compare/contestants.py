"""The programs that are compared: each shows a file; `offset` is where the image lies in it."""
import glob
import json
import os
import signal
import subprocess
import tempfile

from common import sh, wait_for

# Where synthdisk and nbdkit put the image without a boot loader.
PARTITION = 1 << 20


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


class Contestant:
    """A running program; a context manager. `path` is the file it shows."""

    offset = 0
    process = None

    def __init__(self, bench, image, **options):
        self.bench = bench
        self.image = image
        self.options = options
        self.place = tempfile.mkdtemp(prefix="mnt-", dir=bench.dir)
        self.path = None
        self.log = open(os.path.join(bench.dir, "contestants.log"), "ab")

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            if self.process is not None:
                self.process.terminate()
                try:
                    self.process.wait(20)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            self.log.close()
            for path in glob.glob(self.place + "/*"):
                os.unlink(path)
            os.rmdir(self.place)

    def spawn(self, *args):
        self.process = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def stop(self):
        pass

    def daemons(self):
        """Process ids of all that serves."""
        return [self.process.pid]

    def scratch_files(self):
        return []


class Synthdisk(Contestant):
    """`overlay`: a qcow2 file, or None for the temporary one. `boot`: with the direct loader."""

    def start(self):
        overlay = self.options.get("overlay")
        args = [self.options.get("binary") or self.bench.synthdisk, "mount", "--force"]
        if not self.options.get("boot"):
            args += ["--bootloader", "none"]
            self.offset = PARTITION
        if overlay:
            args += ["--overlay", overlay]
        args += self.options.get("arguments", [])
        environment = dict(os.environ, TMPDIR=self.bench.dir, **self.options.get("environment", {}))
        done = subprocess.run(args + [self.image, self.place], env=environment, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        if done.returncode:
            raise RuntimeError(done.stderr)
        self.summary = done.stderr
        self.path = os.path.join(self.place, "disk.raw")

    def stop(self):
        if self.path:
            # Wait for the daemon, so that it does not disturb the next run.
            pids = self.daemons()
            sh(self.bench.synthdisk, "umount", self.place)
            wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in pids), what="unmount")

    def daemons(self):
        with open(os.path.join(self.place, ".synthdisk.json")) as f:
            keeper = json.load(f)["pid"]
        return [keeper] + children(keeper)


class StorageDaemon(Contestant):
    """`qemu-storage-daemon`'s FUSE export: of the bare image, or of a qcow2 `overlay` over it."""

    def start(self):
        path = os.path.join(self.place, "export")
        open(path, "w").close()
        overlay = self.options.get("overlay")
        args = ["qemu-storage-daemon",
                "--blockdev", f"driver=file,node-name=f0,filename={self.image},read-only=on",
                "--blockdev", "driver=raw,node-name=image,file=f0,read-only=on"]
        node = "image"
        if overlay:
            if not os.path.exists(overlay):
                sh("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.image, overlay)
            args += ["--blockdev", f"driver=file,node-name=f1,filename={overlay},discard=unmap",
                     "--blockdev", "driver=qcow2,node-name=overlay,file=f1,backing=image"]
            node = "overlay"
        args += ["--export", f"type=fuse,id=e,node-name={node},mountpoint={path},"
                             f"writable={'on' if overlay else 'off'}"]
        self.spawn(*args)
        wait_for(lambda: os.path.getsize(path) > 0 or self.process.poll() is not None,
                 what="qemu-storage-daemon")
        if self.process.poll() is not None:
            raise RuntimeError("qemu-storage-daemon ended; see contestants.log")
        self.path = path

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


class Nbdkit(Contestant):
    """`nbdkit partitioning` behind `nbdfuse`."""

    offset = PARTITION

    def start(self):
        path = os.path.join(self.place, "nbd")
        open(path, "w").close()
        self.spawn("nbdfuse", "-r", path, "[", "nbdkit", "--exit-with-parent", "partitioning",
                   self.image, "]")
        wait_for(lambda: os.path.getsize(path) > 0 or self.process.poll() is not None,
                 what="nbdfuse")
        if self.process.poll() is not None:
            raise RuntimeError("nbdfuse ended; see contestants.log")
        self.path = path

    def stop(self):
        if self.path:
            sh("fusermount3", "-u", self.path)
            self.process.wait(20)

    def daemons(self):
        return [self.process.pid] + children(self.process.pid)
