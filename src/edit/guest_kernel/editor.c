/* The first program of a throwaway machine in which a guest's own kernel edits the guest's root filesystem.
 *
 * It is the init of an initrd, and needs nothing but the kernel. It reads what is to be done from the second
 * disk, mounts the first one, makes the edits, unmounts it, writes to the second disk what became of each edit,
 * and restarts the machine, which ends it. Nothing of the guest is executed.
 *
 * The filesystem is a guest's. No path is followed through a symlink: each directory is opened on its own.
 *
 * The second disk has a job at first (../guest_kernel.rs writes it), and the results at the end (the same file
 * reads them). Numbers have 32 bits, little-endian. A text has its length before it and a NUL after it.
 *   job:     "SYNDJOB1", 32 secret bytes, number of tasks, length of the job, type of the filesystem, options;
 *            per task: what, group, mode, uid, gid, path, old content or content or target, new content
 *   results: "SYNDRES1", the secret bytes, how far it came, error number, number of tasks;
 *            per task: what became of it, error number
 *
 * Sources: mount(2), path_resolution(7); system_calls.h.
 */

#include "system_calls.h"

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_EXCL = 0200, O_NONBLOCK = 04000,
       O_NOATIME = 01000000 };
enum { AT_SYMLINK_NOFOLLOW = 0x100, AT_REMOVEDIR = 0x200 };
enum { MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_NOATIME = 1024 };
enum { S_IFMT = 0170000, S_IFDIR = 0040000, S_IFREG = 0100000 };
enum { ENOENT = 2, EIO = 5, ENOMEM = 12, EEXIST = 17, EISDIR = 21, EINVAL = 22, EROFS = 30,
       ENAMETOOLONG = 36, ENOSYS = 38 };
enum { ST_RDONLY = 1 };

/* The compiler may call these. */

