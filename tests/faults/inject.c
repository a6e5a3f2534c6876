/* Preloaded into the fault harness: counts the file operations below one folder and makes the n-th one go wrong.
 *
 * Nothing happens until a process calls fault_arm. Kinds: a kill before the operation, a kill in the middle of a write,
 * an error in its place, a write that takes a part only, and a disk that is full from that operation on.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OFF, KILL, TORN, ERROR, SHORT, FULL, COUNT };
enum operation { READS, CHANGES, TAKES_SPACE, WRITES };
enum verdict { PASS, FAIL, PART };

/* what a kind counts: operations of this sort and of those behind it */
static const enum operation least[] = {[KILL] = CHANGES, [TORN] = WRITES, [ERROR] = READS, [SHORT] = WRITES,
                                       [FULL] = TAKES_SPACE, [COUNT] = READS};
static int kind = OFF, error_number;
static long wanted;
static atomic_long counted[COUNT + 1];
static char folder[PATH_MAX];

/* The n-th operation (from 1) on what lies below a folder, an absolute path, goes wrong; COUNT: none does. */
void fault_arm(int new_kind, long n, int error, const char *below) {
    strncpy(folder, below, sizeof folder - 1);
    wanted = n;
    error_number = error;
    kind = new_kind;
}

/* How many operations there were that would count for a kind. */
long fault_counted(int of_kind) {
    kind = OFF;
    return counted[of_kind];
}

static void *next(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

static int below_folder(int directory, const char *path) {
    char base[PATH_MAX] = "", link[64], full[2 * PATH_MAX];
    if (path == NULL || path[0] != '/') {
        if (directory == AT_FDCWD) {
            if (getcwd(base, sizeof base) == NULL) return 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0) return 0;
            base[length] = 0;
        }
    }
    snprintf(full, sizeof full, "%s%s%s", base, base[0] && path ? "/" : "", path ? path : "");
    size_t length = strlen(folder);
    return strncmp(full, folder, length) == 0 && (full[length] == 0 || full[length] == '/' || folder[length - 1] != '/');
}

static enum verdict decide(enum operation operation, int directory, const char *path) {
    if (kind == OFF || operation < least[kind]) return PASS;
    int before = errno;
    int ours = below_folder(directory, path);
    errno = before;
    if (!ours) return PASS;
    for (int each = KILL; each < COUNT; each++)
        if (each != kind && operation >= least[each]) counted[each]++;
    long number = ++counted[kind];
    if (kind == COUNT) return PASS;
    if (kind == FULL ? number < wanted : number != wanted) return PASS;
    if (kind == KILL) kill(getpid(), SIGKILL);
    if (kind == SHORT || kind == TORN) return PART;
    errno = error_number;
    return FAIL;
}

/* The wrapper of a function that gives `failed` where it fails. */
#define WRAP(type, failed, name, parameters, arguments, operation, directory, path)     \
    type name parameters {                                                              \
        static type(*real) parameters;                                                  \
        if (!real) real = next(#name);                                                  \
        return decide(operation, directory, path) == FAIL ? failed : real arguments;    \
    }

#define WRAP_OPEN(name, first, rest, directory)                                                     \
    int name(first const char *path, int flags, ...) {                                              \
        static int (*real)(first const char *, int, ...);                                           \
        if (!real) real = next(#name);                                                              \
        va_list list;                                                                               \
        va_start(list, flags);                                                                      \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, int) : 0;                           \
        va_end(list);                                                                               \
        enum operation operation = flags & O_CREAT ? TAKES_SPACE : flags & O_TRUNC ? CHANGES : READS; \
        return decide(operation, directory, path) == FAIL ? -1 : real(rest path, flags, mode);      \
    }

#define COMMA ,
WRAP_OPEN(open, , , AT_FDCWD)
WRAP_OPEN(open64, , , AT_FDCWD)
WRAP_OPEN(openat, int directory COMMA, directory COMMA, directory)
WRAP_OPEN(openat64, int directory COMMA, directory COMMA, directory)

#define FOPEN_KIND (mode[0] == 'r' ? READS : TAKES_SPACE)
WRAP(FILE *, NULL, fopen, (const char *path, const char *mode), (path, mode), FOPEN_KIND, AT_FDCWD, path)
WRAP(FILE *, NULL, fopen64, (const char *path, const char *mode), (path, mode), FOPEN_KIND, AT_FDCWD, path)
WRAP(DIR *, NULL, opendir, (const char *path), (path), READS, AT_FDCWD, path)

WRAP(int, -1, rename, (const char *path, const char *to), (path, to), CHANGES, AT_FDCWD, path)
WRAP(int, -1, renameat, (int from, const char *path, int folder_to, const char *to), (from, path, folder_to, to),
     CHANGES, from, path)
WRAP(int, -1, unlink, (const char *path), (path), CHANGES, AT_FDCWD, path)
WRAP(int, -1, unlinkat, (int from, const char *path, int flags), (from, path, flags), CHANGES, from, path)
WRAP(int, -1, rmdir, (const char *path), (path), CHANGES, AT_FDCWD, path)
WRAP(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), TAKES_SPACE, AT_FDCWD, path)
WRAP(int, -1, fsync, (int file), (file), TAKES_SPACE, file, NULL)
WRAP(int, -1, ftruncate, (int file, off_t length), (file, length), CHANGES, file, NULL)
WRAP(int, -1, ftruncate64, (int file, off64_t length), (file, length), CHANGES, file, NULL)
WRAP(int, -1, stat, (const char *path, struct stat *found), (path, found), READS, AT_FDCWD, path)
WRAP(int, -1, stat64, (const char *path, struct stat64 *found), (path, found), READS, AT_FDCWD, path)
WRAP(int, -1, fstatat, (int from, const char *path, struct stat *found, int flags), (from, path, found, flags), READS,
     from, path)

WRAP(ssize_t, -1, read, (int file, void *data, size_t size), (file, data, size), READS, file, NULL)
WRAP(ssize_t, -1, pread, (int file, void *data, size_t size, off_t at), (file, data, size, at), READS, file, NULL)
WRAP(ssize_t, -1, pread64, (int file, void *data, size_t size, off64_t at), (file, data, size, at), READS, file, NULL)
WRAP(ssize_t, -1, sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), TAKES_SPACE, to, NULL)
WRAP(ssize_t, -1, sendfile64, (int to, int from, off64_t *at, size_t size), (to, from, at, size), TAKES_SPACE, to, NULL)

ssize_t write(int file, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = next("write");
    enum verdict verdict = decide(WRITES, file, NULL);
    if (verdict == FAIL) return -1;
    if (verdict == PASS || size < 2) return real(file, data, size);
    ssize_t done = real(file, data, size / 2);
    if (kind == TORN) kill(getpid(), SIGKILL);
    return done;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    static ssize_t (*real)(int, const struct iovec *, int);
    if (!real) real = next("writev");
    enum verdict verdict = decide(WRITES, file, NULL);
    if (verdict == FAIL) return -1;
    if (verdict == PASS) return real(file, parts, count);
    ssize_t done = real(file, parts, 1); /* the first part only */
    if (kind == TORN) kill(getpid(), SIGKILL);
    return done;
}
