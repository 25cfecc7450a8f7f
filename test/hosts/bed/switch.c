// An Ethernet switch in user space, for kernels without netem: hosts are network namespaces, each on a full-duplex link of its own with a bit rate, a delay, a
// bounded queue and a loss probability.
//
//   switch PREFIX RATE_MBIT DELAY_US LOSS QUEUE_MS NAMESPACE...      switch 10.77.0 1000 250 0 100 h1 h2
//
// Opens the device `lan0` in each namespace (they must exist), gives the i-th the address PREFIX.i/24, prints "ready", and forwards until standard input ends: it
// never outlives who started it. Commands on standard input, one a line, each answered by one line:
//
//   link RATE_MBIT DELAY_US LOSS QUEUE_MS    the links from now on
//   down I, up I                             cut and mend the link of the I-th host: packets vanish, nobody is told
//   report                                   a JSON object: bytes and packets from each host to each, and what was dropped
//
// Frames leave a host in turns over the hosts that they go to, as from a network card with a queue for each flow; they cross the switch as they come (cut-through),
// wait where the receiving host's link is busy with frames that came before, and arrive DELAY_US after their last bit was sent. The kernel gives and takes the
// packets of one large write as one segment of up to 64 KiB, as it does with a card that cuts and joins them: every Ethernet frame of a segment has its own time
// on the wire, and the segment arrives with its last one.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
  HOSTS_MAX = 64,
  SEGMENT_MAX = 65536 + 128,
  HEADER = sizeof(struct virtio_net_hdr),
  FRAME_OVERHEAD = 38, // preamble, Ethernet header, checksum and gap around each frame
  FRAME_MAX = 1500 + FRAME_OVERHEAD,
  BURST = 64,          // segments read from one host before the others have their turn
};

typedef int64_t nanoseconds;

typedef struct segment {
  struct segment *next;
  nanoseconds when; // wants to leave its host; later: has arrived
  int64_t left;     // bytes on the wire that have not left yet
  int to, size, lost;
  uint8_t data[];
} segment;

typedef struct {
  segment *head, **tail;
} queue;

typedef struct {
  int tun, down;
  queue leaving[HOSTS_MAX], arriving;      // by receiver; each in order of `when`
  int turn;                                // the receiver whose frame leaves next
  int64_t waiting;                         // bytes on the wire that are yet to leave
  nanoseconds sends_until, receives_until; // each direction of its link is busy until then
  uint64_t bytes[HOSTS_MAX], packets[HOSTS_MAX], wire_bytes[HOSTS_MAX], dropped; // sent, by receiver
  nanoseconds late; // sum over the segments that arrived here
} host;

static host hosts[HOSTS_MAX];
static int count;
static double ns_per_byte, loss;
static nanoseconds delay, queue_max;

static nanoseconds now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
  fprintf(stderr, "switch: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void put(queue *q, segment *s) {
  s->next = NULL;
  *q->tail = s;
  q->tail = &s->next;
}

static segment *take(queue *q) {
  segment *s = q->head;
  q->head = s->next;
  if (q->head == NULL) q->tail = &q->head;
  return s;
}

static void set_link(double rate_mbit, double delay_us, double loss_share, double queue_ms) {
  ns_per_byte = 8000.0 / rate_mbit;
  delay = (nanoseconds)(delay_us * 1e3);
  loss = loss_share;
  queue_max = (nanoseconds)(queue_ms * 1e6);
}

static int open_device(const char *namespace, const char *prefix, int index) {
  char path[256], command[512];
  snprintf(path, sizeof path, "/run/netns/%s", namespace);
  int target = open(path, O_RDONLY | O_CLOEXEC);
  if (target < 0 || setns(target, CLONE_NEWNET) < 0) die(path);
  close(target);
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  strcpy(request.ifr_name, "lan0");
  if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0) die("/dev/net/tun");
  if (ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) die("TUNSETOFFLOAD");
  snprintf(command, sizeof command, "ip addr add %s.%d/24 dev lan0 && ip link set lan0 txqueuelen 1000 up && ip link set lo up", prefix, index);
  if (system(command) != 0) die(command);
  return tun;
}

/** Bytes on the wire: a segment is as many frames as its payload needs, each with its own headers. */
static int64_t bytes_on_wire(const uint8_t *data, int size) {
  const struct virtio_net_hdr *h = (const void *)data;
  int length = size - HEADER;
  if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE || h->gso_size == 0) return length + FRAME_OVERHEAD;
  int payload = length - h->hdr_len;
  int frames = (payload + h->gso_size - 1) / h->gso_size;
  return payload + (int64_t)frames * (h->hdr_len + FRAME_OVERHEAD);
}

