import type { Topology } from '@switchyard/proto';
import { openTrace, type RoutingTrace } from '../src/index.ts';

/** 48 sequences of the gpt-oss-20b trace, 60 tokens each. */
export async function gptOssSlice(): Promise<RoutingTrace> {
  const input = await openTrace(new URL('./fixtures/gpt-oss-20b-slice.trace.gz', import.meta.url).pathname);
  if (input.kind !== 'routing') throw new Error('the fixture is a routing trace');
  return input.trace;
}

export function testTopology(nodes: number, workersPerNode: number, expertsPerWorker: number): Topology {
  return {
    format: 'switchyard-topology',
    version: 1,
    nodes: Array.from({ length: nodes }, (_, n) => ({
      name: `n${n}`,
      workers: Array.from({ length: workersPerNode }, (_, w) => ({
        name: `n${n}w${w}`,
        expertMemoryBytes: expertsPerWorker * 1000,
        relativeSpeed: 1,
      })),
    })),
    expertBytes: 1000,
    dispatchRowBytes: 5760,
    combineRowBytes: 5760,
    intraNode: { bandwidth: 50e9, latency: 5e-6 },
    interNode: { bandwidth: 1.25e9, latency: 30e-6 },
    links: null,
  };
}

export async function* bytesOf(...parts: (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield typeof part === 'string' ? new TextEncoder().encode(part) : part;
}
