/*
 * What the operating system allows: the frames of a `tcp`, `uds` or `shm` link (8-byte prefix, then the body; no handshake) by blocking calls, one process each
 * side. `shm` is two rings in a mapped file, copied in and copied out, whose sides sleep on futexes.
 *
 *   baseline serve   tcp|uds|shm <port|path>      prints "ready" and serves one connection after another
 *   baseline measure tcp|uds|shm <port|path> echo|stream <frame bytes> <frames>   prints the seconds it took, and the processor seconds of both sides
 *
 * A connection begins with a command frame: u32 mode (0 echo, 1 stream), u32 frames. Echo: every frame comes back before the next is sent. Stream: frames one way.
 * At the end comes one frame of 8 bytes, the processor seconds that the serving side used (f64).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LENGTH_CHECK 0x4b4c5953u
#define FRAME_BYTES_MAX (64u << 20)

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static double processor_seconds(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* One direction of `shm`. Indexes count bytes, modulo 2^32; each side sleeps on the index that the other one moves. */
#define RING_BYTES (1u << 20)
#define PIECE_BYTES (128u << 10)
struct ring {
  _Alignas(64) _Atomic uint32_t head;
  _Atomic uint32_t reader_sleeps;
  _Alignas(64) _Atomic uint32_t tail;
  _Atomic uint32_t writer_sleeps;
  _Alignas(64) uint8_t data[RING_BYTES];
};
static struct ring *ring_out, *ring_in; /* null: sockets */

static void sleep_on(_Atomic uint32_t *index, uint32_t seen, _Atomic uint32_t *asleep) {
  atomic_store(asleep, 1);
  if (atomic_load(index) == seen) syscall(SYS_futex, index, FUTEX_WAIT, seen, NULL, NULL, 0);
  atomic_store(asleep, 0);
}

static void move(_Atomic uint32_t *index, uint32_t to, _Atomic uint32_t *asleep) {
  atomic_store(index, to);
  if (atomic_load(asleep) && atomic_exchange(asleep, 0)) syscall(SYS_futex, index, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void ring_write(const uint8_t *bytes, size_t count, int last) {
  struct ring *r = ring_out;
  uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
  while (count > 0) {
    uint32_t tail = atomic_load(&r->tail), room = RING_BYTES - (head - tail), at = head % RING_BYTES;
    if (room == 0) {
      sleep_on(&r->tail, tail, &r->writer_sleeps);
      continue;
    }
    uint32_t n = room < RING_BYTES - at ? room : RING_BYTES - at;
    if (n > PIECE_BYTES) n = PIECE_BYTES;
    if (n > count) n = (uint32_t)count;
    memcpy(r->data + at, bytes, n);
    bytes += n;
    count -= n;
    head += n;
    if (count > 0 || last) move(&r->head, head, &r->reader_sleeps);
    else atomic_store_explicit(&r->head, head, memory_order_release);
  }
}

static void ring_read(uint8_t *out, size_t count) {
  struct ring *r = ring_in;
  uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
  while (count > 0) {
    uint32_t head = atomic_load(&r->head), at = tail % RING_BYTES, n = head - tail;
    if (n == 0) {
      sleep_on(&r->head, head, &r->reader_sleeps);
      continue;
    }
    if (n > RING_BYTES - at) n = RING_BYTES - at;
    if (n > PIECE_BYTES) n = PIECE_BYTES;
    if (n > count) n = (uint32_t)count;
    memcpy(out, r->data + at, n);
    out += n;
    count -= n;
    tail += n;
    move(&r->tail, tail, &r->writer_sleeps);
  }
}

/* 0 at the end of the stream. */
static int read_whole(int fd, uint8_t *out, size_t bytes) {
  if (ring_in) {
    ring_read(out, bytes);
    return 1;
  }
  for (size_t at = 0; at < bytes;) {
    ssize_t n = read(fd, out + at, bytes - at);
    if (n == 0) return 0;
    if (n < 0) fail("read");
    at += (size_t)n;
  }
  return 1;
}

static int receive(int fd, uint8_t *frame, uint32_t *length) {
  uint32_t prefix[2];
  if (!read_whole(fd, (uint8_t *)prefix, 8)) return 0;
  if ((prefix[0] ^ LENGTH_CHECK) != prefix[1] || prefix[0] > FRAME_BYTES_MAX) {
    fprintf(stderr, "not a frame\n");
    exit(1);
  }
  *length = prefix[0];
  return read_whole(fd, frame, prefix[0]);
}

static void send_frame(int fd, const uint8_t *frame, uint32_t length) {
  uint32_t prefix[2] = {length, length ^ LENGTH_CHECK};
  if (ring_out) {
    ring_write((uint8_t *)prefix, 8, 0);
    ring_write(frame, length, 1);
    return;
  }
  struct iovec parts[2] = {{prefix, 8}, {(void *)frame, length}};
  int first = 0;
  while (first < 2) {
    ssize_t n = writev(fd, parts + first, 2 - first);
    if (n < 0) fail("write");
    while (first < 2 && (size_t)n >= parts[first].iov_len) n -= (ssize_t)parts[first++].iov_len;
    if (first < 2) {
      parts[first].iov_base = (uint8_t *)parts[first].iov_base + n;
      parts[first].iov_len -= (size_t)n;
    }
  }
}

static int open_socket(const char *kind, const char *where, int listens) {
  int tcp = strcmp(kind, "tcp") == 0;
  int fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) fail("socket");
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(where)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  snprintf(un.sun_path, sizeof un.sun_path, "%s", where);
  struct sockaddr *address = tcp ? (struct sockaddr *)&in : (struct sockaddr *)&un;
  socklen_t size = tcp ? sizeof in : sizeof un;
  int one = 1;
  if (tcp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (tcp) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (listens) {
    if (bind(fd, address, size) < 0) fail("bind");
    if (listen(fd, 8) < 0) fail("listen");
  } else if (connect(fd, address, size) < 0) fail("connect");
  return fd;
}

static void serve(int listener) {
  uint8_t *frame = malloc(FRAME_BYTES_MAX);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) fail("accept");
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* of no effect on a Unix socket */
    uint32_t command[2], length;
    if (receive(fd, frame, &length) && length == 8) {
      memcpy(command, frame, 8);
      double used = processor_seconds();
      for (uint32_t i = 0; i < command[1] && receive(fd, frame, &length); i++)
        if (command[0] == 0) send_frame(fd, frame, length);
      used = processor_seconds() - used;
      send_frame(fd, (uint8_t *)&used, 8);
      receive(fd, frame, &length); /* until the other side closes */
    }
    close(fd);
  }
}

