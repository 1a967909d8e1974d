/*
 * The other side of mpd_hoster.c: a daemon that a hoster has started (-K KEY). Before it is a daemon.
 */
#ifndef PVM_PVMD_MPD_HOSTED_H
#define PVM_PVMD_MPD_HOSTED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "pvm/pvmd/crypt.h"

void mpd_hosted_hex(const uint8_t *p, size_t n, char *out);
/* MPD_KEY_LEN bytes from the front of `s`; what follows is not looked at. */
bool mpd_hosted_unhex(const char *s, uint8_t out[MPD_KEY_LEN]);

/*
 * Prints its line, goes to the background (unless `stay`) and waits for its orders: *orders to read
 * them from, and the descriptor to tell the outcome on, or -errno. -ETIMEDOUT: none came. `by_hand`:
 * somebody types that line elsewhere first.
 */
BASE_MUST_CHECK int mpd_hosted_wait(const uint8_t starter[MPD_KEY_LEN], bool stay, bool by_hand,
				    FILE **orders);

#endif
