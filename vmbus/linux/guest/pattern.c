// SPDX-License-Identifier: GPL-2.0-or-later
/* Deterministic data and its digest. The stream is a counter run through splitmix64 (Steele, Lea, Flood 2014). */
#include <string.h>
#include <stdio.h>
#include "guest.h"

#define GOLDEN 0x9E3779B97F4A7C15ull

uint64_t mix(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
	value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
	return value ^ (value >> 31);
}

static uint64_t word(uint64_t seed, uint64_t index)
{
	return mix(seed + (index + 1) * GOLDEN);
}

void pattern(uint64_t seed, uint64_t offset, void *buffer, size_t length)
{
	unsigned char *at = buffer;

	while (length) {
		uint64_t value = word(seed, offset / 8);
		size_t skip = offset % 8, part = 8 - skip;

		if (part > length)
			part = length;
		memcpy(at, (unsigned char *)&value + skip, part);
		at += part;
		offset += part;
		length -= part;
	}
}

bool pattern_matches(uint64_t seed, uint64_t offset, const void *buffer, size_t length)
{
	unsigned char expected[4096];
	const unsigned char *at = buffer;

	while (length) {
		size_t part = length < sizeof(expected) ? length : sizeof(expected);

		pattern(seed, offset, expected, part);
		if (memcmp(expected, at, part))
			return false;
		at += part;
		offset += part;
		length -= part;
	}
	return true;
}

/* SHA-256, FIPS 180-4. */

static const uint32_t rounds[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t value, int count)
{
	return value >> count | value << (32 - count);
}

static void add_block(struct sha256 *hash, const unsigned char *block)
{
	uint32_t w[64], a[8];
	int i;

	for (i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
	for (; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] +
		       (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(a, hash->state, sizeof(a));
	for (i = 0; i < 64; i++) {
		uint32_t one = a[7] + (rotate(a[4], 6) ^ rotate(a[4], 11) ^ rotate(a[4], 25)) +
			       ((a[4] & a[5]) ^ (~a[4] & a[6])) + rounds[i] + w[i];
		uint32_t two = (rotate(a[0], 2) ^ rotate(a[0], 13) ^ rotate(a[0], 22)) +
			       ((a[0] & a[1]) ^ (a[0] & a[2]) ^ (a[1] & a[2]));

		memmove(a + 1, a, 7 * sizeof(a[0]));
		a[4] += one;
		a[0] = one + two;
	}
	for (i = 0; i < 8; i++)
		hash->state[i] += a[i];
}

void sha256_start(struct sha256 *hash)
{
	static const uint32_t start[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};

	memcpy(hash->state, start, sizeof(start));
	hash->length = 0;
}

void sha256_add(struct sha256 *hash, const void *data, size_t length)
{
	const unsigned char *at = data;

	while (length) {
		size_t used = hash->length % 64, part = 64 - used;

		if (part > length)
			part = length;
		if (part == 64) {
			add_block(hash, at);
		} else {
			memcpy(hash->block + used, at, part);
			if (used + part == 64)
				add_block(hash, hash->block);
		}
		hash->length += part;
		at += part;
		length -= part;
	}
}

void sha256_finish(struct sha256 *hash, char hex[65])
{
	static const unsigned char padding[64] = { 0x80 };
	uint64_t bits = __builtin_bswap64(hash->length * 8);
	int i;

	sha256_add(hash, padding, 1 + (119 - hash->length % 64) % 64);
	sha256_add(hash, &bits, 8);
	for (i = 0; i < 8; i++)
		sprintf(hex + 8 * i, "%08x", hash->state[i]);
}
