import { dispatchFrameBytes, FRAME_HEADER_BYTES, limits, type Plan } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { SequenceTraffic } from '../../src/engine/sequence-traffic.ts';
import { noDoubts } from '../../src/exchange/doubts.ts';
import { ExpertRoutes } from '../../src/exchange/expert-routes.ts';
import { rowsPerFrame } from '../../src/exchange/frame-rows.ts';
import { type Lane, RowPartition } from '../../src/exchange/row-partition.ts';
import { toyModel } from '../engine/toy-model.ts';

/** Worker 0 is home, 1 and 2 its neighbours; 3 and 4 are a node, 5 another. */
const nodeOf = [0, 0, 0, 1, 1, 2];
const holders = [[0], [1, 2], [3], [4], [5], [3, 5]];
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [9], experts: holders.length },
  workers: nodeOf.map((node, w) => ({ name: `w${w}`, node })),
  replicas: [holders],
  provenance: null,
};
const shape = {
  experts: holders.length,
  topK: 2,
  moeLayers: 1,
  kvBlocks: 4,
  maxRows: 8,
  maxSequences: 8,
  maxLogitRows: 2,
  maxContext: 64,
};

/** The rows of a layer, each of two experts, split; rows in `failed` count no more. */
function split(partition: RowPartition, rows: [number, number][], failed: number[] = []) {
  const layer = toyModel(shape, null).moe[0];
  layer.ids.i32.set(rows.flat());
  layer.weights.f32.set(rows.flatMap((_, row) => [row + 0.25, row + 0.5]));
  const bills = rows.map(() => new SequenceTraffic());
  const nobody: [number, number][] = [];
  const owners = { rows: rows.length, failed: (row: number) => failed.includes(row), traffic: (row: number) => bills[row] };
  partition.split(0, layer, owners, (row, expert) => nobody.push([row, expert]));
  return { bills, nobody };
}

const create = (reachable = [1, 2, 3, 4, 5], replicas = holders) => {
  const routes = new ExpertRoutes({ ...plan, replicas: [replicas] }, 0, shape.topK);
  for (const worker of reachable) routes.setReachable(worker, true);
  return { routes, partition: new RowPartition(routes, shape.maxRows, shape.topK) };
};

/** [row, expert, weight] of each pair. */
const pairsOf = ({ pairs, row, pairRow, pairExpert, pairWeight }: Lane) =>
  Array.from({ length: pairs }, (_, p) => [row[pairRow[p]], pairExpert[p], pairWeight[p]]);