/* Serves for ever: a measurement ends where the next one begins. */
static void serve_rings(void) {
  uint8_t *frame = malloc(FRAME_BYTES_MAX);
  puts("ready");
  fflush(stdout);
  for (;;) {
    uint32_t command[2], length;
    receive(-1, frame, &length);
    memcpy(command, frame, 8);
    double used = processor_seconds();
    for (uint32_t i = 0; i < command[1] && receive(-1, frame, &length); i++)
      if (command[0] == 0) send_frame(-1, frame, length);
    used = processor_seconds() - used;
    send_frame(-1, (uint8_t *)&used, 8);
  }
}

static void open_rings(const char *path, int serves) {
  int fd = open(path, O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, 2 * sizeof(struct ring)) < 0) fail(path);
  struct ring *rings = mmap(NULL, 2 * sizeof(struct ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (rings == MAP_FAILED) fail("mmap");
  close(fd);
  ring_out = rings + (serves ? 1 : 0);
  ring_in = rings + (serves ? 0 : 1);
}

static void measure(int fd, uint32_t mode, uint32_t bytes, uint32_t frames) {
  uint8_t *frame = malloc(FRAME_BYTES_MAX);
  memset(frame, 7, bytes);
  uint32_t command[2] = {mode, frames}, length;
  send_frame(fd, (uint8_t *)command, 8);
  double start = now(), used = processor_seconds(), far;
  for (uint32_t i = 0; i < frames; i++) {
    send_frame(fd, frame, bytes);
    if (mode == 0) receive(fd, frame, &length);
  }
  receive(fd, frame, &length);
  memcpy(&far, frame, 8);
  printf("%.9f %.6f\n", now() - start, processor_seconds() - used + far);
}

int main(int count, char **argument) {
  if (count >= 4 && strcmp(argument[2], "shm") == 0) {
    int serves = strcmp(argument[1], "serve") == 0;
    open_rings(argument[3], serves);
    if (serves) serve_rings();
    measure(-1, strcmp(argument[4], "stream") == 0, (uint32_t)atoi(argument[5]), (uint32_t)atoi(argument[6]));
    return 0;
  }
  if (count == 4 && strcmp(argument[1], "serve") == 0) serve(open_socket(argument[2], argument[3], 1));
  if (count == 7 && strcmp(argument[1], "measure") == 0) {
    int fd = open_socket(argument[2], argument[3], 0);
    measure(fd, strcmp(argument[4], "stream") == 0, (uint32_t)atoi(argument[5]), (uint32_t)atoi(argument[6]));
    return 0;
  }
  fprintf(stderr, "usage: baseline serve|measure tcp|uds|shm port|path [echo|stream bytes frames]\n");
  return 2;
}
