/*
 * Writes AML, the byte code of ACPI's DSDT (ACPI 6.4, chapter 20), into a buffer. What has a length
 * is opened and closed; the handle is where it began. Errors are the buffer's.
 */
#ifndef VMM_AML_H
#define VMM_AML_H

#include "base/buf.h"

size_t aml_scope(struct base_wbuf *b, const char *name);
/* `name` of the devices and methods has four characters. */
size_t aml_device(struct base_wbuf *b, const char *name);
size_t aml_method(struct base_wbuf *b, const char *name, unsigned arg_count, bool serialized);
size_t aml_if(struct base_wbuf *b);
void aml_close(struct base_wbuf *b, size_t handle);

void aml_int(struct base_wbuf *b, uint64_t v);
void aml_name_int(struct base_wbuf *b, const char *name, uint64_t v);
void aml_name_str(struct base_wbuf *b, const char *name, const char *v);
/* A compressed id as "PNP0501". */
void aml_name_eisaid(struct base_wbuf *b, const char *name, const char *id);
void aml_name_package(struct base_wbuf *b, const char *name, const uint8_t *v, unsigned count);
/* The 32-bit register `field` at an I/O port. */
void aml_port_field32(struct base_wbuf *b, const char *region, const char *field, uint16_t port);

/* A resource template named _CRS. */
size_t aml_crs(struct base_wbuf *b);
void aml_crs_close(struct base_wbuf *b, size_t handle);
void aml_crs_memory(struct base_wbuf *b, uint32_t base, uint32_t len);
void aml_crs_port(struct base_wbuf *b, uint16_t base, uint8_t len);
/* Edge-triggered, active high, exclusive. */
void aml_crs_edge_irq(struct base_wbuf *b, uint32_t gsi);

/* Local0 = field */
void aml_store_local0(struct base_wbuf *b, const char *field);
/* The predicate (Local0 & mask), right after aml_if(). */
void aml_local0_and(struct base_wbuf *b, uint8_t mask);
void aml_notify(struct base_wbuf *b, const char *device, uint8_t value);

#endif
