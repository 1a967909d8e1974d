/*
 * What `pangaea` and pangaea-guest, the helper in a guest, say to each other over the guest channel:
 * a virtio-console of its own whose other end is <run-dir>/channel.sock. The agent and the VM's
 * process only pass bytes on, to every client alike, and may lose or repeat some: when a client is
 * slow, when two write at once, when the VM moves or an agent restarts. So the two ends make it
 * reliable: lines with a checksum, numbered and repeated until acknowledged.
 *
 *   <line> = <direction> ' ' <session> ' ' <verb> ' ' <number> [' ' <base64>] ' ' <crc32> '\n'
 *
 * The direction is '>' (to the guest) or '<', a session 16 hexadecimal digits that its opener drew.
 * What is no such line is ignored. To the guest:
 *   open 1 COMMAND   runs it by /bin/sh, standard error with its output
 *   in N DATA        N counts open, in and eof: the next is sent once this one is acknowledged
 *   eof N            closes its standard input
 *   kill 0           ends it (SIGHUP to its process group)
 *   got N            its output up to byte N has arrived; also says, each few seconds, that we live
 *   close 0          its end has arrived: it may be forgotten
 * From the guest:
 *   ack N            everything up to N was taken
 *   out N DATA       output from byte N on; repeated until "got"
 *   exit N STATUS    after N bytes of output it ended; repeated until "close"
 *   gone 0           there is no such session (any more)
 */
#ifndef PROTO_GUEST_LINE_H
#define PROTO_GUEST_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	GUEST_LINE_MAX = 2048, /* with the line feed */
	GUEST_DATA_MAX = 1024,
	GUEST_COMMAND_MAX = 1000,
	GUEST_WINDOW = 16384,	 /* bytes of output on the way */
	GUEST_AGAIN_MS = 1000,	 /* unacknowledged: once more */
	GUEST_ALIVE_MS = 5000,	 /* "got" at least so often */
	GUEST_SILENT_MS = 90000, /* a session whose opener is silent for so long ends */
};

enum guest_verb {
	GUEST_OPEN = 1,
	GUEST_IN,
	GUEST_EOF,
	GUEST_KILL,
	GUEST_GOT,
	GUEST_CLOSE,
	GUEST_ACK,
	GUEST_OUT,
	GUEST_EXIT,
	GUEST_GONE,
	GUEST_VERB_END,
};

struct guest_line {
	char direction; /* '>' or '<' */
	uint64_t session;
	enum guest_verb verb;
	uint64_t number;
	uint8_t data[GUEST_DATA_MAX];
	size_t len;
};

/* Into out[GUEST_LINE_MAX + 1], ending with a line feed and a 0; its length. */
size_t guest_line_print(const struct guest_line *l, char *out);
/* Without the line feed. false: no such line. */
bool guest_line_parse(const char *text, size_t len, struct guest_line *out);

/* Bytes that come into lines: what is longer than a line can be is dropped. */
struct guest_reader {
	char text[GUEST_LINE_MAX];
	size_t len;
	bool skip; /* until the next line feed */
};

/* Calls take() for each good line among the bytes. */
void guest_reader_feed(struct guest_reader *r, const void *data, size_t len,
		       void (*take)(void *ctx, const struct guest_line *l), void *ctx);

#endif
