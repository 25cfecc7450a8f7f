import * as zlib from 'node:zlib';

/**
 * CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320), as in zlib and Ethernet.
 * @param crc value so far, to go on from; 0 to begin
 */
export const crc32: (bytes: Uint8Array, crc?: number) => number =
  // Node 20.12 to 20.14 have none.
  'crc32' in zlib ? (zlib as unknown as { crc32: (bytes: Uint8Array, crc?: number) => number }).crc32 : crc32ByTable;

export function crc32ByTable(bytes: Uint8Array, crc = 0): number {
  let c = ~crc;
  for (let i = 0; i < bytes.length; i++) c = table[(c ^ bytes[i]) & 255] ^ (c >>> 8);
  return ~c >>> 0;
}

/** The remainder of every byte. */
const table = Int32Array.from({ length: 256 }, (_, byte) => {
  let c = byte;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});
