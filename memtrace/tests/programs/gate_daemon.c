// A daemon: a child's child, in a session of its own, that goes on when its command has ended.
//
//   gate_daemon stay     goes on for two minutes, unless it is killed
//   gate_daemon lose N   loses N blocks of 300 bytes (lose_in_daemon), and ends by itself
#include <stdlib.h>
#include <unistd.h>

__attribute__((noinline, noclone)) void lose_in_daemon(int count) {
    for (int i = 0; i < count; i++) {
        char *volatile lost = malloc(300);
        *(volatile char *)lost = 1;
        lost = NULL;
    }
}

__attribute__((noinline, noclone)) static void wipe(void) {
    volatile char deep[16384];
    for (size_t i = 0; i < sizeof deep; i++) deep[i] = 0;
}

int main(int argc, char **argv) {
    int number = argc > 2 ? atoi(argv[2]) : 0;
    if (fork() != 0) return 0;
    setsid();
    if (fork() != 0) _exit(0);
    // A reader of the command's output does not wait for a daemon.
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    if (number == 0) sleep(120);
    lose_in_daemon(number);
    wipe();
    return 0;
}
