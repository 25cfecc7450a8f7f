import { describe, expect, it } from 'vitest';
import type { ClusterStatus } from '../src/api/cluster-status.ts';
import { wireReport } from '../src/load/wire-report.ts';
import { trafficReport } from '../src/traffic/traffic-report.ts';
import { trafficText } from '../src/traffic/traffic-text.ts';

type Link = NonNullable<ClusterStatus['workers'][number]['stats']>['links'][number];

const link = (peer: string, sent: number, received: number, frames: number): Link => ({
  peer,
  transport: 'uds',
  bytesSent: sent,
  bytesReceived: received,
  framesSent: frames,
  roundTripSeconds: 0.001 * frames,
  roundTrips: frames,
});

/** Three workers on two nodes: a and b on the first, c on the second. */
function statusOf(
  links: Record<string, Link[]>,
  changes: Partial<ClusterStatus['plan']> = {},
  rows = 100,
  remoteNodes = 50,
): ClusterStatus {
  return {
    format: 'switchyard-status',
    model: 'm',
    numericClass: 'bf16',
    ready: true,
    plan: {
      epoch: 1,
      checksum: '',
      moeLayers: [0],
      experts: 4,
      topK: 2,
      rowBytes: 2000,
      prediction: { remoteNodes: 0.4, homeShare: 0.7 },
      ...changes,
    },
    requests: { traffic: { rows, remoteNodes, visits: 200, homeVisits: 150, interNodeBytes: 0, intraNodeBytes: 0 } },
    homes: { choices: { domain: 3, prefix: 0 } },
    trace: { on: false },
    workers: ['a', 'b', 'c'].map((name) => ({
      name,
      node: name === 'c' ? 'n1' : 'n0',
      state: 'ready',
      pid: 1,
      progress: 1,
      loading: null,
      failure: null,
      experts: 1,
      residentBytes: 0,
      addresses: [],
      stats: {
        steps: 1,
        promptTokens: name === 'a' ? 60 : 0,
        generatedTokens: name === 'a' ? 40 : 0,
        seconds: {},
        rowsDispatched: name === 'a' ? rows : 0,
        remoteNodesVisited: name === 'a' ? remoteNodes : 0,
        links: links[name] ?? [],
      },
    })),
  };
}

