// Holds objects of the kernel's, as many as it is told: a command a line, and "ok" after each.
//
//   pipes N, sockets N, eventfds N   opens so many
//   ring BLOCKS BYTES                a packet socket with a ring of so many blocks, of so many bytes each
//   semaphores N                     a set of so many, in a namespace of its own
//   churn N                          opens and closes so many pipes
//   close                            closes all of these
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 60000 };
static int held[MOST];
static int count;
static int semaphores = -1;

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

static void close_all(void) {
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
