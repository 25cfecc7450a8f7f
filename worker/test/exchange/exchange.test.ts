import { type Link, type Listener, MemoryNetwork, type Plan } from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { Counters } from '../../src/engine/counters.ts';
import { TimeSplit } from '../../src/engine/time-split.ts';
import { Exchange } from '../../src/exchange/exchange.ts';
import { toyModel, toyNative } from '../engine/toy-model.ts';

const shape = { experts: 4, topK: 2, moeLayers: 1, kvBlocks: 4, maxRows: 8, maxSequences: 2, maxLogitRows: 2, maxContext: 64 };
const options = { token: '', tls: null };
/** Of worker 0, neighbours 1 and 2 and worker 3 of another node hold experts; worker 4 none. */
const plan: Plan = {
  format: 'switchyard-plan',
  version: 1,
  model: { type: 'toy', moeLayers: [1], experts: shape.experts },
  workers: [0, 0, 0, 1, 1].map((node, w) => ({ name: `w${w}`, node })),
  replicas: [[[0], [1], [2], [3]]],
  provenance: null,
};

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('Exchange', () => {
  let exchange: Exchange;
  let network: MemoryNetwork;
  let listeners: Map<string, Listener>;
  /** Of each address, who lets its dials through. */
  let open: Map<string, () => void>;
  let gates: Map<string, Promise<void>>;

  beforeEach(async () => {
    // Of the clock only what waits: setImmediate carries the frames.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    network = new MemoryNetwork();
    listeners = new Map();
    for (const { name } of plan.workers) {
      const address = `memory://${name}`;
      listeners.set(address, await network.listen(address, options, () => {}));
    }
    open = new Map();
    gates = new Map();
    const dial = async ([address]: readonly string[]): Promise<Link> => {
      if (!gates.has(address)) gates.set(address, new Promise((resolve) => open.set(address, resolve)));
      await gates.get(address);
      return network.dial(address, options);
    };
    exchange = new Exchange({
      native: toyNative,
      model: toyModel(shape, [[0]]),
      plan,
      worker: 0,
      epoch: 7,
      maxRows: shape.maxRows,
      rowDeadlineMs: 20_000,
      counters: new Counters(shape.moeLayers, shape.experts),
      times: new TimeSplit(),
      dial,
    });
  });

  afterEach(async () => {
    await exchange.close();
    vi.useRealTimers();
  });

  const announce = (...workers: number[]) =>
    exchange.announce(workers.map((worker) => ({ worker, dataAddresses: [`memory://w${worker}`] })));
  const reach = async (worker: number) => {
    open.get(`memory://w${worker}`)!();
    for (let i = 0; i < 5; i++) await turn();
  };
  const waiting = () => ({ steps: exchange.connecting !== null, gateway: exchange.gateway.connecting !== null });

  test('steps wait for all that were announced, frames for the node for its neighbours alone', async () => {
    expect(waiting()).toEqual({ steps: false, gateway: true });
    announce(0, 1, 2, 3, 4);
    expect([...open.keys()].sort()).toEqual(['memory://w1', 'memory://w2', 'memory://w3']);
    await reach(1);
    expect(waiting()).toEqual({ steps: true, gateway: true });
    await reach(2);
    expect(waiting()).toEqual({ steps: true, gateway: false });
    await reach(3);
    expect(waiting()).toEqual({ steps: false, gateway: false });
    expect(vi.getTimerCount()).toBe(0);
  });

  test('nobody waits for a neighbour that is not there, or no longer', async () => {
    announce(1, 3);
    await reach(1);
    expect(waiting()).toEqual({ steps: true, gateway: false });
  });

  test('nor for a machine that swallows what is sent to it', async () => {
    announce(1, 2, 3);
    await reach(1);
    await vi.advanceTimersByTimeAsync(1_999);
    expect(waiting()).toEqual({ steps: true, gateway: true });
    await vi.advanceTimersByTimeAsync(1);
    await turn();
    expect(waiting()).toEqual({ steps: false, gateway: false });
  });

  test('which is waited for once, until that dial is over or it is elsewhere', async () => {
    const wait = async () => {
      await vi.advanceTimersByTimeAsync(2_000);
      await turn();
    };
    announce(1, 2, 3);
    await wait();
    announce(1, 2, 3);
    await turn();
    expect(waiting()).toEqual({ steps: false, gateway: false });

    exchange.announce([{ worker: 1, dataAddresses: ['memory://moved'] }]);
    await turn();
    expect(waiting().steps).toBe(true);
    await wait();

    // Its machine is back and refuses.
    await listeners.get('memory://w2')!.close();
    await reach(2);
    gates.delete('memory://w2');
    announce(2);
    for (let i = 0; i < 5; i++) await turn();
    expect(waiting().steps).toBe(true);
    await wait();

    await reach(3);
    gates.delete('memory://w3');
    network.sever('memory://w3');
    await turn();
    announce(3);
    await turn();
    expect(waiting().steps).toBe(true);
  });

  test('a later announcement is waited for, whatever becomes of the one before', async () => {
    announce(1);
    await vi.advanceTimersByTimeAsync(1_000);
    announce(1, 2);
    await vi.advanceTimersByTimeAsync(1_000);
    await turn();
    // The first has been waited for long enough, the second has not.
    expect(waiting().steps).toBe(true);
    await reach(1);
    await reach(2);
    expect(waiting()).toEqual({ steps: false, gateway: false });
  });

  test('whoever is announced no longer is dialled no more once its links are gone', async () => {
    announce(1, 2);
    await reach(1);
    await reach(2);
    announce(2);
    for (const name of ['w1', 'w2']) {
      await listeners.get(`memory://${name}`)!.close();
      network.sever(`memory://${name}`);
    }
    for (let i = 0; i < 5; i++) await turn();
    // Both connections to the one that is still said to be there.
    expect(vi.getTimerCount()).toBe(2);
  });

  test('once closed it has nobody wait for neighbours that were never announced', async () => {
    await exchange.close();
    await turn();
    expect(waiting()).toEqual({ steps: false, gateway: false });
  });
});
