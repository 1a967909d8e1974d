/* libs: pg_pvmd */
/* What a stranger sends to the port of a daemon: hello and records. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/pvmd/crypt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t key[MPD_KEY_LEN] = {1};
	static uint8_t out[MPD_RECORD_MAX];
	uint8_t hello[MPD_HELLO_LEN];
	struct mpd_crypt *c;
	size_t used, len;

	if (mpd_crypt_setup() || mpd_crypt_new(&c, false, key, hello))
		return 0;
	if (size >= MPD_HELLO_LEN && !mpd_crypt_hello(c, data) &&
	    mpd_crypt_open(c, data + MPD_HELLO_LEN, size - MPD_HELLO_LEN, &used, out, &len) == 1)
		abort(); /* nobody without the key makes a record */
	mpd_crypt_free(c);
	return 0;
}
