import { performance } from 'node:perf_hooks';
import type { Link } from '@switchyard/proto';

/** What is done with a frame, by its first byte. */
const kinds = { echo: 0, drop: 1, acknowledge: 2 } as const;

const roundTrips = 400;
const warmupRoundTrips = 100;
const smallBytes = 64;
const largeBytes = 1024 * 1024;
const largeFrames = 24;
const bursts = 7;

/** Answers a prober for as long as the link lives. */
export function answerProbes(link: Link): void {
  link.onFrame((frame) => {
    if (frame[0] === kinds.echo) link.send(frame);
    else if (frame[0] === kinds.acknowledge) link.send(Uint8Array.of(kinds.acknowledge));
  });
}

/** Latency one way in seconds (half the median round trip of 64 bytes) and bandwidth in bytes per second (the median of bursts of 1 MiB frames). */
export async function probeLink(link: Link): Promise<{ latency: number; bandwidth: number }> {
  let answered: () => void = () => {};
  link.onFrame(() => answered());
  const closed = link.closed.then((error) => {
    throw error ?? new Error('the other end closed the link');
  });
  closed.catch(() => {});
  const answer = () =>
    new Promise<void>((resolve) => {
      answered = resolve;
    });
  const trips: number[] = [];
  for (let i = 0; i < warmupRoundTrips + roundTrips; i++) {
    const frame = new Uint8Array(smallBytes);
    const start = performance.now();
    const back = answer();
    link.send(frame);
    await Promise.race([back, closed]);
    if (i >= warmupRoundTrips) trips.push(performance.now() - start);
  }
  const roundTripMs = median(trips);
  const rates: number[] = [];
  for (let burst = 0; burst < bursts; burst++) {
    const start = performance.now();
    const back = answer();
    for (let i = 0; i < largeFrames; i++) {
      const frame = new Uint8Array(largeBytes);
      frame[0] = i === largeFrames - 1 ? kinds.acknowledge : kinds.drop;
      if (!link.send(frame)) await Promise.race([link.drained(), closed]);
    }
    await Promise.race([back, closed]);
    rates.push((largeFrames * largeBytes) / Math.max(1e-3, performance.now() - start - roundTripMs));
  }
  return { latency: roundTripMs / 2000, bandwidth: 1000 * median(rates) };
}

function median(values: number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}
