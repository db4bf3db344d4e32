/*
 * Makes a chosen disk fail or dawdle: preloaded into a process, it stands before the calls that
 * write and sync, for files below one directory, as a shared file of rules says at the moment.
 *
 * The rules are in shim.py; both sides agree on `struct control` by its size, checked there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FOR_EVER UINT32_MAX

struct rule {
    uint32_t times;    /* calls that it still concerns; 0: none, FOR_EVER: all */
    uint32_t skip;     /* calls that pass before */
    uint32_t error;    /* errno to fail with; 0: the call is carried out */
    uint32_t delay_us; /* to wait before */
    uint32_t halve;    /* so many writes are cut short instead, first of all */
    uint32_t seen;     /* calls that matched while the rule was on */
    uint32_t failed;   /* calls that were failed or cut short */
    uint32_t unused;
    uint64_t first_ns; /* CLOCK_MONOTONIC of the first of these */
};

struct control {
    char directory[1024]; /* with a slash at its end */
    char suffix[64];      /* of the files meant; empty: all */
    struct rule rules[2]; /* of writes, of syncs */
};

enum { WRITE, SYNC };

static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("RAFTKV_SHIM");
    if (!path)
        return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        abort(); /* a trial without its faults would prove nothing */
    void *memory =
        mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (memory == MAP_FAILED)
        abort();
    control = memory;
}

static int concerns(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (strncmp(path, control->directory, strlen(control->directory)))
        return 0;
    const char *name = strrchr(path, '/') + 1;
    if (!strncmp(name, "LOG", 3) || !strcmp(name, "LOCK"))
        return 0; /* RocksDB's diary is no data: it ignores failures there, and so do we */
    size_t suffix = strlen(control->suffix), whole = strlen(name);
    return suffix <= whole && !strcmp(name + whole - suffix, control->suffix);
}

/* One less, unless there is none left: whether there was one. */
static int take(uint32_t *counter) {
    uint32_t left = __atomic_load_n(counter, __ATOMIC_ACQUIRE);
    while (left && left != FOR_EVER)
        if (__atomic_compare_exchange_n(counter, &left, left - 1, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            return 1;
    return left == FOR_EVER;
}

/* 0: go on; -1: fail, errno is set; 1: write half. */
static int verdict(int kind, int descriptor) {
    if (!control)
        return 0;
    struct rule *rule = &control->rules[kind];
    if (!__atomic_load_n(&rule->times, __ATOMIC_ACQUIRE))
        return 0;
    int before = errno;
    if (!concerns(descriptor)) {
        errno = before;
        return 0;
    }
    __atomic_fetch_add(&rule->seen, 1, __ATOMIC_RELAXED);
    if (take(&rule->skip) || !take(&rule->times))
        return 0;
    if (rule->delay_us) {
        struct timespec pause = {rule->delay_us / 1000000, rule->delay_us % 1000000 * 1000L};
        nanosleep(&pause, NULL);
    }
    errno = before;
    int halved = take(&rule->halve);
    if (!halved && !rule->error)
        return 0;
    if (!__atomic_fetch_add(&rule->failed, 1, __ATOMIC_ACQ_REL)) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        rule->first_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }
    if (halved)
        return 1;
    errno = (int)rule->error;
    return -1;
}

static size_t shortened(int how, size_t size) { return how && size > 1 ? size / 2 : size; }

ssize_t write(int descriptor, const void *data, size_t size) {
    int how = verdict(WRITE, descriptor);
    return how < 0 ? -1 : syscall(SYS_write, descriptor, data, shortened(how, size));
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    int how = verdict(WRITE, descriptor);
    return how < 0 ? -1 : syscall(SYS_pwrite64, descriptor, data, shortened(how, size), offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

/* Vectors are not halved: nobody here writes a single one of them in pieces. */
ssize_t writev(int descriptor, const struct iovec *vector, int count) {
    return verdict(WRITE, descriptor) < 0 ? -1 : syscall(SYS_writev, descriptor, vector, count);
}

ssize_t pwritev64(int descriptor, const struct iovec *vector, int count, off64_t offset) {
    if (verdict(WRITE, descriptor) < 0)
        return -1;
    return syscall(SYS_pwritev, descriptor, vector, count, (long)offset, 0L);
}

ssize_t pwritev(int descriptor, const struct iovec *vector, int count, off_t offset) {
    return pwritev64(descriptor, vector, count, offset);
}

int fsync(int descriptor) {
    return verdict(SYNC, descriptor) < 0 ? -1 : (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor) {
    return verdict(SYNC, descriptor) < 0 ? -1 : (int)syscall(SYS_fdatasync, descriptor);
}

int sync_file_range(int descriptor, off64_t offset, off64_t size, unsigned int flags) {
    if (verdict(SYNC, descriptor) < 0)
        return -1;
    return (int)syscall(SYS_sync_file_range, descriptor, offset, size, flags);
}
