/* Prints from ring 3 and powers off. The command line is echoed, to test that it arrives. */
#include "guest.h"

void guest_main(void)
{
	uint16_t cs;

	__asm__("mov %%cs, %0" : "=r"(cs));
	guest_printf("hello from ring %u, n=%lu, tsc %lu MHz\n", cs & 3u, guest_arg("n", 0),
		     guest_tsc_hz() / 1000000);
}
