"""Running fio on what a contestant shows."""
import json

from common import sh


def fio(path, offset, span, *, rw, bs, jobs=1, direct=False, seconds=None, total=None, fdatasync=0,
        depth=1, keep_cache=False):
    """One run over `span` bytes from `offset`; returns bytes per second and requests per second.

    `seconds`: for as long as that. `total`: this many bytes of all jobs together. Neither: once
    over everything. Sequential jobs share the span out among themselves.
    """
    args = ["fio", "--name=bench", f"--filename={path}", f"--rw={rw}", f"--bs={bs}",
            f"--numjobs={jobs}", f"--direct={int(direct)}", "--thread", "--group_reporting",
            "--output-format=json", "--allow_file_create=0", "--randrepeat=0",
            f"--invalidate={int(not keep_cache)}"]
    if depth > 1:
        args += ["--ioengine=libaio", f"--iodepth={depth}"]
    else:
        args += ["--ioengine=psync"]
    random = rw.startswith("rand")
    if random:
        args += [f"--offset={offset}", f"--size={span}"]
    else:
        share = span // jobs
        args += [f"--offset={offset}", f"--size={share}", f"--offset_increment={share}"]
    if seconds is not None:
        args += ["--time_based", f"--runtime={seconds}"]
    if total is not None:
        args += [f"--io_size={total // jobs}"]
    if fdatasync:
        args += [f"--fdatasync={fdatasync}"]
    job = json.loads(sh(*args))["jobs"][0]
    if job["error"]:
        raise RuntimeError(f"fio failed on {path}: error {job['error']}")
    side = job["write" if "write" in rw else "read"]
    return side["bw_bytes"], side["iops"]
