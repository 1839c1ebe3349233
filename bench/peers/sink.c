/* The floor: a program that reads what comes on its connections and does nothing with it.

   When a client closes its half of a connection, it is told in digits how many bytes came, and the connection ends.
   Linux only (epoll). Prints the address that it listens on, and runs until it is killed. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Of 32 KB to 1 MB the size at which a byte costs least: a larger buffer falls out of the cache. */
enum { READ_BYTES = 64 * 1024, MAX_FILES = 1 << 16, EVENTS = 256, BACKLOG = 1024 };

static char buffer[READ_BYTES];
static unsigned long long received[MAX_FILES]; /* by file descriptor */

static void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static void accept_all(int listener, int poll)
{
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (client < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED)
                return;
            give_up("accept");
        }
        if (client >= MAX_FILES) {
            close(client);
            continue;
        }
        received[client] = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, client, &event) < 0)
            give_up("epoll_ctl");
    }
}

/* One read each time that there is something: the fairest, and what servers do. */
static void read_once(int client)
{
    ssize_t size = read(client, buffer, sizeof buffer);
    if (size > 0) {
        received[client] += (unsigned long long)size;
        return;
    }
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size == 0)
        dprintf(client, "%llu\n", received[client]);
    close(client);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_bytes = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int poll = epoll_create1(0);
    if (listener < 0 || poll < 0)
        give_up("socket");
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, BACKLOG) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &address_bytes) < 0)
        give_up("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0)
        give_up("epoll_ctl");
    printf("sink listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            give_up("epoll_wait");
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener, poll);
            else
                read_once(events[i].data.fd);
        }
    }
}