/** The host to which an IPv4 packet is addressed, or -1: IPv6 and broadcast end here. */
static int receiver(const uint8_t *packet, int from) {
  int to = packet[0] >> 4 == 4 ? packet[19] - 1 : -1;
  return to >= 0 && to < count && to != from ? to : -1;
}

static void read_from(int index, nanoseconds t) {
  static uint8_t buffer[SEGMENT_MAX];
  host *from = &hosts[index];
  for (int burst = 0, size; burst < BURST && (size = read(from->tun, buffer, sizeof buffer)) > HEADER + 20; burst++) {
    int to = receiver(buffer + HEADER, index);
    if (to < 0) continue;
    int64_t wire_bytes = bytes_on_wire(buffer, size);
    if (from->waiting * ns_per_byte > queue_max || from->down || hosts[to].down || (loss > 0 && drand48() < loss)) {
      from->dropped++;
      continue;
    }
    segment *s = malloc(sizeof *s + size);
    if (s == NULL) die("malloc");
    *s = (segment){.when = t, .left = wire_bytes, .to = to, .size = size};
    memcpy(s->data, buffer, size);
    from->waiting += wire_bytes;
    from->bytes[to] += size - HEADER;
    from->wire_bytes[to] += wire_bytes;
    from->packets[to]++;
    put(&from->leaving[to], s);
  }
}

/** When the host's next frame starts to leave; never, where none waits. */
static nanoseconds next_start(const host *h) {
  nanoseconds first = INT64_MAX;
  if (h->waiting == 0) return first;
  for (int to = 0; to < count; to++)
    if (h->leaving[to].head != NULL && h->leaving[to].head->when < first) first = h->leaving[to].head->when;
  return first > h->sends_until ? first : h->sends_until;
}

/** Sends one frame from the host over its link and the receiver's. */
static void send_frame(host *from, nanoseconds start) {
  queue *q;
  do {
    q = &from->leaving[from->turn];
    from->turn = (from->turn + 1) % count;
  } while (q->head == NULL || q->head->when > start);
  segment *s = q->head;
  host *to = &hosts[s->to];
  int64_t bytes = s->left < FRAME_MAX ? s->left : FRAME_MAX;
  nanoseconds wire = (nanoseconds)(bytes * ns_per_byte);
  from->sends_until = start + wire;
  from->waiting -= bytes;
  s->left -= bytes;
  // The switch's own queue is bounded too: a segment of which a frame is lost is lost.
  if (to->receives_until - start > queue_max) s->lost = 1;
  if (!s->lost) to->receives_until = (to->receives_until > start ? to->receives_until : start) + wire;
  if (s->left > 0) return;
  take(q);
  if (s->lost) {
    from->dropped++;
    free(s);
    return;
  }
  s->when = to->receives_until + delay;
  put(&to->arriving, s);
}

/** Sends all frames that started to leave by `t`, in the order in which they did: the first to come is the first to be sent on. */
static void cross(nanoseconds t) {
  for (;;) {
    host *first = NULL;
    nanoseconds start = t;
    for (host *h = hosts; h < hosts + count; h++) {
      nanoseconds own = next_start(h);
      if (own > start || (own == start && first != NULL)) continue;
      first = h;
      start = own;
    }
    if (first == NULL) return;
    send_frame(first, start);
  }
}

static void deliver(nanoseconds t) {
  for (host *h = hosts; h < hosts + count; h++)
    while (h->arriving.head != NULL && h->arriving.head->when <= t) {
      segment *s = take(&h->arriving);
      h->late += now() - s->when;
      if (h->down || write(h->tun, s->data, s->size) < 0) h->dropped++;
      free(s);
    }
}

/** When a segment can next arrive, a second from now at most. Until then no frame need be looked at: what is sent in between is found out in order afterwards. */
static nanoseconds next_due(nanoseconds t) {
  nanoseconds next = t + 1000000000;
  for (host *h = hosts; h < hosts + count; h++) {
    if (h->arriving.head != NULL && h->arriving.head->when < next) next = h->arriving.head->when;
    if (h->waiting == 0) continue;
    for (int to = 0; to < count; to++) {
      const segment *s = h->leaving[to].head;
      if (s == NULL) continue;
      nanoseconds start = s->when > h->sends_until ? s->when : h->sends_until;
      nanoseconds soonest = start + (nanoseconds)(s->left * ns_per_byte) + delay;
      if (soonest < next) next = soonest;
    }
  }
  return next;
}