void *memcpy(void *to, const void *from, word len) {
    for (word i = 0; i < len; i++) ((u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}

void *memset(void *to, int byte, word len) {
    for (word i = 0; i < len; i++) ((u8 *)to)[i] = (u8)byte;
    return to;
}

static int equal(const u8 *a, const u8 *b, word len) {
    for (word i = 0; i < len; i++)
        if (a[i] != b[i]) return 0;
    return 1;
}

/* The job. */

enum { REWRITE, CREATE, MAKE_DIR, SYMLINK, REMOVE };
enum { NOT_TRIED, DONE, FAILED, DIFFERS, NO_FILE, GIVEN_UP, NOT_UNDONE };
/* How far it came. */
enum { NO_JOB = 1, NO_DISK, NOT_MOUNTED, NOT_STORED, NOT_UNMOUNTED, FINISHED };
enum { PAGE = 4096, NAME = 256, HEAD = 8 + 32 };

struct task {
    u32 what, group, mode, uid, gid;
    const char *path;
    const u8 *content, *new;
    u32 content_len, new_len;
    u32 became, error;
    char aside[32]; /* where a removed file is until all of its group is done */
};

static u8 *job, *job_end, *cursor;
static struct task *tasks;
static u32 task_count;
static int job_disk = -1, root = -1;
static u8 buffer[PAGE];

static void *allocate(word len) {
    static word top;
    if (!top) top = (word)call(BRK, 0, 0, 0, 0);
    word start = (top + 15) & ~(word)15, end = start + len;
    if (end < start || (word)call(BRK, end, 0, 0, 0) < end) return 0;
    top = end;
    return (void *)start;
}

static void end_machine(void) {
    for (;;) {
        call(REBOOT, 0xfee1dead, 672274793, 0x01234567, 0);
        word tenth[2] = {0, 100000000};
        call(NANOSLEEP, tenth, 0, 0, 0);
    }
}

static void put(u8 *to, u32 number) {
    for (int i = 0; i < 4; i++) to[i] = (u8)(number >> 8 * i);
}

static long write_all(int fd, const u8 *bytes, word len) {
    while (len) {
        long n = call(WRITE, fd, bytes, len, 0);
        if (n < 0) return n;
        if (!n) return -EIO;
        bytes += n;
        len -= (word)n;
    }
    return 0;
}

/* Write the results, and end the machine. */
static void report(u32 how_far, long error) {
    if (job_disk >= 0 && job) {
        u8 *at = buffer, *end = buffer + PAGE;
        call(LSEEK, job_disk, PAGE, 0, 0);
        /* The first page has the name of what follows, so it is written last. */
        memset(buffer, 0, PAGE);
        u32 in_first = (PAGE - HEAD - 12) / 8, i = in_first;
        for (at = buffer; i < task_count; i++) {
            put(at, tasks[i].became);
            put(at + 4, tasks[i].error);
            at += 8;
            if (at == end || i + 1 == task_count) {
                write_all(job_disk, buffer, PAGE);
                memset(buffer, 0, PAGE);
                at = buffer;
            }
        }
        call(FSYNC, job_disk, 0, 0, 0);
        memcpy(buffer, "SYNDRES1", 8);
        memcpy(buffer + 8, job + 8, 32);
        put(buffer + HEAD, how_far);
        put(buffer + HEAD + 4, (u32)-error);
        put(buffer + HEAD + 8, task_count);
        for (i = 0, at = buffer + HEAD + 12; i < task_count && i < in_first; i++, at += 8) {
            put(at, tasks[i].became);
            put(at + 4, tasks[i].error);
        }
        call(LSEEK, job_disk, 0, 0, 0);
        write_all(job_disk, buffer, PAGE);
        call(FSYNC, job_disk, 0, 0, 0);
    }
    end_machine();
}

static u32 number(void) {
    if (job_end - cursor < 4) report(NO_JOB, -EINVAL);
    u32 value = cursor[0] | cursor[1] << 8 | cursor[2] << 16 | (u32)cursor[3] << 24;
    cursor += 4;
    return value;
}

static const u8 *text(u32 *len) {
    *len = number();
    if ((word)(job_end - cursor) < (word)*len + 1) report(NO_JOB, -EINVAL);
    const u8 *start = cursor;
    cursor += *len + 1;
    return start;
}

/* Open the disk of that name, once it is there. */
static int disk(const char *path) {
    for (int tries = 0; tries < 3000; tries++) {
        long fd = call(OPENAT, -100, path, O_RDWR, 0);
        if (fd >= 0) return (int)fd;
        word hundredth[2] = {0, 10000000};
        call(NANOSLEEP, hundredth, 0, 0, 0);
    }
    return -1;
}

static int read_job(void) {
    job_disk = disk("/synthdisk/dev/vdb");
    if (job_disk < 0) return 0;
    if (call(READ, job_disk, buffer, PAGE, 0) != PAGE || !equal(buffer, (const u8 *)"SYNDJOB1", 8)) return 0;
    cursor = buffer + HEAD;
    job_end = buffer + PAGE;
    task_count = number();
    u32 len = number();
    u8 *bytes = len < 1u << 30 ? allocate((len + PAGE - 1) / PAGE * PAGE) : 0;
    tasks = task_count < 1u << 20 ? allocate(task_count * sizeof *tasks) : 0;
    if (!bytes || !tasks) return 0;
    call(LSEEK, job_disk, 0, 0, 0);
    for (u32 at = 0; at < len;) {
        long n = call(READ, job_disk, bytes + at, (len + PAGE - 1) / PAGE * PAGE - at, 0);
        if (n <= 0) return 0;
        at += (u32)n;
    }
    job = bytes;
    cursor = job + HEAD + 8;
    job_end = job + len;
    return 1;
}

/* Edits. Functions that return a long return an error as system calls do. */

/* The directory of the absolute path, opened; `name` becomes its last part. */
static long parent(const char *path, const char **name) {
    long dir = call(OPENAT, root, ".", O_RDONLY | O_DIRECTORY, 0);
    for (;;) {
        while (*path == '/') path++;
        char part[NAME];
        u32 len = 0;
        for (; path[len] && path[len] != '/'; len++) {
            if (len + 1 == NAME) {
                call(CLOSE, dir, 0, 0, 0);
                return -ENAMETOOLONG;
            }
            part[len] = path[len];
        }
        part[len] = 0;
        int dots = part[0] == '.' && (!part[1] || (part[1] == '.' && !part[2]));
        if (dir >= 0 && (!len || dots)) {
            call(CLOSE, dir, 0, 0, 0);
            return -EINVAL;
        }
        if (dir < 0 || !path[len]) {
            *name = path;
            return dir;
        }
        long below = call(OPENAT, dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
        call(CLOSE, dir, 0, 0, 0);
        dir = below;
        path += len;
    }
}

/* Give a new file the SELinux label of its directory, as Linux does by default in a guest with labels. */
static long label(int dir, const char *name) {
    static char value[1024];
    long len = call(FGETXATTR, dir, "security.selinux", value, sizeof value);
    if (len <= 0) return 0;
    call(FCHDIR, dir, 0, 0, 0);
    long error = call5(LSETXATTR, (word)name, (word) "security.selinux", (word)value, (word)len, 0);
    call(CHDIR, "/", 0, 0, 0);
    return error;
}

static long set_access(int fd, const struct task *task) {
    /* Changing the owner clears bits of the mode. */
    long error = call(FCHOWN, fd, task->uid, task->gid, 0);
    return error ? error : call(FCHMOD, fd, task->mode, 0, 0);
}

/* Whether the file holds exactly these bytes. */
static int holds(int fd, const u8 *bytes, u32 len) {
    call(LSEEK, fd, 0, 0, 0);
    for (;;) {
        long n = call(READ, fd, buffer, PAGE, 0);
        if (n <= 0) return !n && !len;
        if ((word)n > len || !equal(buffer, bytes, (word)n)) return 0;
        bytes += n;
        len -= (u32)n;
    }
}

static long replace(int fd, const u8 *bytes, u32 len) {
    call(LSEEK, fd, 0, 0, 0);
    long error = write_all(fd, bytes, len);
    if (!error) error = call(FTRUNCATE, fd, len, 0, 0);
    /* Errors of storing it are told only here by kernels before 5.8. */
    return error ? error : call(FSYNC, fd, 0, 0, 0);
}

/* Replace `old` by `new`; if that cannot be done, `old` is what the file holds. */
static long rewrite(int dir, const char *name, struct task *task, const u8 *old, u32 old_len, const u8 *new,
                    u32 new_len) {
    struct stat stat;
    /* Opening a pipe must not block. */
    long fd = call(OPENAT, dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOATIME, 0);
    if (fd < 0) return fd;
    long error = call(FSTAT, fd, &stat, 0, 0);
    if (!error && (stat.mode & S_IFMT) != S_IFREG) {
        task->became = NO_FILE;
    } else if (!error && !holds((int)fd, new, new_len)) {
        if (!holds((int)fd, old, old_len)) {
            task->became = DIFFERS;
        } else {
            error = replace((int)fd, new, new_len);
            if (!error) error = call(FCHMOD, fd, stat.mode & 07777, 0, 0);
            if (error && replace((int)fd, old, old_len)) task->became = NOT_UNDONE;
            call(UTIMENSAT, fd, 0, stat.times, 0);
        }
    }
    call(CLOSE, fd, 0, 0, 0);
    return error;
}

static long create(int dir, const char *name, const struct task *task) {
    long fd = call(OPENAT, dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (fd < 0) return fd;
    long error = write_all((int)fd, task->content, task->content_len);
    if (!error) error = set_access((int)fd, task);
    if (!error) error = label(dir, name);
    if (!error) error = call(FSYNC, fd, 0, 0, 0);
    call(CLOSE, fd, 0, 0, 0);
    if (error) call(UNLINKAT, dir, name, 0, 0);
    return error;
}

static long make_dir(int dir, const char *name, const struct task *task) {
    long error = call(MKDIRAT, dir, name, 0700, 0);
    if (error) return error;
    long fd = call(OPENAT, dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    error = fd < 0 ? fd : set_access((int)fd, task);
    if (!error) error = label(dir, name);
    if (fd >= 0) call(CLOSE, fd, 0, 0, 0);
    if (error) call(UNLINKAT, dir, name, AT_REMOVEDIR, 0);
    return error;
}

static long make_symlink(int dir, const char *name, const struct task *task) {
    long error = call(SYMLINKAT, task->content, dir, name, 0);
    if (error) return error;
    error = label(dir, name);
    if (error) call(UNLINKAT, dir, name, 0, 0);
    return error;
}

/* Move the file aside: what replaces it may fail. */
static long move_aside(int dir, const char *name, struct task *task) {
    struct stat stat;
    long error = call(FSTATAT, dir, name, &stat, AT_SYMLINK_NOFOLLOW);
    if (error) return error;
    if ((stat.mode & S_IFMT) == S_IFDIR) return -EISDIR;
    memcpy(task->aside, ".synthdisk-removed-", 20);
    for (u32 n = (u32)(task - tasks), tries = 0; tries < 1000; tries++, n += 1000003) {
        for (int i = 0; i < 8; i++) task->aside[19 + i] = "0123456789abcdef"[n >> 4 * i & 15];
        task->aside[27] = 0;
        if (call(FSTATAT, dir, task->aside, &stat, AT_SYMLINK_NOFOLLOW) == -ENOENT)
            return call(RENAMEAT, dir, name, dir, task->aside);
    }
    return -EEXIST;
}

static long edit(struct task *task) {
    const char *name;
    long dir = parent(task->path, &name), error;
    if (dir < 0) return dir;
    switch (task->what) {
    case REWRITE:
        error = rewrite((int)dir, name, task, task->content, task->content_len, task->new, task->new_len);
        break;
    case CREATE: error = create((int)dir, name, task); break;
    case MAKE_DIR: error = make_dir((int)dir, name, task); break;
    case SYMLINK: error = make_symlink((int)dir, name, task); break;
    case REMOVE: error = move_aside((int)dir, name, task); break;
    default: error = -EINVAL;
    }
    call(CLOSE, dir, 0, 0, 0);
    return error;
}

/* Take back an edit that was made. */
static long undo(struct task *task) {
    const char *name;
    long dir = parent(task->path, &name), error = -EINVAL;
    if (dir < 0) return dir;
    switch (task->what) {
    case REWRITE:
        error = rewrite((int)dir, name, task, task->new, task->new_len, task->content, task->content_len);
        if (!error && task->became != DONE) error = -EIO;
        break;
    case CREATE:
    case SYMLINK: error = call(UNLINKAT, dir, name, 0, 0); break;
    case MAKE_DIR: error = call(UNLINKAT, dir, name, AT_REMOVEDIR, 0); break;
    case REMOVE: error = call(RENAMEAT, dir, task->aside, dir, name); break;
    }
    call(CLOSE, dir, 0, 0, 0);
    return error;
}

/* Whether an edit of that group has failed. */
static int has_failed(u32 group, u32 before) {
    for (u32 i = 0; i < before; i++)
        if (tasks[i].group == group && tasks[i].became != DONE) return 1;
    return 0;
}

/* Take back the first `count` edits as far as they belong to that group and were made. */
static void take_back(u32 group, u32 count) {
    for (u32 i = count; i-- > 0;) {
        if (tasks[i].group != group || tasks[i].became != DONE) continue;
        long error = undo(&tasks[i]);
        tasks[i].became = error ? NOT_UNDONE : GIVEN_UP;
        tasks[i].error = (u32)-error;
    }
}

/* Make the edits in their order. Those of one group are all made, or none of them. */
static void edit_all(void) {
    for (u32 i = 0; i < task_count; i++) {
        struct task *task = &tasks[i];
        if (has_failed(task->group, i)) {
            task->became = GIVEN_UP;
            continue;
        }
        long error = edit(task);
        if (error && task->became == NOT_TRIED) task->became = FAILED;
        if (error) task->error = (u32)-error;
        if (task->became == NOT_TRIED) {
            task->became = DONE;
            continue;
        }
        take_back(task->group, i);
    }
    for (u32 i = 0; i < task_count; i++) {
        struct task *task = &tasks[i];
        const char *name;
        if (task->what != REMOVE || task->became != DONE) continue;
        long dir = parent(task->path, &name);
        long error = dir < 0 ? dir : call(UNLINKAT, dir, task->aside, 0, 0);
        if (dir >= 0) call(CLOSE, dir, 0, 0, 0);
        if (!error) continue;
        take_back(task->group, task_count);
        if (task->became != GIVEN_UP) continue;
        task->became = FAILED;
        task->error = (u32)-error;
    }
}

void run(void) {
    call5(MOUNT, (word) "devtmpfs", (word) "/synthdisk/dev", (word) "devtmpfs", 0, 0);
    if (!read_job()) end_machine();
    u32 len;
    const u8 *type = text(&len), *options = text(&len);
    for (u32 i = 0; i < task_count; i++) {
        struct task *task = &tasks[i];
        memset(task, 0, sizeof *task);
        task->what = number();
        task->group = number();
        task->mode = number();
        task->uid = number();
        task->gid = number();
        task->path = (const char *)text(&len);
        task->content = text(&task->content_len);
        task->new = text(&task->new_len);
    }
    int fd = disk("/synthdisk/dev/vda");
    if (fd < 0) report(NO_DISK, -ENOENT);
    call(CLOSE, fd, 0, 0, 0);
    long error = call5(MOUNT, (word) "/synthdisk/dev/vda", (word) "/synthdisk/root", (word)type,
                       MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME, (word)options);
    if (error) report(NOT_MOUNTED, error);
    root = (int)call(OPENAT, -100, "/synthdisk/root", O_RDONLY | O_DIRECTORY, 0);
    if (root < 0) report(NOT_MOUNTED, root);
    edit_all();
    /* Kernels before 5.8 do not return the errors of writing here, and before 2.6.39 have no syncfs. */
    error = call(SYNCFS, root, 0, 0, 0);
    if (error == -ENOSYS) error = 0;
    call(SYNC, 0, 0, 0, 0);
    /* What a filesystem cannot store may make it read-only. */
    struct statfs found;
    long asked = statfs_of(root, &found);
    if (!error) error = asked ? asked : found.flags & ST_RDONLY ? -EROFS : 0;
    call(CLOSE, root, 0, 0, 0);
    long unmounted = call(UMOUNT, "/synthdisk/root", 0, 0, 0);
    if (error) report(NOT_STORED, error);
    report(unmounted ? NOT_UNMOUNTED : FINISHED, unmounted);
}
