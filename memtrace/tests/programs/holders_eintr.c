// A program that takes an interrupted system call for fatal: one thread sleeps in epoll_wait, which is never taken up again after an
// interruption, the main thread reads lines from standard input and answers each.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static void *waiter(void *argument) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = malloc(100)};
    int *ends = argument;
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event))
        abort();
    // Nobody ever writes.
    if (epoll_wait(epoll, &event, 1, -1) < 0)
        abort();
    return argument;
}

int main(void) {
    static int ends[2];
    pthread_t thread;
    if (pipe(ends) || pthread_create(&thread, NULL, waiter, ends))
        return 1;
    usleep(200000);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    char byte;
    ssize_t count;
    while ((count = read(0, &byte, 1)) > 0)
        if (byte == '\n')
            puts("ready");
    if (count < 0)
        abort();
    return 0;
}
