import { createHash } from 'node:crypto';
import type { Link } from '../src/index.ts';

/** 200 frames between 1 byte and 600 KiB, small ones more often; the same for the same seed. */
export function mixedFrames(seed: number): Uint8Array[] {
  let state = seed;
  const random = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state / 4_294_967_296;
  };
  return Array.from({ length: 200 }, (_, i) => {
    const length = i === 0 ? 1 : Math.ceil(600 * 1024 * random() ** 8);
    const frame = new Uint8Array(length);
    for (let at = 0; at < length; at += 1 + (length >> 6)) frame[at] = random() * 256;
    return frame;
  });
}

/** The first `count` frames that arrive from now on. */
export function collect(link: Link, count: number): Promise<Uint8Array[]> {
  return new Promise((resolve) => {
    const frames: Uint8Array[] = [];
    link.onFrame((frame) => {
      if (frames.push(frame) === count) resolve(frames);
    });
  });
}

export function digests(frames: Uint8Array[]): string[] {
  return frames.map(digest);
}

export function digest(frame: Uint8Array): string {
  return `${frame.length} ${createHash('sha1').update(frame).digest('hex')}`;
}
