/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * As much of ACPI as vmbus_drv.c uses before Linux 6.4, where VMBus is an ACPI device: one device without resources and
 * without a parent. With CONFIG_ACPI off, linux/acpi.h supplies the types, and is included before this file.
 */
#ifndef _ASM_UM_HYPERV_ACPI_H
#define _ASM_UM_HYPERV_ACPI_H

#include <linux/acpi.h>
#include <linux/device.h>

struct acpi_device {
	acpi_handle handle;
	struct device dev;
	struct {
		bool cca_seen;
		bool coherent_dma;
	} flags;
};

struct acpi_driver {
	const char *name;
	const struct acpi_device_id *ids;
	struct {
		int (*add)(struct acpi_device *device);
		int (*remove)(struct acpi_device *device);
	} ops;
	struct device_driver drv;
};

int acpi_bus_register_driver(struct acpi_driver *driver);
void acpi_bus_unregister_driver(struct acpi_driver *driver);

/* No resources to walk: a success that calls nothing. linux/acpi.h's own stub fails. */
#define acpi_walk_resources(handle, name, function, context) ((void)(function), AE_OK)

static inline struct acpi_device *acpi_dev_parent(struct acpi_device *device)
{
	return NULL;
}

static inline bool acpi_dev_resource_interrupt(struct acpi_resource *resource, int index, struct resource *result)
{
	return false;
}

static inline bool acpi_sleep_state_supported(u8 state)
{
	return false;
}

#endif
