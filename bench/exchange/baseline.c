/*
 * What the operating system allows: the frames of a `tcp` or `uds` link (8-byte prefix, then the body; no handshake) by blocking calls, one process each side.
 *
 *   baseline serve   tcp|uds <port|path>      prints "ready" and serves one connection after another
 *   baseline measure tcp|uds <port|path> echo|stream <frame bytes> <frames>   prints the seconds it took, and the processor seconds of both sides
 *
 * A connection begins with a command frame: u32 mode (0 echo, 1 stream), u32 frames. Echo: every frame comes back before the next is sent. Stream: frames one way.
 * At the end comes one frame of 8 bytes, the processor seconds that the serving side used (f64).
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
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

/* 0 at the end of the stream. */
static int read_whole(int fd, uint8_t *out, size_t bytes) {
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
  if (count == 4 && strcmp(argument[1], "serve") == 0) serve(open_socket(argument[2], argument[3], 1));
  if (count == 7 && strcmp(argument[1], "measure") == 0) {
    int fd = open_socket(argument[2], argument[3], 0);
    measure(fd, strcmp(argument[4], "stream") == 0, (uint32_t)atoi(argument[5]), (uint32_t)atoi(argument[6]));
    return 0;
  }
  fprintf(stderr, "usage: baseline serve|measure tcp|uds port|path [echo|stream bytes frames]\n");
  return 2;
}
