import type { Topology } from '@switchyard/proto';
import { vi } from 'vitest';
import { placeCommand } from '../src/place/index.ts';

/** Runs `switchyard place` in this process: what it printed. @param onProgress told what it writes to stderr */
export async function runPlace(args: readonly string[], onProgress = (_: string) => {}): Promise<string> {
  let printed = '';
  const out = vi.spyOn(process.stdout, 'write').mockImplementation((chunk) => {
    printed += String(chunk);
    return true;
  });
  const err = vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => {
    onProgress(String(chunk));
    return true;
  });
  try {
    await placeCommand().exitOverride().parseAsync(args, { from: 'user' });
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  return printed;
}

/** Equal nodes of one worker, each with memory for so many experts. */
export function equalNodes(nodes: number, slots: number): Topology {
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: nodes }, (_, n) => ({
      name: `n${n}`,
      workers: [{ name: `n${n}w0`, expertMemoryBytes: 1000 * slots, relativeSpeed: 1 }],
    })),
    expertBytes: 1000,
    dispatchRowBytes: 5760,
    combineRowBytes: 5760,
    intraNode: { bandwidth: 5e10, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 3e-5 },
    links: null,
  };
}
