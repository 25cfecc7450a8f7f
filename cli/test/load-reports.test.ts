import { describe, expect, it } from 'vitest';
import type { ClusterStatus, WorkerCounters } from '../src/api/cluster-status.ts';
import { levelReport } from '../src/load/level-report.ts';
import { timeReport } from '../src/load/time-report.ts';
import { wireReport } from '../src/load/wire-report.ts';

describe('the report of a level', () => {
  const seen = {
    chunkMs: [],
    promptTokens: 1,
    cachedTokens: 0,
    outputTokens: 1,
    finishReason: 'length',
    error: null,
  };

  it('says nothing of prompt tokens where the server reports no usage of one request', () => {
    const told = { ...seen, startMs: 0, endMs: 1000 };
    const level = levelReport(1, [told, { ...told, promptTokens: null, cachedTokens: null }]);
    expect(level).toMatchObject({ promptTokens: null, cachedTokens: null, totalTokensPerSecond: null, outputTokensPerSecond: 2 });
    expect(levelReport(1, [told, told])).toMatchObject({ promptTokens: 2, cachedTokens: 0, totalTokensPerSecond: 4 });
  });

  it('holds as many requests as may be asked for', () => {
    const completions = Array.from({ length: 200_000 }, (_, i) => ({ ...seen, startMs: i, endMs: i + 1000 }));
    expect(levelReport(1, completions)).toMatchObject({ requests: 200_000, errors: 0, seconds: (199_999 + 1000) / 1000 });
    expect(levelReport(1, []).seconds).toBe(0);
  });
});

describe('the counters of a level in which a worker was started anew', () => {
  const links = (roundTrips: number) => [
    { peer: 'b', transport: 'tcp', bytesSent: 1, bytesReceived: 1, framesSent: 1, roundTripSeconds: roundTrips / 1000, roundTrips },
  ];
  const counted = (n: number): WorkerCounters => ({
    ...{
      steps: n,
      promptTokens: n,
      generatedTokens: n,
      seconds: { attention: n, idle: 3 * n },
      rowsDispatched: n,
      remoteNodesVisited: 2 * n,
    },
    links: links(n),
  });
  const statusOf = (a: number, b: number | null) =>
    ({
      workers: [
        { name: 'a', node: 'n0', stats: counted(a) },
        { name: 'b', node: 'n1', stats: b === null ? null : counted(b) },
      ],
    }) as ClusterStatus;

  it('are those since it was', () => {
    expect(timeReport(statusOf(100, 1000), statusOf(150, 20))).toEqual({ steps: 70, seconds: { attention: 70 } });
    const wire = wireReport(statusOf(100, 1000), statusOf(150, 20), 10);
    expect(wire).toMatchObject({ remoteNodesPerTokenLayer: 2 });
    expect(wire.roundTripMicroseconds).toBeCloseTo(1000);
  });

  it('are those of the others where it is gone', () => {
    expect(timeReport(statusOf(100, 1000), statusOf(150, null))).toEqual({ steps: 50, seconds: { attention: 50 } });
    expect(wireReport(statusOf(100, 1000), statusOf(150, null), 10)).toMatchObject({ remoteNodesPerTokenLayer: 2 });
  });
});
