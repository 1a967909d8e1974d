/*
 * What libgpvm3 and the group server say to each other: ordinary PVM messages in a context of their
 * own. The tag of a request is the operation; its body is a string (the group) and GS_REQ_INTS
 * integers. Every request has one reply with tag GS_REPLY: the result, then what the operation
 * adds. Requests of one task are answered in order; a barrier and a freeze are answered when all
 * are in.
 */
#ifndef PVM_GS_PROTO_H
#define PVM_GS_PROTO_H

/* Mailbox class in which the server stands, and the task that is it. */
#define GS_CLASS "pvmgs"
#define GS_TASK	 "pvmgs"

/* Contexts below those that the original keeps for itself. */
enum { GS_CTX = 0x7fffc, GS_DATA_CTX = 0x7fffb, GS_ROUND_CTX = 0x7fffa };

/* arguments after the group; what the reply adds */
enum gs_op {
	GS_JOIN = 1, /* - */
	GS_LEAVE,
	GS_INST, /* tid */
	GS_TID,	 /* instance */
	GS_SIZE,
	GS_BARRIER, /* count, -1 for all members */
	GS_MEMBERS, /* generation known: generation, static, slots, and when it is new a tid per
		       slot */
	GS_FREEZE,  /* size, -1 for all members: as GS_MEMBERS */
	GS_DUMP,    /* lines of text */
	GS_OP_LAST = GS_DUMP,
	GS_REPLY = 100,
	GS_EXIT, /* a member has ended (notify) */
	GS_GONE, /* the server has ended (notify, to a client) */
};

enum { GS_REQ_INTS = 1, GS_NAME_MAX = 4096 };

#endif
