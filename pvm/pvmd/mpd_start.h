/* A daemon that is being started elsewhere: what mpd_start.c and mpd_hoster.c share. */
#ifndef PVM_PVMD_MPD_START_H
#define PVM_PVMD_MPD_START_H

#include "pvm/pvmd/mpd.h"
#include "pvm/pvmd/mpd_hostfile.h"

enum { MPD_START_LINE_MAX = 1024, MPD_ORDERS_MAX = 8192 };

struct batch;

/* so=ms: waits for its turn, its user has been told what to type, he has answered. */
enum mpd_manual { MPD_MANUAL_NO, MPD_MANUAL_WAITS, MPD_MANUAL_ASKED, MPD_MANUAL_TOLD };

struct mpd_start {
	struct base_list link; /* mpd.starts */
	struct mpd *pd;
	struct batch *batch;
	struct mpd_hostline line;
	char ip[64];
	int32_t result; /* 0: under way; else its tid or an error */
	int host;
	pid_t pid;
	struct base_watch out;
	struct base_timer timer;
	char text[MPD_START_LINE_MAX];
	size_t text_len;
	bool told;	/* the line has come */
	bool by_hoster; /* its answer is awaited */
	enum mpd_manual manual;
	uint8_t secret[MPD_KEY_LEN]; /* ours, for the orders of a daemon that the hoster starts */
};

/* The end of it; the last one of its call answers the call and frees them all. */
void mpd_start_result(struct mpd_start *s, int32_t result);
/* The one line of the new daemon, or the name of an error. */
void mpd_start_line(struct mpd_start *s, const char *line);
/* Waits for that line on `fd`, which it takes. On an error the start has ended. */
BASE_MUST_CHECK int mpd_start_listen_to(struct mpd_start *s, int fd);
/* What the new daemon must know, the secret among it. */
void mpd_start_config(struct mpd_start *s, char *out, size_t cap);
const char *mpd_start_program(const struct mpd_start *s, char *own, size_t cap);
struct mpd_start *mpd_start_hosted(struct mpd *pd, int host);

/* mpd_hoster.c: asks for those that are its to start. */
void mpd_hoster_ask(struct mpd *pd, struct mpd_start *starts, uint32_t count);
/* What starts the daemon, with a new key for its orders. `how`: -s or -S. */
void mpd_hoster_command(struct mpd_start *s, const char *how, char *out, size_t cap);
/* The line that it printed. */
void mpd_hoster_line(struct mpd_start *s, const char *line);

/* mpd_manual.c: the next host that the user is to start, if he is at none now. */
void mpd_manual_next(struct mpd *pd);

#endif
