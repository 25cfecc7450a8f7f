import { contiguousPlan, Finish, MemoryNetwork, SwitchyardError, type Tokens } from '@switchyard/proto';
import { afterEach, expect, test, vi } from 'vitest';
import { ExpertServer } from '../../src/exchange/expert-server.ts';
import type { Model } from '../../src/model/contract.ts';
import type { Assignment } from '../../src/process/assignment.ts';
import { Serving } from '../../src/process/serving.ts';
import { toyEngine, toyModel, toyNative } from '../engine/toy-model.ts';
import { submitOf } from '../in-process-cluster.ts';

const shape = { experts: 4, topK: 2, moeLayers: 2, kvBlocks: 64, maxRows: 32, maxSequences: 4, maxLogitRows: 64, maxContext: 512 };
const plan = contiguousPlan(
  { type: 'toy', moeLayers: [1, 2], experts: shape.experts },
  [0, 1].map((node) => ({ name: `w${node}`, node })),
);
const hosted = plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders.includes(0) ? [e] : [])));

function assignment(): Assignment {
  return { worker: 0, epoch: 1, modelDir: '', plan, engine: toyEngine(shape), key: '' };
}

function serve(model: Model, network = new MemoryNetwork(), onTokens: (tokens: Tokens) => void = () => {}): Serving {
  return new Serving({
    native: toyNative,
    assignment: assignment(),
    model,
    weightsHash: 0n,
    server: new ExpertServer(),
    dial: ([address], signal) => network.dial(address, { token: '', tls: null, signal }),
    maxLogitRows: shape.maxLogitRows,
    onTokens,
    onTrace: () => {},
  });
}

afterEach(() => {
  vi.useRealTimers();
});

test('one that cannot begin leaves nothing running', () => {
  vi.useFakeTimers();
  const model = toyModel(shape, hosted);
  const full = () => {
    throw new Error('out of memory');
  };
  for (const lane of model.lanes) lane.createBatch = full;
  expect(() => serve(model)).toThrow('out of memory');
  expect(vi.getTimerCount()).toBe(0);
});

test('a request that comes while it is being closed is refused with the reason, and is not waited for', async () => {
  const network = new MemoryNetwork();
  const listener = await network.listen('memory://w1', { token: '', tls: null }, (link) => link.onFrame(() => {}));
  const ended: { request: number; error: string }[] = [];
  const serving = serve(toyModel(shape, hosted), network, ({ request, finish, errors }) => {
    const failed = Array.from(request).filter((_, i) => finish[i] === Finish.error);
    failed.forEach((number, i) => {
      ended.push({ request: number, error: `${errors[i].code}: ${errors[i].message}` });
    });
  });
  serving.announce({ epoch: 1, peers: [{ worker: 1, name: 'w1', node: 'n1', dataAddresses: ['memory://w1'] }] });
  await vi.waitUntil(() => serving.stats().links[0]?.transport === 'memory');
  const before = submitOf([1, 2, 3], { maxTokens: 400 });
  const meanwhile = submitOf([4, 5, 6], { maxTokens: 400 });
  serving.engine.submit(before);
  const closed = serving.close(new SwitchyardError('not_ready', 'worker w0 was given another plan'));
  serving.engine.submit(meanwhile);
  await closed;
  const error = 'not_ready: worker w0 was given another plan';
  expect(ended.sort((a, b) => a.request - b.request)).toEqual([
    { request: before.request, error },
    { request: meanwhile.request, error },
  ]);
  await listener.close();
});
