import { createHmac, timingSafeEqual } from 'node:crypto';

/** Compares two secrets in a time that does not depend on where they differ or how long they are. */
export function sameSecret(a: string, b: string): boolean {
  return timingSafeEqual(fingerprint(a), fingerprint(b));
}

/** Digests have one length, which timingSafeEqual needs. The key only separates this use of SHA-256 from others. */
function fingerprint(secret: string): Buffer {
  return createHmac('sha256', 'switchyard secret').update(secret).digest();
}