describe('traffic report', () => {
  // 50 rows of 2000 bytes to c in 10 frames, whose sums of 2000 bytes come back; and some inside the node, on two links of the same pair.
  const inter = link('c', 50 * 2000 + 10 * 64, 50 * 2000 + 10 * 64, 10);
  const status = statusOf({ a: [inter, link('b', 300, 200, 3)], b: [link('a', 70, 30, 1)] });

  it('adds each direction where it was sent, by worker and by node', () => {
    const { workers, nodes, tokens, rows } = trafficReport(null, status, null);
    expect(workers.names).toEqual(['a', 'b', 'c']);
    expect(workers.bytes).toEqual([
      [0, 330, 100_640],
      [270, 0, 0],
      [100_640, 0, 0],
    ]);
    expect(workers.frames).toEqual([
      [0, 4, 10],
      [4, 0, 0],
      [10, 0, 0],
    ]);
    expect(nodes).toEqual({
      names: ['n0', 'n1'],
      bytes: [
        [600, 100_640],
        [100_640, 0],
      ],
      frames: [
        [8, 10],
        [10, 0],
      ],
    });
    expect([tokens, rows]).toEqual([100, 100]);
  });

  it('compares with the formula and the plan', () => {
    const { interNodeBytes, intraNodeBytes, r, homeShare, formula, plan } = trafficReport(null, status, null);
    expect([interNodeBytes, intraNodeBytes, r, homeShare]).toEqual([2012.8, 6, 0.5, 0.75]);
    expect(formula).toMatchObject({ rowBytes: 2000, sumBytes: 2000, predicted: 2000, measured: 2012.8, within: true });
    expect(formula!.deviation).toBeCloseTo(0.0064, 6);
    // 20 frames for 100 rows; half a pair a row leaves its node.
    expect(formula).toMatchObject({ headerBytes: 12.8, tableBytes: 4, wholeWithin: true });
    expect(formula!.wholeDeviation).toBeCloseTo(2012.8 / 2016.8 - 1, 9);
    expect(plan!.drift).toBeCloseTo(0.25, 9);
    // Rows that are sent to each of two workers of a node cost twice what the formula says.
    const doubled = trafficReport(null, statusOf({ a: [link('c', 200_640, 100_640, 10)] }), null);
    expect(doubled.formula).toMatchObject({ within: false });
    expect(doubled.formula!.deviation).toBeCloseTo(0.5064, 6);
    const silent = trafficReport(null, statusOf({}, { rowBytes: null, prediction: null }, 0, 0), null);
    expect(silent).toMatchObject({ r: null, formula: null, plan: null });
  });

  it('of an interval is what grew in it; a worker that started anew has counted from zero', () => {
    const later = statusOf({ a: [link('c', 500_000, 400_000, 30), link('b', 100, 100, 1)] }, {}, 150, 60);
    const { workers, rows, r, homeShare } = trafficReport(status, later, 2);
    expect(workers.bytes[0][2]).toBe(500_000 - 100_640);
    expect(workers.frames[2][0]).toBe(20);
    expect(workers.bytes[0][1]).toBe(100);
    expect([rows, r, homeShare]).toEqual([50, 0.2, null]);
    // Of those 50 rows no pair left its node; of 50 that ended besides, one each.
    expect(trafficReport(status, later, 2).formula!.tableBytes).toBe(0);
    later.requests.traffic = { ...later.requests.traffic, rows: 200, visits: 300 };
    expect(trafficReport(status, later, 2)).toMatchObject({ homeShare: 0, formula: { tableBytes: 8 } });
  });

  it('of an interval in which a worker was lost, or started anew, is what the others and the new one counted', () => {
    const reading = (a: number, b: number | null) => {
      const found = statusOf({ a: [link('b', 10 * a, a, 1)], b: [link('a', 10 * (b ?? 0), 10 * (b ?? 0), 1)] });
      const counted = (rows: number) => ({ steps: rows, rowsDispatched: rows });
      return {
        ...found,
        workers: found.workers.map((worker) => {
          const rows = { a, b, c: 0 }[worker.name] ?? null;
          return { ...worker, stats: rows === null ? null : { ...worker.stats!, ...counted(rows) } };
        }),
      };
    };
    const lost = trafficReport(reading(100, 100), reading(110, null), 2);
    expect([lost.rows, lost.workers.bytes[0][1], lost.workers.bytes[1][0]]).toEqual([10, 100, 10]);
    const anew = trafficReport(reading(100, 100), reading(110, 3), 2);
    expect([anew.rows, anew.workers.bytes[0][1], anew.workers.bytes[1][0]]).toEqual([13, 130, 40]);
  });

  it('is text', () => {
    const text = trafficText(trafficReport(null, status, null));
    expect(text).toContain('m: 100 tokens since the workers were started');
    expect(text).toMatch(/^n0\s+600 B in 8\s+98\.3 KiB in 10$/m);
    expect(text).toContain('r x (row 2000 B + sum 2000 B) = 2000 B, measured 2013 B: +0.6%, within 5%');
    expect(text).toContain('with headers (13 B) and tables of experts (4 B): -0.2%, within 5%');
    expect(text).toContain('the plan promised r 0.400 and 70.0% at home: r has drifted by +25.0%');
    expect(text).toContain('homes: 3 domain');
    expect(trafficText(trafficReport(status, status, 2))).toContain('no rows went through MoE layers');
  });
});

describe('wire report', () => {
  it('counts both ways of every link', () => {
    const later = statusOf({ a: [link('c', 3000, 2000, 4)] }, {}, 200, 100);
    const { bytesPerToken, crossNodeBytesPerToken, remoteNodesPerTokenLayer, roundTripMicroseconds } = wireReport(statusOf({}), later, 10);
    expect([bytesPerToken, crossNodeBytesPerToken, remoteNodesPerTokenLayer]).toEqual([500, 500, 0.5]);
    expect(roundTripMicroseconds).toBeCloseTo(1000, 6);
  });
});
