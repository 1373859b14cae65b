// A process whose memory goes one way, for tests that must tell which: `host MODE BASE_MIB ARGUMENT`.
//
//   leak RATE       leaks so many KiB a second, in leak_here
//   cache SECONDS   fills 20 MiB in so many seconds, then reads them
//   slow SECONDS    the same, more and more slowly
//   batch SECONDS   takes 8 MiB bit by bit and gives them back, each so many seconds
//   step SECONDS    takes 10 MiB at once after so many seconds
//   warm SECONDS    takes 5 MiB in so many seconds, and gives half of them back
//   build 0         starts a process each half second that takes 50 MiB within two and a half, and ends
//   jitter PAGES    takes and gives back up to so many pages
//   idle 0          does nothing
//
// It says `ready` once it has its base, and ends with its standard input.
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KIB 1024UL
#define MIB (1024UL * KIB)
#define PAGE 4096UL
#define TICK_MS 250

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

__attribute__((noinline)) void leak_here(size_t bytes) {
    char *kept = malloc(bytes);
    memset(kept, 1, bytes);
    __asm__ volatile("" : : "r"(kept) : "memory");
}

// Memory of which as much is resident as was asked for last.
struct arena {
    char *base;
    size_t room, used;
};

static struct arena make(size_t room) {
    char *base = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) exit(1);
    madvise(base, room, MADV_NOHUGEPAGE);
    return (struct arena){base, room, 0};
}

static void use(struct arena *arena, size_t bytes) {
    bytes = bytes / PAGE * PAGE;
    if (bytes > arena->room) bytes = arena->room;
    if (bytes > arena->used) memset(arena->base + arena->used, 1, bytes - arena->used);
    if (bytes < arena->used) madvise(arena->base + bytes, arena->used - bytes, MADV_DONTNEED);
    arena->used = bytes;
}

// The load of a compiler on the memory of a host.
static void compile_once(void) {
    if (fork() != 0) return;
    struct arena code = make(50 * MIB);
    for (int part = 1; part <= 25; part++) {
        use(&code, part * code.room / 25);
        poll(NULL, 0, 100);
    }
    _exit(0);
}

static size_t wanted(const char *mode, double argument, double at) {
    double part = argument > 0 ? at / argument : 0;
    if (!strcmp(mode, "cache")) return 20 * MIB * fmin(part, 1);
    if (!strcmp(mode, "slow")) return 20 * MIB * (1 - exp(-3 * part));
    if (!strcmp(mode, "batch")) return 8 * MIB * (part - floor(part));
    if (!strcmp(mode, "step")) return at > argument ? 10 * MIB : 0;
    if (!strcmp(mode, "warm")) return part < 1 ? 5 * MIB * part : 5 * MIB / 2;
    if (!strcmp(mode, "jitter")) return PAGE * (size_t)(argument * drand48());
    return 0;
}

int main(int count, char **words) {
    if (count != 4) return 2;
    const char *mode = words[1];
    double argument = atof(words[3]);
    srand48(getpid());
    struct arena base = make(atol(words[2]) * MIB), changing = make(64 * MIB);
    use(&base, base.room);
    puts("ready");
    fflush(stdout);
    // Nobody waits for its processes.
    signal(SIGCHLD, SIG_IGN);
    double started = now(), leaked = 0;
    for (;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, TICK_MS) > 0) return 0;
        double at = now() - started;
        if (!strcmp(mode, "leak")) {
            // In objects of a kibibyte, as many as are due.
            for (; leaked + 1 <= argument * at; leaked++) leak_here(KIB - 16);
        } else if (!strcmp(mode, "build")) {
            for (; leaked < 2 * at; leaked++) compile_once();
        } else {
            use(&changing, wanted(mode, argument, at));
        }
    }
}
