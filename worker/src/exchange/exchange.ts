import type { Native } from '@switchyard/native';
import type { LinkStats, Plan } from '@switchyard/proto';
import type { Counters } from '../engine/counters.ts';
import type { TimeSplit } from '../engine/time-split.ts';
import type { Model } from '../model/contract.ts';
import { ExpertRoutes } from './expert-routes.ts';
import { Flights } from './flights.ts';
import { HomeExchange } from './home-exchange.ts';
import { NodeGateway } from './node-gateway.ts';
import type { Dial } from './peer-links.ts';

export interface ExchangeOptions {
  native: Native;
  model: Model;
  plan: Plan;
  /** Index of this worker in the plan. */
  worker: number;
  epoch: number;
  /** Rows of one frame at most. */
  maxRows: number;
  rowDeadlineMs: number;
  counters: Counters;
  times: TimeSplit;
  dial: Dial;
}

/** Steps wait for links that are being made, but not for a machine that swallows what is sent to it: rows go around it, or fail those that need it. */
const DIAL_WAIT_MS = 2_000;

/** All that leaves this worker: rows of its own sequences, and as its node's gateway rows of others, over the same links. */
export class Exchange {
  /** One for each lane of the model. */
  readonly homes: readonly HomeExchange[];
  readonly gateway: NodeGateway;
  /** Resolves when every peer of the last announcement has been dialled once, or for so long that it is not waited for any more; null when that is so. */
  connecting: Promise<void> | null = null;
  private readonly flights: Flights;
  private readonly peers: ReadonlySet<number>;
  /** Neighbours in this node that have not been dialled yet, as far as they are there. */
  private readonly expected: Set<number>;
  /** Peers that a step has waited for in vain, by their addresses then: not every announcement waits for a machine that swallows what is sent to it, until that dial is over. */
  private readonly silentAt = new Map<number, string>();
  private neighboursDialled: () => void = () => {};

  constructor({ native, model, plan, worker, epoch, maxRows, rowDeadlineMs, counters, times, dial }: ExchangeOptions) {
    const { hidden, topK } = model.shape;
    const routes = new ExpertRoutes(plan, worker, topK);
    const onReachable = (peer: number, reachable: boolean) => routes.setReachable(peer, reachable);
    const onAvoided = (peer: number, avoided: boolean) => routes.setAvoided(peer, avoided);
    const flights = new Flights({ workers: plan.workers.length, rowDeadlineMs, dial, onReachable, onAvoided });
    this.flights = flights;
    this.peers = new Set(routes.peers());
    this.homes = model.lanes.map((lane) => new HomeExchange({ native, model, routes, flights, epoch, counters, times }, lane));
    const node = plan.workers[worker].node;
    this.expected = new Set(routes.peers().filter((peer) => plan.workers[peer].node === node));
    const ready = this.expected.size === 0 ? null : new Promise<void>((resolve) => (this.neighboursDialled = resolve));
    this.gateway = new NodeGateway({ plan, worker, routes, flights, hidden, topK, maxRows, rowDeadlineMs, ready });
  }

  /** These workers are there, all that are, and can be dialled at these addresses from now on. Those that hold no experts are ignored. */
  announce(there: readonly { worker: number; dataAddresses: readonly string[] }[]): void {
    const peers = there.filter(({ worker }) => this.peers.has(worker));
    const present = new Set(peers.map(({ worker }) => worker));
    this.flights.onlyThese(present);
    for (const { worker, dataAddresses } of peers) this.flights.announce(worker, dataAddresses);
    // Nobody waits for a neighbour that is not there; nor for workers of an earlier announcement that have gone since.
    this.expectOnly(present);
    const dialled = peers.map(async ({ worker, dataAddresses }) => {
      const addresses = dataAddresses.join();
      if (this.silentAt.get(worker) !== addresses) {
        const settled = this.flights.settled(worker);
        if (!(await inTime(DIAL_WAIT_MS, settled))) {
          this.silentAt.set(worker, addresses);
          void settled.then(() => this.silentAt.delete(worker));
        }
      }
      this.expected.delete(worker);
      this.tellGateway();
    });
    const connecting = Promise.all(dialled).then(() => {
      if (this.connecting === connecting) this.connecting = null;
    });
    this.connecting = connecting;
  }

  private expectOnly(there: ReadonlySet<number>): void {
    for (const worker of this.expected) if (!there.has(worker)) this.expected.delete(worker);
    this.tellGateway();
  }

  private tellGateway(): void {
    if (this.expected.size === 0) this.neighboursDialled();
  }

  stats(): LinkStats[] {
    return this.flights.stats();
  }

  close(): Promise<void> {
    // Nobody is dialled any more: frames for the node that waited for it are answered by what is served then.
    this.expectOnly(new Set());
    return this.flights.close();
  }
}

/** Resolves with true after `work`, or with false when so much time has passed. */
async function inTime(ms: number, work: Promise<void>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, ms, false);
    timer.unref();
  });
  const done = await Promise.race([work.then(() => true), late]);
  clearTimeout(timer);
  return done;
}
