#include "base/log.h"
#include "ctl/ctl.h"

int main(int argc, char **argv)
{
	base_log_init("pangaea");
	return ctl_main(argc, argv);
}
