/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The architecture's part of linux/hyperv.h's world, for User-Mode Linux. Registers have x86's numbers: x86's
 * asm/hyperv-tlfs.h is on the include path.
 */
#ifndef _ASM_UM_MSHYPERV_H
#define _ASM_UM_MSHYPERV_H

#include <linux/types.h>
#include <linux/version.h>
#include <asm/hyperv-tlfs.h>

/* With a vector defined, vmbus_drv.c leaves the interrupt to hv_setup_vmbus_handler(). Nothing uses the number. */
#define HYPERVISOR_CALLBACK_VECTOR	0xf3

void hv_set_msr(unsigned int msr, u64 value);
u64 hv_get_msr(unsigned int msr);

/* Before 6.10 they had these names. */
#define hv_set_register	hv_set_msr
#define hv_get_register	hv_get_msr

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
/* Without CONFIG_OF the parser refuses, and probing would fail: there are no memory ranges, and that is all right. */
#undef of_range_parser_init
#define of_range_parser_init(parser, node)	((void)(node), 0)
#else
#include <asm/hyperv_acpi.h>
union hv_hypervisor_version_info;
int hv_get_hypervisor_version(union hv_hypervisor_version_info *info);
#endif

/* Used only where a paravisor supplies the synic pages. */
#define ioremap_cache	ioremap

#include <asm-generic/mshyperv.h>

#endif
