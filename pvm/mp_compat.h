/* Exported, undocumented functions of PVM 3.4; what they do stands in mp_compat.c. */
#ifndef PVM_MP_COMPAT_H
#define PVM_MP_COMPAT_H

#include <sys/time.h>

char *pvmgetroot(void);
char *pvmgethome(void);
char *pvmgetpvmd(void);
char *pvmdsockfile(void);
int pvmgetdsig(void);
void pvmgetclock(struct timeval *tv);
void pvmsleep(int seconds);
int pvmxtoi(char *text);
int pvmstrtoi(char *text);
int pvmputenv(char *text);
int pvmendtask(void);
char *pvmnametag(int tag, int *found);
int pvmdisplaymhfinfo(void);
void pvmreset(int mytid, int kill_tasks, char *mbox_class, int mbox_index);
char *pvmtmpnam(char *name);

#endif
