/* A file system that fails: loaded before libc (LD_PRELOAD), it lets chosen calls on paths below one folder fail.
 *
 * Nothing fails until arm_faults is called, which benchmarks/faults.py does in a forked child. A write that fails first
 * takes half of the bytes, as a disk does that becomes full, and fails at the next call. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, TRUNCATE, SYNC, CLOSE, RENAME, MKDIR, UNLINK, CALLS };

struct counts { long seen[CALLS], failed; char path[1024]; }; /* shared with the parent */

static struct counts *counts;
static char folder[PATH_MAX];
static int chosen = -1, error_number, lasting, half_written;
static long nth;

/* Let the n-th call (from 1; 0: none) of this kind below `below` fail, once or from then on. */
void arm_faults(const char *below, int call, long n, int error, int stays, struct counts *shared) {
    snprintf(folder, sizeof folder, "%s", below);
    nth = n, error_number = error, lasting = stays, counts = shared, chosen = call;
}

static int is_below(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

/* Whether this call is to fail; it is counted. */
static int fails(int call, const char *path) {
    if (!counts || !is_below(path)) return 0;
    long number = __sync_add_and_fetch(&counts->seen[call], 1);
    if (call != chosen || !nth || number < nth || (number > nth && !lasting)) return 0;
    if (!__sync_fetch_and_add(&counts->failed, 1)) snprintf(counts->path, sizeof counts->path, "%s", path);
    errno = error_number;
    return 1;
}

static int path_fails(int call, int at, const char *path) {
    char full[2 * PATH_MAX], base[PATH_MAX], link[64];
    if (!counts || !path) return 0;
    if (path[0] == '/') return fails(call, path);
    if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
    snprintf(full, sizeof full, "%s/%s", base, path);
    return fails(call, full);
}

static int file_fails(int call, int file) {
    char link[64], path[PATH_MAX];
    if (!counts) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    int before = errno;
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name, result, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* A full disk refuses new files alone. */
static int open_fails(int at, const char *path, int flags) {
    return (error_number != ENOSPC || flags & O_CREAT) && path_fails(OPEN, at, path);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(#name, int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return open_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
    }
#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(#name, int, int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return open_fails(at, path, flags) ? -1 : real(at, path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

/* The bytes that a failing write takes before it fails, or -1 where it fails now. */
static ssize_t half_of(size_t count) {
    if (count < 2 || half_written) return -1;
    half_written = 1;
    if (!lasting) nth++; /* the next one fails, too */
    return count / 2;
}

ssize_t write(int file, const void *bytes, size_t count) {
    REAL("write", ssize_t, int, const void *, size_t);
    ssize_t taken = count;
    if (file_fails(WRITE, file) && (taken = half_of(count)) < 0) return -1;
    return real(file, bytes, taken);
}

#define WRITES_AT(name) \
    ssize_t name(int file, const void *bytes, size_t count, off_t place) { \
        REAL(#name, ssize_t, int, const void *, size_t, off_t); \
        ssize_t taken = count; \
        if (file_fails(WRITE, file) && (taken = half_of(count)) < 0) return -1; \
        return real(file, bytes, taken, place); \
    }
WRITES_AT(pwrite)
WRITES_AT(pwrite64)

ssize_t read(int file, void *bytes, size_t count) {
    REAL("read", ssize_t, int, void *, size_t);
    return file_fails(READ, file) ? -1 : real(file, bytes, count);
}

#define ON_FILE(name, call) \
    int name(int file) { \
        REAL(#name, int, int); \
        return file_fails(call, file) ? -1 : real(file); \
    }
ON_FILE(fsync, SYNC)
ON_FILE(fdatasync, SYNC)

int close(int file) { /* a close that fails has closed */
    REAL("close", int, int);
    int failed = file_fails(CLOSE, file), result = real(file);
    if (failed) errno = error_number;
    return failed ? -1 : result;
}

#define TRUNCATES(name) \
    int name(int file, off_t length) { \
        REAL(#name, int, int, off_t); \
        return file_fails(TRUNCATE, file) ? -1 : real(file, length); \
    }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

int rename(const char *from, const char *to) {
    REAL("rename", int, const char *, const char *);
    return path_fails(RENAME, AT_FDCWD, to) ? -1 : real(from, to);
}

int renameat(int at, const char *from, int into, const char *to) {
    REAL("renameat", int, int, const char *, int, const char *);
    return path_fails(RENAME, into, to) ? -1 : real(at, from, into, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", int, const char *, mode_t);
    return path_fails(MKDIR, AT_FDCWD, path) ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL("unlink", int, const char *);
    return path_fails(UNLINK, AT_FDCWD, path) ? -1 : real(path);
}
