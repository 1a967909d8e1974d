/* Small syntaxes that files, the command line and messages share. */
#ifndef PROTO_TEXT_H
#define PROTO_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TEXT_NAME_MAX = 64 /* with the final 0 */ };

/* Names of nodes and VMs: letters, digits, '-', '_', '.'; first a letter or digit; 1 to 63 long. */
bool text_name_valid(const char *s);

/* Decimal, nothing around it, within min..max. */
bool text_number_parse(const char *s, uint64_t min, uint64_t max, uint64_t *out);
/* A number with K, M, G or T (of 1024; a final B or iB is allowed): bytes. */
bool text_size_parse(const char *s, uint64_t *out);
/* "512M", "1.5G": three digits at most; returns out. */
char *text_size_print(uint64_t bytes, char *out, size_t cap);
/* "12s", "3m20s", "5h03m", "12d4h". */
char *text_duration_print(uint64_t ns, char *out, size_t cap);

bool text_mac_parse(const char *s, uint8_t mac[6]);
void text_mac_print(const uint8_t mac[6], char out[18]);
/* A locally administered unicast address that depends only on the name and the index. */
void text_mac_derive(const char *name, unsigned index, uint8_t mac[6]);

/* UTF-8 of printable characters only: no controls, line separators, byte order marks. */
bool text_printable(const char *s);
/* Replaces what a terminal would act on (control characters, DEL, C1) by '?', in place. */
void text_clean(char *s);

#endif
