/* Loaded by LD_PRELOAD: counts a process's calls that write below one folder, and makes the n-th of them fail.

   FAULTS_ROOT   the folder; unset: nothing is counted
   FAULTS_STATE  a file that all processes of a command share: struct state
   FAULTS_MODE   none, full (from call n on the disk is full), eio (call n fails), short (call n writes half),
                 before, after (SIGKILL to the process group before or after call n)
   FAULTS_AT     n, from 1

   The environment is read when the library is loaded, and again by faults_arm(), which a forked process calls. */
#define _GNU_SOURCE
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
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct state {
  atomic_long count;
  atomic_long hits; /* calls that were made to fail */
  char call[16];    /* the n-th call or the first after it that failed, and its path */
  char path[496];
};

enum kind { MAKES, WRITES, SYNCS, MOVES, REMOVES };
enum verdict { PASS, FAIL, HALF, KILL_AFTER };

static struct state *state;
static char root[PATH_MAX];
static size_t root_length;
static char mode;
static long at;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void faults_arm(void) {
  const char *folder = getenv("FAULTS_ROOT"), *file = getenv("FAULTS_STATE");
  root_length = 0;
  if (!folder || !file) return;
  int descriptor = REAL(open)(file, O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return;
  void *map = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (map == MAP_FAILED) return;
  state = map;
  mode = getenv("FAULTS_MODE") ? getenv("FAULTS_MODE")[0] : 'n';
  at = getenv("FAULTS_AT") ? atol(getenv("FAULTS_AT")) : 0;
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
}

__attribute__((constructor)) static void load(void) { faults_arm(); }

static int below(const char *path) {
  return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* Writes the absolute path of a name relative to an open folder; nothing is resolved in it. */
static void absolute(int folder, const char *path, char *whole) {
  char link[64], base[PATH_MAX];
  ssize_t length;
  if (path[0] == '/') {
    snprintf(whole, PATH_MAX, "%s", path);
    return;
  }
  if (folder == AT_FDCWD) {
    length = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : 0;
  } else {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, base, sizeof base - 1);
  }
  base[length < 0 ? 0 : length] = 0;
  if (snprintf(whole, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) whole[0] = 0;
}

static enum verdict judge(enum kind kind, const char *call, const char *path) {
  if (!below(path)) return PASS;
  long number = atomic_fetch_add(&state->count, 1) + 1;
  int later = mode == 'f' && at && number > at && (kind == MAKES || kind == WRITES);
  if (number != at && !later) return PASS;
  int fails = mode != 'n' && (mode != 's' || kind == WRITES) && (mode != 'f' || kind == MAKES || kind == WRITES);
  if (number == at || (fails && !atomic_load(&state->hits))) {
    snprintf(state->call, sizeof state->call, "%s", call);
    snprintf(state->path, sizeof state->path, "%s", path);
  }
  if (!fails) return PASS;
  atomic_fetch_add(&state->hits, 1);
  if (mode == 'b') kill(0, SIGKILL);
  if (mode == 'a') return KILL_AFTER;
  if (mode == 's') return HALF;
  errno = mode == 'f' ? ENOSPC : EIO;
  return FAIL;
}

static enum verdict judge_path(enum kind kind, const char *call, int folder, const char *path) {
  char whole[PATH_MAX];
  if (!root_length || !path) return PASS;
  absolute(folder, path, whole);
  /* What exists is not made: opening it takes no space, and making it again is an error of another kind */
  if (kind == MAKES && below(whole) && REAL(access)(whole, F_OK) == 0) {
    if (!strncmp(call, "mkdir", 5)) return PASS;
    kind = SYNCS;
  }
  return judge(kind, call, whole);
}

static enum verdict judge_file(enum kind kind, const char *call, int descriptor) {
  char link[64], path[PATH_MAX];
  if (!root_length) return PASS;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return PASS;
  path[length] = 0;
  return judge(kind, call, path);
}

static long settle(enum verdict verdict, long result) {
  if (verdict == KILL_AFTER) kill(0, SIGKILL);
  return result;
}

#define ON_PATH(type, name, kind, folder, path, parameters, arguments)      \
  type name parameters {                                                    \
    enum verdict verdict = judge_path(kind, #name, folder, path);           \
    return verdict == FAIL ? -1 : settle(verdict, REAL(name) arguments);    \
  }
#define ON_FILE(type, name, kind, parameters, arguments)                    \
  type name parameters {                                                    \
    enum verdict verdict = judge_file(kind, #name, descriptor);             \
    return verdict == FAIL ? -1 : settle(verdict, REAL(name) arguments);    \
  }

/* Only an open that can change something counts */
#define OPEN(name, folder, parameters, arguments)                                                  \
  int name parameters {                                                                            \
    mode_t permissions = 0;                                                                        \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                         \
      va_list rest;                                                                                \
      va_start(rest, flags);                                                                       \
      permissions = va_arg(rest, mode_t);                                                          \
      va_end(rest);                                                                                \
    }                                                                                              \
    enum verdict verdict = flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)                         \
                               ? judge_path(flags & O_CREAT ? MAKES : SYNCS, #name, folder, path)  \
                               : PASS;                                                             \
    return verdict == FAIL ? -1 : settle(verdict, REAL(name) arguments);                           \
  }

OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, permissions))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, permissions))
OPEN(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, permissions))
OPEN(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, permissions))
ON_PATH(int, creat, MAKES, AT_FDCWD, path, (const char *path, mode_t permissions), (path, permissions))
ON_PATH(int, creat64, MAKES, AT_FDCWD, path, (const char *path, mode_t permissions), (path, permissions))