static void print_matrix(const char *name, size_t offset) {
  printf("\"%s\":[", name);
  for (int from = 0; from < count; from++) {
    const uint64_t *row = (const void *)((const char *)&hosts[from] + offset);
    for (int to = 0; to < count; to++) printf("%s%llu", to > 0 ? "," : from > 0 ? "],[" : "[", (unsigned long long)row[to]);
  }
  printf("]]");
}

static void print_report(void) {
  printf("{");
  print_matrix("bytes", offsetof(host, bytes));
  printf(",");
  print_matrix("wireBytes", offsetof(host, wire_bytes));
  printf(",");
  print_matrix("packets", offsetof(host, packets));
  printf(",\"dropped\":[");
  for (int i = 0; i < count; i++) printf("%s%llu", i > 0 ? "," : "", (unsigned long long)hosts[i].dropped);
  printf("],\"lateSeconds\":[");
  for (int i = 0; i < count; i++) printf("%s%.9f", i > 0 ? "," : "", 1e-9 * hosts[i].late);
  printf("]}\n");
}

static void obey(const char *line) {
  double rate, delay_us, loss_share, queue_ms;
  int index;
  if (sscanf(line, "link %lf %lf %lf %lf", &rate, &delay_us, &loss_share, &queue_ms) == 4 && rate > 0) {
    set_link(rate, delay_us, loss_share, queue_ms);
    printf("ok\n");
  } else if (sscanf(line, "down %d", &index) == 1 && index >= 1 && index <= count) {
    hosts[index - 1].down = 1;
    printf("ok\n");
  } else if (sscanf(line, "up %d", &index) == 1 && index >= 1 && index <= count) {
    hosts[index - 1].down = 0;
    printf("ok\n");
  } else if (strncmp(line, "report", 6) == 0) {
    print_report();
  } else {
    printf("unknown command\n");
  }
  fflush(stdout);
}

/** Reads what has come on standard input and obeys each whole line. False when it has ended. */
static int listen_to_owner(void) {
  static char line[256];
  static size_t length;
  char chunk[256];
  ssize_t size = read(STDIN_FILENO, chunk, sizeof chunk);
  if (size == 0 || (size < 0 && errno != EINTR && errno != EAGAIN)) return 0;
  for (ssize_t i = 0; i < size; i++) {
    if (chunk[i] != '\n') {
      if (length < sizeof line - 1) line[length++] = chunk[i];
      continue;
    }
    line[length] = 0;
    length = 0;
    obey(line);
  }
  return 1;
}

int main(int argc, char **argv) {
  const int options = 6;
  if (argc <= options || argc - options > HOSTS_MAX || atof(argv[2]) <= 0) {
    fprintf(stderr, "usage: switch PREFIX RATE_MBIT DELAY_US LOSS QUEUE_MS NAMESPACE...\n");
    return 2;
  }
  set_link(atof(argv[2]), atof(argv[3]), atof(argv[4]), atof(argv[5]));
  int origin = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  struct pollfd polls[HOSTS_MAX + 1];
  for (int i = options; i < argc; i++, count++) {
    host *h = &hosts[count];
    h->tun = open_device(argv[i], argv[1], count + 1);
    for (int to = 0; to < HOSTS_MAX; to++) h->leaving[to].tail = &h->leaving[to].head;
    h->arriving.tail = &h->arriving.head;
    polls[count] = (struct pollfd){.fd = h->tun, .events = POLLIN};
  }
  polls[count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
  if (setns(origin, CLONE_NEWNET) < 0) die("setns");
  prctl(PR_SET_TIMERSLACK, 1);
  // Before the programs that it serves, where that is allowed: a busy machine must not look like a slow network.
  sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1});
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    nanoseconds t = now();
    cross(t);
    deliver(t);
    nanoseconds wait = next_due(t) - now();
    if (wait < 0) wait = 0;
    struct timespec timeout = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
    if (ppoll(polls, count + 1, &timeout, NULL) <= 0) continue;
    t = now();
    for (int i = 0; i < count; i++)
      if (polls[i].revents & POLLIN) read_from(i, t);
    if (polls[count].revents && !listen_to_owner()) return 0;
  }
}
