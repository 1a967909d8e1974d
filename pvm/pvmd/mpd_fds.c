/*
 * Descriptors run out when there are many tasks. Some are held back, so that then a console still comes
 * in, which may end tasks, and so that a connection is refused rather than left waiting.
 */
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pvm/pvmd/mpd.h"

void mpd_fds_setup(struct mpd *pd)
{
	for (int i = 0; i < MPD_SPARE_FDS; i++)
		pd->spare_fds[i] = -1;
	mpd_fds_spare(pd);
}

bool mpd_fds_spare(struct mpd *pd)
{
	for (int i = 0; i < MPD_SPARE_FDS; i++) {
		if (pd->spare_fds[i] < 0)
			pd->spare_fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (pd->spare_fds[i] < 0)
			return false;
	}
	return true;
}

void mpd_fds_release(struct mpd *pd)
{
	for (int i = 0; i < MPD_SPARE_FDS; i++) {
		if (pd->spare_fds[i] >= 0)
			close(pd->spare_fds[i]);
		pd->spare_fds[i] = -1;
	}
}

void mpd_fds_shed(struct mpd *pd, int listen_fd)
{
	int fd;

	mpd_fds_release(pd);
	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	mpd_fds_spare(pd);
	mpd_log(pd, "out of descriptors: a connection was refused");
}
