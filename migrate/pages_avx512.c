#include "migrate/pages.h"

#define PAGES_HASH mig_hash_avx512
#include "migrate/pages_hash.h"
