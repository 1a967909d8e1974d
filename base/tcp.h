/* What all TCP connections between hosts want. Any thread. */
#ifndef BASE_TCP_H
#define BASE_TCP_H

/* Small pieces go at once. Advice only: a failure costs speed. */
void base_tcp_no_delay(int fd);
/*
 * For a connection whose other side has answered (connect(2) or accept(2) are done): where that is near, a kernel
 * that is set to BBR is to use Reno here. What else is chosen stays; on other sockets nothing happens.
 */
void base_tcp_keep_unpaced(int fd);

#endif
