/*
 * The guest's console for several people at once: what the guest writes is kept (scrollback) and
 * goes to every client, what a client types goes to the guest. Clients are connections to
 * console.sock and, on request, our own standard input and output.
 *
 * vmm_console_write() and vmm_console_input_ready() may come from any thread and never block; all
 * else belongs to the loop's thread. A client that does not read loses the oldest output.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/loop.h"

struct vmm_console;

struct vmm_console_ops {
	/*
	 * Typed bytes for the guest: how many it takes now. After less than all, the device calls
	 * vmm_console_input_ready() once it has room again.
	 */
	size_t (*input)(void *arg, const uint8_t *data, size_t len);
	/* Ctrl-A X on the terminal. */
	void (*quit)(void *arg);
};

BASE_MUST_CHECK int vmm_console_new(struct base_loop *loop, const struct vmm_console_ops *ops,
				    void *arg, struct vmm_console **out);
void vmm_console_free(struct vmm_console *c);

void vmm_console_write(struct vmm_console *c, const void *data, size_t len);
void vmm_console_input_ready(struct vmm_console *c);

/* Serves connections on a listening stream socket, which it takes over on success. */
BASE_MUST_CHECK int vmm_console_listen(struct vmm_console *c, int listen_fd);
/* Keeps the output in this file (vmmctl.h), for those who come too late. Before other threads write. */
BASE_MUST_CHECK int vmm_console_keep(struct vmm_console *c, int fd);
/* Attaches descriptors 0 and 1; a terminal becomes raw until vmm_console_free(). */
BASE_MUST_CHECK int vmm_console_stdio(struct vmm_console *c);
/* Writes out what clients can still take without waiting. */
void vmm_console_flush(struct vmm_console *c);

#endif
