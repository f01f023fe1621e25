/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The partition protocol, version 1.0, as docs/partition-protocol.md specifies it: what goes over the socket between a
 * guest and the process that plays its host. Little-endian throughout.
 */
#ifndef _HV_UM_PROTOCOL_H
#define _HV_UM_PROTOCOL_H

#define PARTITION_MAGIC		0x50424D56u	/* the bytes "VMBP" */
#define PARTITION_MAJOR		1
#define PARTITION_MINOR		0

#define PARTITION_FRAME_MAX	4096

enum partition_op {
	PARTITION_HELLO		= 1,
	PARTITION_SET_REGISTER	= 2,	/* posted */
	PARTITION_GET_REGISTER	= 3,
	PARTITION_POST_MESSAGE	= 4,
	PARTITION_SIGNAL_EVENT	= 5,	/* posted */
	PARTITION_NOTE		= 6,	/* posted */
};

#define PARTITION_REPLY		0x8000	/* added to the op of the request */

enum partition_hello_status {
	PARTITION_OK		= 0,
	PARTITION_BAD_VERSION	= 1,
	PARTITION_BAD_MEMORY	= 2,
	PARTITION_BUSY		= 3,
	PARTITION_MALFORMED	= 4,
	PARTITION_UNKNOWN_GUEST	= 5,
};

#define PARTITION_FEATURE_RECONNECT	(1ull << 0)
#define PARTITION_FEATURE_POLLING_WORD	(1ull << 2)

enum partition_note_kind {
	PARTITION_NOTE_LOG	= 1,
	PARTITION_NOTE_CRASH	= 2,
};

struct partition_header {
	unsigned int	length;		/* of the whole frame, this header included */
	unsigned short	op;
	unsigned short	status;		/* 0 in requests */
	unsigned int	vp;
	unsigned int	sequence;	/* 0 in posted frames and in HELLO */
};

struct partition_hello {
	struct partition_header header;
	unsigned int		magic;
	unsigned short		major;
	unsigned short		minor;
	unsigned long long	features;
	unsigned long long	memory_size;
	unsigned long long	first_gpa;	/* the pages below are the kernel image's: not in the memory file */
	unsigned int		vp_count;
	unsigned int		last_sequence;	/* of the newest request sent, answered or not; 0: none */
	unsigned char		guest_id[16];
};

struct partition_hello_reply {
	struct partition_header header;
	unsigned short		major;
	unsigned short		minor;
	unsigned int		detail;
	unsigned long long	features;
	unsigned long long	capabilities;
};

struct partition_register {
	struct partition_header header;
	unsigned int		msr;
	unsigned int		reserved;
	unsigned long long	value;		/* absent in GET_REGISTER */
};

#define PARTITION_GET_REGISTER_LENGTH	24

struct partition_value_reply {
	struct partition_header header;
	unsigned long long	value;
};

struct partition_post_message {
	struct partition_header header;
	unsigned int		connection_id;
	unsigned int		message_type;
	unsigned int		payload_size;
	unsigned int		reserved;
	unsigned char		payload[240];	/* payload_size bytes of it are sent */
};

struct partition_signal_event {
	struct partition_header header;
	unsigned int		connection_id;
	unsigned short		flag;
	unsigned short		reserved;
};

struct partition_note {
	struct partition_header header;
	unsigned int		kind;
	char			text[PARTITION_FRAME_MAX - 20];
};

#endif
