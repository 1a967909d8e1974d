#include "pvm/mp_task.h"

#include <stdlib.h>

void *mp_block_alloc(size_t size)
{
	return malloc(size ? size : 1);
}

void mp_block_free(void *block)
{
	free(block);
}
