/* The framing of GDB's remote protocol and its hexadecimal, apart from any machine. */
#ifndef VMM_GDB_PACKET_H
#define VMM_GDB_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VMM_GDB_PACKET_MAX = 16384 };

enum vmm_gdb_item {
	VMM_GDB_MORE,	   /* bytes are missing */
	VMM_GDB_PACKET,	   /* text[len] holds a packet's body, terminated */
	VMM_GDB_BAD,	   /* a packet with a wrong checksum or too long: answer '-' */
	VMM_GDB_INTERRUPT, /* Ctrl-C */
};

/* Zero it to start. */
struct vmm_gdb_reader {
	char text[VMM_GDB_PACKET_MAX + 1];
	size_t len;
	enum { GDB_IDLE, GDB_BODY, GDB_SUM1, GDB_SUM2 } state;
	bool overflow;
	uint8_t sum;
	int claimed;
};

/* Takes one byte. */
enum vmm_gdb_item vmm_gdb_reader_put(struct vmm_gdb_reader *r, uint8_t byte);

/* A reply under construction; what does not fit is dropped and marks it as too long. */
struct vmm_gdb_reply {
	char text[VMM_GDB_PACKET_MAX + 8]; /* "$", body, "#xx" */
	size_t len;
	bool overflow;
};

void vmm_gdb_reply_start(struct vmm_gdb_reply *r);
void vmm_gdb_reply_text(struct vmm_gdb_reply *r, const char *s);
void vmm_gdb_reply_hex(struct vmm_gdb_reply *r, const void *bytes, size_t len);
/* Registers that cannot be had: "xx" for each byte. */
void vmm_gdb_reply_unknown(struct vmm_gdb_reply *r, size_t len);
void vmm_gdb_reply_format(struct vmm_gdb_reply *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Adds the checksum; the frame is text[0..len). */
void vmm_gdb_reply_end(struct vmm_gdb_reply *r);

/* Reads hexadecimal at *s and moves on; false where there is no digit or more than 16. */
bool vmm_gdb_hex(const char **s, uint64_t *value);
/* Exactly 2*len digits; false otherwise, then *s is undefined. */
bool vmm_gdb_unhex(const char **s, void *out, size_t len);
bool vmm_gdb_skip(const char **s, char c);

#endif