#define OPEN_STREAM(name)                                                                                     \
  FILE *name(const char *path, const char *how) {                                                             \
    enum verdict verdict = strpbrk(how, "wa+") ? judge_path(MAKES, #name, AT_FDCWD, path) : PASS;             \
    if (verdict == FAIL) return NULL;                                                                         \
    FILE *stream = REAL(name)(path, how);                                                                     \
    settle(verdict, 0);                                                                                       \
    return stream;                                                                                            \
  }
OPEN_STREAM(fopen)
OPEN_STREAM(fopen64)

#define WRITE(name, parameters, arguments)                                                    \
  ssize_t name parameters {                                                                   \
    enum verdict verdict = judge_file(WRITES, #name, descriptor);                             \
    if (verdict == FAIL) return -1;                                                           \
    if (verdict == HALF && size > 1) size /= 2;                                               \
    return settle(verdict, REAL(name) arguments);                                             \
  }
WRITE(write, (int descriptor, const void *bytes, size_t size), (descriptor, bytes, size))
WRITE(pwrite, (int descriptor, const void *bytes, size_t size, off_t offset), (descriptor, bytes, size, offset))
WRITE(pwrite64, (int descriptor, const void *bytes, size_t size, off64_t offset), (descriptor, bytes, size, offset))
WRITE(sendfile, (int descriptor, int in, off_t *offset, size_t size), (descriptor, in, offset, size))
WRITE(sendfile64, (int descriptor, int in, off64_t *offset, size_t size), (descriptor, in, offset, size))
ON_FILE(ssize_t, writev, WRITES, (int descriptor, const struct iovec *parts, int number), (descriptor, parts, number))

ssize_t copy_file_range(int in, off64_t *from, int descriptor, off64_t *to, size_t size, unsigned flags) {
  enum verdict verdict = judge_file(WRITES, "copy_file_range", descriptor);
  if (verdict == FAIL) return -1;
  if (verdict == HALF && size > 1) size /= 2;
  return settle(verdict, REAL(copy_file_range)(in, from, descriptor, to, size, flags));
}

size_t fwrite(const void *bytes, size_t size, size_t number, FILE *stream) {
  enum verdict verdict = judge_file(WRITES, "fwrite", fileno(stream));
  if (verdict == FAIL) return 0;
  return settle(verdict, REAL(fwrite)(bytes, size, number, stream)); /* a short one is an error: not done */
}

ON_FILE(int, fsync, SYNCS, (int descriptor), (descriptor))
ON_FILE(int, fdatasync, SYNCS, (int descriptor), (descriptor))
ON_FILE(int, ftruncate, SYNCS, (int descriptor, off_t size), (descriptor, size))
ON_FILE(int, ftruncate64, SYNCS, (int descriptor, off64_t size), (descriptor, size))
ON_PATH(int, rename, MOVES, AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(int, renameat, MOVES, folder, to, (int start, const char *from, int folder, const char *to),
        (start, from, folder, to))
ON_PATH(int, renameat2, MOVES, folder, to, (int start, const char *from, int folder, const char *to, unsigned flags),
        (start, from, folder, to, flags))
ON_PATH(int, mkdir, MAKES, AT_FDCWD, path, (const char *path, mode_t permissions), (path, permissions))
ON_PATH(int, mkdirat, MAKES, folder, path, (int folder, const char *path, mode_t permissions),
        (folder, path, permissions))
ON_PATH(int, symlink, MAKES, AT_FDCWD, path, (const char *target, const char *path), (target, path))
ON_PATH(int, symlinkat, MAKES, folder, path, (const char *target, int folder, const char *path),
        (target, folder, path))
ON_PATH(int, link, MAKES, AT_FDCWD, path, (const char *from, const char *path), (from, path))
ON_PATH(int, linkat, MAKES, folder, path, (int start, const char *from, int folder, const char *path, int flags),
        (start, from, folder, path, flags))
ON_PATH(int, unlink, REMOVES, AT_FDCWD, path, (const char *path), (path))
ON_PATH(int, unlinkat, REMOVES, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
ON_PATH(int, rmdir, REMOVES, AT_FDCWD, path, (const char *path), (path))
