import { expect, test, vi } from 'vitest';
import { submitOf } from '../in-process-cluster.ts';
import { alone, startToys, toyShape } from './toy-cluster.ts';

test('a bill is the same whether steps run whole or layer by layer, as what they are expected to take decides', async () => {
  // Steps of no time at all: a row is expected to take less and less, until a whole prompt is short.
  const clock = vi.spyOn(performance, 'now').mockReturnValue(1000);
  const cluster = await startToys({ plan: alone, prefixCache: false });
  const [worker] = cluster.workers;
  const { model } = worker.engine as unknown as { model: { lanes: { runWhole(): void }[] } };
  const runWhole = vi.spyOn(model.lanes[0], 'runWhole');
  const [tokens, generated] = [30, 60];
  const wholeSteps: number[] = [];
  for (let i = 0; i < 2; i++) {
    const before = runWhole.mock.calls.length;
    await cluster.run(0, submitOf(Array(tokens).fill(7), { maxTokens: generated }));
    wholeSteps.push(runWhole.mock.calls.length - before);
  }
  expect(wholeSteps).toEqual([generated - 1, generated]);
  // The last token is never an input.
  const rows = (tokens + generated - 1) * toyShape.moeLayers;
  const visits = rows * toyShape.topK;
  const bill = { rows, remoteNodes: 0, visits, homeVisits: visits, interNodeBytes: 0, intraNodeBytes: 0 };
  expect(worker.bills).toMatchObject([bill, bill]);
  await cluster.close();
  clock.mockRestore();
});
