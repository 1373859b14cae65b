// Holds objects of the kernel's, as many as it is told: a command a line, and "ok" after each.
//
//   pipes N, sockets N, eventfds N   opens so many
//   ring BLOCKS BYTES                a packet socket with a ring of so many blocks, of so many bytes each
//   threads N                        starts so many, which wait
//   areas N                          a map for each CPU, of so many entries of 64 bytes
//   signals N                        has so many sent to itself by a timer
//   semaphores N                     a set of so many, in a namespace of its own
//   churn N                          opens and closes so many pipes
//   close                            closes all of these
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { MOST = 60000, MOST_THREADS = 1000 };
static int held[MOST];
static int count;
static int semaphores = -1;
static pthread_t threads[MOST_THREADS];
static unsigned thread_count;
static volatile sig_atomic_t signals_to_come;

static void hold(int fd) {
    if (fd < 0 || count == MOST) {
        perror("hold");
        exit(1);
    }
    held[count++] = fd;
}

static void open_pipe(void) {
    int ends[2];
    if (pipe(ends) != 0) {
        perror("pipe");
        exit(1);
    }
    hold(ends[0]);
    hold(ends[1]);
}

static void open_ring(unsigned blocks, unsigned bytes) {
    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    hold(fd);
    struct tpacket_req ring = {.tp_block_size = bytes, .tp_block_nr = blocks, .tp_frame_size = 2048};
    ring.tp_frame_nr = bytes / ring.tp_frame_size * blocks;
    if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) != 0) {
        perror("PACKET_RX_RING");
        exit(1);
    }
}

static void make_semaphores(int number) {
    FILE *limits = unshare(CLONE_NEWIPC) == 0 ? fopen("/proc/sys/kernel/sem", "w") : NULL;
    if (!limits || fprintf(limits, "65536 1000000 100 100\n") < 0 || fclose(limits) != 0) {
        perror("limits of semaphores");
        exit(1);
    }
    semaphores = semget(IPC_PRIVATE, number, 0600);
    if (semaphores < 0) {
        perror("semget");
        exit(1);
    }
}

static void *wait_for_end(void *unused) {
    while (pause() < 0) {
    }
    return unused;
}

static void start_thread(void) {
    if (thread_count == MOST_THREADS || pthread_create(&threads[thread_count++], NULL, wait_for_end, NULL) != 0) {
        perror("thread");
        exit(1);
    }
}

static void make_areas(unsigned number) {
    union bpf_attr map;
    memset(&map, 0, sizeof map);
    map.map_type = BPF_MAP_TYPE_PERCPU_ARRAY;
    map.key_size = 4;
    map.value_size = 64;
    map.max_entries = number;
    hold((int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
}

static void count_signal(int number) {
    (void)number;
    signals_to_come--;
}

/// Runs meanwhile, so that the timer's interrupt finds a program.
static void await_signals(unsigned number) {
    signals_to_come = (sig_atomic_t)number;
    signal(SIGALRM, count_signal);
    struct itimerval each = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &each, NULL);
    while (signals_to_come > 0) {
    }
    setitimer(ITIMER_REAL, &never, NULL);
}

static void close_all(void) {
    for (; thread_count > 0; thread_count--) {
        pthread_cancel(threads[thread_count - 1]);
        pthread_join(threads[thread_count - 1], NULL);
    }
    if (semaphores >= 0) {
        semctl(semaphores, 0, IPC_RMID);
        semaphores = -1;
    }
    while (count > 0) {
        close(held[--count]);
    }
}

int main(void) {
    char line[100];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    struct rlimit more = {1 << 16, 1 << 16};
    // Not everybody may go beyond the limit.
    if (files.rlim_max >= more.rlim_max || setrlimit(RLIMIT_NOFILE, &more) != 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        char what[20];
        unsigned number = 0, bytes = 0;
        sscanf(line, "%19s %u %u", what, &number, &bytes);
        if (strcmp(what, "pipes") == 0) {
            for (unsigned i = 0; i < number; i++) {
                open_pipe();
            }
        } else if (strcmp(what, "sockets") == 0) {
            for (unsigned i = 0; i < number; i++) {
                hold(socket(AF_UNIX, SOCK_DGRAM, 0));
            }
        } else if (strcmp(what, "eventfds") == 0) {
            for (unsigned i = 0; i < number; i++) {
                hold(eventfd(0, 0));
            }
        } else if (strcmp(what, "ring") == 0) {
            open_ring(number, bytes);
        } else if (strcmp(what, "threads") == 0) {
            for (unsigned i = 0; i < number; i++) {
                start_thread();
            }
        } else if (strcmp(what, "areas") == 0) {
            make_areas(number);
        } else if (strcmp(what, "signals") == 0) {
            await_signals(number);
        } else if (strcmp(what, "semaphores") == 0) {
            make_semaphores((int)number);
        } else if (strcmp(what, "churn") == 0) {
            for (unsigned i = 0; i < number; i++) {
                open_pipe();
                close_all();
            }
        } else if (strcmp(what, "close") == 0) {
            close_all();
        } else {
            return 1;
        }
        printf("ok\n");
        fflush(stdout);
    }
    return 0;
}
