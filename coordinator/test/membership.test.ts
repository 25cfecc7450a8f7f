import {
  contiguousPlan,
  type FromWorker,
  type Plan,
  PROTOCOL_VERSION,
  SwitchyardError,
  type ToWorker,
  type WorkerStream,
} from '@switchyard/proto';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createLog } from '../src/log.ts';
import { Membership } from '../src/membership/membership.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const nothing = () => {};

function membershipOf(plan: Plan, heard: { onChange?(): void; onLost?(): void; onDrained?(): void } = {}): Membership {
  const engine = {} as ConstructorParameters<typeof Membership>[0]['engine'];
  const events = {
    onTokens: nothing,
    onTrace: nothing,
    onStats: nothing,
    onDrained: nothing,
    onLost: nothing,
    onChange: nothing,
    ...heard,
  };
  return new Membership({ epoch: 1, modelDir: '', plan, engine }, events, createLog('silent'));
}

/** Every worker has all experts. */
function planOf(workers: number): Plan {
  const names = Array.from({ length: workers }, (_, i) => ({ name: `n0w${i}`, node: 0 }));
  const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: workers }, names);
  return { ...plan, replicas: [plan.replicas[0].map(() => names.map((_, i) => i))] };
}

/** A worker that attaches and is ready at once. @param send what it is told; returns how it is lost */
function join(membership: Membership, name: string, send: (message: ToWorker) => void): () => Promise<void> {
  let receive: (message: FromWorker) => void = nothing;
  let end: (error: null) => void = nothing;
  const closed = new Promise<null>((resolve) => {
    end = resolve;
  });
  const stream = {
    ...{ peer: 'p', pendingBytes: 0, closed, close: async () => {} },
    onMessage: (take: typeof receive) => {
      receive = take;
    },
    send: (message: ToWorker) => {
      send(message);
      return true;
    },
  };
  membership.accept(stream as unknown as WorkerStream);
  const self = { node: 'n0', pid: 1, dataAddresses: [`uds:///${name}`], device: '{}', softwareVersion: '0', memories: [] };
  receive({ type: 'hello', protocolVersion: PROTOCOL_VERSION, name, ...self });
  receive({ type: 'ready', epoch: 1, residentBytes: 1, kvBlocks: 1, weightsHash: 1n, numericClass: 'bf16' });
  return async () => {
    end(null);
    await closed;
  };
}

describe('a worker that cannot be told of its peers', () => {
  it('does not serve', () => {
    const membership = membershipOf(planOf(1));
    const seen = () => [membership.places[0].state, membership.uncovered];
    join(membership, 'n0w0', ({ type }) => {
      if (type === 'peers') throw new SwitchyardError('link_closed', 'it is closed');
    });
    expect(seen()).toEqual(['loaded', 1]);
    join(membership, 'n0w0', nothing);
    expect(seen()).toEqual(['serving', 0]);
  });
});

describe('workers that are not needed for all experts to be served', () => {
  it('are introduced together when they come close together', () => {
    const workers = 20;
    let changes = 0;
    let drained = 0;
    const membership = membershipOf(planOf(workers), { onChange: () => changes++, onDrained: () => drained++ });
    const told = Array.from({ length: workers }, (): number[] => []);
    for (let i = 0; i < workers; i++)
      join(membership, `n0w${i}`, (message) => {
        if (message.type === 'peers') told[i].push(message.peers.length);
      });
    const serving = () => membership.places.filter(({ state }) => state === 'serving').length;
    expect([serving(), membership.uncovered, told.flat()]).toEqual([1, 0, [1]]);
    const before = changes;
    vi.runAllTimers();
    expect(told).toEqual([[1, workers], ...Array(workers - 1).fill([workers])]);
    expect([serving(), changes - before, drained]).toEqual([workers, 1, 1]);
  });

  it('are introduced at once when they are needed after all', () => {
    const membership = membershipOf(planOf(2));
    const told: string[] = [];
    for (const name of ['n0w0', 'n0w1', 'n0w0'])
      join(membership, name, ({ type }) => {
        if (type === 'peers') told.push(name);
      });
    // The first was replaced before the second was introduced: nobody served. Its successor is not needed.
    expect(told).toEqual(['n0w0', 'n0w1']);
    expect(membership.places.map(({ state }) => state)).toEqual(['loaded', 'serving']);
    vi.runAllTimers();
    expect(told).toEqual(['n0w0', 'n0w1', 'n0w0', 'n0w1']);
    expect(membership.places.map(({ state }) => state)).toEqual(['serving', 'serving']);
  });

  it('are introduced before it is said that the one that served was lost', async () => {
    const uncovered: number[] = [];
    const membership = membershipOf(planOf(2), { onLost: () => uncovered.push(membership.uncovered) });
    const lose = join(membership, 'n0w0', nothing);
    join(membership, 'n0w1', nothing);
    expect(membership.places.map(({ state }) => state)).toEqual(['serving', 'loaded']);
    await lose();
    await vi.waitFor(() => expect(uncovered).toEqual([0]));
    expect(membership.places.map(({ state }) => state)).toEqual(['absent', 'serving']);
  });

  it('hear of one that was lost', async () => {
    const membership = membershipOf(planOf(3));
    const told: string[][] = [];
    const lose = ['n0w0', 'n0w1', 'n0w2'].map((name) =>
      join(membership, name, (message) => {
        if (message.type === 'peers' && name === 'n0w0') told.push(message.peers.map((peer) => peer.name));
      }),
    );
    vi.runAllTimers();
    await lose[1]();
    await vi.waitFor(() => expect(membership.places[1].state).toBe('absent'));
    vi.runAllTimers();
    expect(told).toEqual([['n0w0'], ['n0w0', 'n0w1', 'n0w2'], ['n0w0', 'n0w2']]);
  });

  it('are not introduced by who has let go of all', async () => {
    const membership = membershipOf(planOf(3));
    for (const name of ['n0w0', 'n0w1']) join(membership, name, nothing);
    expect(vi.getTimerCount()).toBe(1);
    await membership.close();
    join(membership, 'n0w2', nothing);
    expect(vi.getTimerCount()).toBe(0);
  });
});