describe('RowPartition', () => {
  test('gives each row once to each node and each neighbour, whoever computes what', () => {
    const { partition } = create();
    for (let step = 0; step < 2; step++) {
      const { bills } = split(
        partition,
        [
          [0, 2],
          [2, 3],
          [4, 1],
          [3, 4],
        ],
        [3],
      );
      expect([...partition.local.row.subarray(0, partition.local.count)]).toEqual([0]);
      expect(partition.remote.map((lane) => [lane.node, lane.worker, pairsOf(lane)])).toEqual([
        [
          1,
          null,
          [
            [0, 2, 0.5],
            [1, 2, 1.25],
            [1, 3, 1.5],
          ],
        ],
        [2, null, [[2, 4, 2.25]]],
        [0, 1, [[2, 1, 2.5]]],
      ]);
      expect(partition.remote.map((lane) => partition.crosses(lane))).toEqual([true, true, false]);
      expect(partition.remoteNodes).toBe(3);
      expect(bills.map(({ rows, remoteNodes, visits, homeVisits }) => [rows, remoteNodes, visits, homeVisits])).toEqual([
        [1, 1, 2, 1],
        [1, 1, 2, 0],
        [1, 1, 2, 1],
        [0, 0, 0, 0],
      ]);
    }
  });

  test('spreads rows over the neighbours that could compute them', () => {
    const { partition } = create();
    for (let step = 0; step < 2; step++) {
      split(partition, [
        [0, 1],
        [0, 1],
        [0, 1],
      ]);
      expect(partition.remote.map(({ worker, rows }) => [worker, rows])).toEqual([
        [1, 2],
        [2, 1],
      ]);
    }
  });

  test('counts what each worker computes, as the planner does: pairs, not rows', () => {
    const { partition } = create([1, 2], [[0], [1], [1], [2], [1, 2], [5]]);
    split(partition, [
      [1, 2],
      [3, 0],
      [4, 0],
    ]);
    expect(partition.remote.map(({ worker, rows }) => [worker, rows])).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });

  test('takes for gateway whoever of the node hosts most of the pairs; of equals the lowest', () => {
    const { partition } = create();
    const gateways = (rows: [number, number][]) => {
      split(partition, rows);
      return partition.remote.map((lane) => partition.destination(lane));
    };
    expect(gateways([[2, 3]])).toEqual([3]);
    // What was split before does not count.
    expect(
      gateways([
        [0, 3],
        [0, 3],
      ]),
    ).toEqual([4]);
    expect(gateways([[0, 2]])).toEqual([3]);
    expect(gateways([[2, 3]])).toEqual([3]);
    expect(
      gateways([
        [2, 3],
        [0, 3],
      ]),
    ).toEqual([4]);
    expect(
      gateways([
        [2, 3],
        [0, 2],
      ]),
    ).toEqual([3]);
  });

  test('leaves out a row that needs an expert which nobody has, and names it', () => {
    const { routes, partition } = create([1, 2, 3, 5]);
    const { nobody } = split(partition, [
      [2, 3],
      [2, 4],
      [1, 3],
      [3, 1],
    ]);
    expect(nobody).toEqual([
      [0, 3],
      [2, 3],
      [3, 3],
    ]);
    expect(partition.remote.map(pairsOf)).toEqual([[[1, 2, 1.25]], [[1, 4, 1.5]]]);
    expect(routes.unavailable(0, 3)).toMatchObject({
      code: 'expert_unavailable',
      message: expect.stringMatching(/expert 3 of layer 9.* w4,/),
    });
  });

  test('what was lost goes to whoever has it and has not refused', () => {
    const { partition } = create();
    split(partition, [
      [5, 0],
      [5, 2],
      [5, 3],
    ]);
    const [lane] = partition.remote;
    expect([lane.node, lane.rows]).toEqual([1, 3]);
    const again = (refused: number[]) => {
      const { lanes, hopeless } = partition.again(lane, 0, { ...noDoubts, refused: new Set(refused) });
      return { lanes: Object.fromEntries(lanes.map((each) => [each.worker, pairsOf(each)])), hopeless };
    };
    expect(again([4])).toEqual({
      lanes: {
        5: [
          [0, 5, 0.25],
          [1, 5, 1.25],
        ],
        3: [[1, 2, 1.5]],
      },
      hopeless: [2],
    });
    expect(again([3]).hopeless).toEqual([1]);
    expect(again([3, 5]).hopeless).toEqual([0, 1, 2]);
  });
});

describe('what is sent again', () => {
  test('is spread by what each worker has already, itself included', () => {
    const { partition } = create();
    split(partition, new Array(4).fill([0, 1]));
    const [lane] = partition.remote;
    expect([lane.worker, lane.rows]).toEqual([1, 2]);
    const { lanes } = partition.again(lane, 0, noDoubts);
    expect(lanes.map(({ worker, rows }) => [worker, rows])).toEqual([
      [1, 1],
      [2, 1],
    ]);
  });
});

describe('rows of one frame', () => {
  test.each([
    [4, 32],
    [2048, 8],
    [2880, 4],
    [7168, 8],
    [65_536, 32],
  ])('of %i columns and %i experts fit there and back, and few more would', (hidden, topK) => {
    const rows = rowsPerFrame(hidden, topK);
    const bytes = (count: number) =>
      Math.max(
        dispatchFrameBytes({ rows: count, pairs: count * topK, hidden, dtype: 'f32' }),
        FRAME_HEADER_BYTES + Math.ceil(count / 8) * 8 + count * hidden * 8,
      );
    expect(rows).toBeLessThanOrEqual(limits.frameRowsMax);
    expect(bytes(rows)).toBeLessThanOrEqual(limits.frameBytesMax);
    if (rows < limits.frameRowsMax) expect(bytes(Math.ceil(rows * 1.01))).toBeGreaterThan(limits.frameBytesMax);
  });
});
