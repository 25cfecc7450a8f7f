import type { Native } from '@switchyard/native';
import { awakeSeconds, type Peers, type Stats, type SwitchyardError, type Tokens, type TraceRows } from '@switchyard/proto';
import { Counters } from '../engine/counters.ts';
import { Engine } from '../engine/engine.ts';
import { NodeVisits } from '../engine/node-visits.ts';
import { readReplayTrace } from '../engine/replay-trace.ts';
import { RoutingReplay } from '../engine/routing-replay.ts';
import { Activity, TimeSplit } from '../engine/time-split.ts';
import { Exchange } from '../exchange/exchange.ts';
import type { ExpertServer } from '../exchange/expert-server.ts';
import { rowsPerFrame } from '../exchange/frame-rows.ts';
import type { Dial } from '../exchange/peer-links.ts';
import type { Model } from '../model/contract.ts';
import { type Assignment, checkPlanFits } from './assignment.ts';
import { frameEpoch } from './frame-epoch.ts';

export interface ServingOptions {
  native: Native;
  assignment: Assignment;
  model: Model;
  /** Of the checkpoint that the model was read from. */
  weightsHash: bigint;
  server: ExpertServer;
  dial: Dial;
  maxLogitRows: number;
  onTokens: (tokens: Tokens) => void;
  onTrace: (rows: TraceRows) => void;
}

/** A loaded model at work: the home's engine and exchange, and the experts that others use. */
export class Serving {
  readonly assignment: Assignment;
  readonly weightsHash: bigint;
  readonly model: Model;
  readonly engine: Engine;
  private readonly exchange: Exchange;
  private readonly server: ExpertServer;
  private readonly counters: Counters;
  private readonly times = new TimeSplit();

  /** @throws SwitchyardError `bad_plan` when the plan is about another model, `invalid_request` when the trace to replay is */
  constructor(options: ServingOptions) {
    const { native, assignment, model, weightsHash, server, dial, maxLogitRows, onTokens, onTrace } = options;
    const { plan, engine, worker } = assignment;
    const epoch = frameEpoch(assignment.epoch, weightsHash);
    const { shape } = model;
    checkPlanFits(assignment, shape);
    const replay = engine.replayRouting === '' ? null : new RoutingReplay(readReplayTrace(engine.replayRouting), shape);
    this.assignment = assignment;
    this.model = model;
    this.weightsHash = weightsHash;
    this.server = server;
    this.counters = new Counters(model.moe.length, shape.experts);
    const { counters, times } = this;
    const maxRows = Math.min(engine.maxBatchRows, rowsPerFrame(shape.hidden, shape.topK));
    const { rowDeadlineMs } = engine;
    this.exchange = new Exchange({ native, model, plan, worker, epoch, maxRows, rowDeadlineMs, counters, times, dial });
    try {
      this.engine = new Engine({
        model,
        exchanges: this.exchange.homes,
        connecting: () => this.exchange.connecting,
        counters,
        times,
        visits: plan.workers.some(({ node }) => node !== plan.workers[0].node) ? new NodeVisits(plan, shape.topK) : null,
        maxBatchRows: maxRows,
        maxSequences: engine.maxSequences,
        maxLogitRows,
        prefixCache: engine.prefixCache,
        draftMax: engine.draftMax,
        replay,
        onTokens,
        onTrace,
      });
      server.serve({ native, model, epoch, worker, maxRows, gateway: this.exchange.gateway, counters, times });
    } catch (error) {
      void this.exchange.close();
      throw error;
    }
  }

  /** Where the other workers are, all that are ready. Those that this plan does not need are ignored. */
  announce({ epoch, peers }: Peers): void {
    if (epoch === this.assignment.epoch) this.exchange.announce(peers);
  }

  stats(): Stats {
    const { engine, counters, model } = this;
    this.times.settle(performance.now());
    return {
      steps: counters.steps,
      running: engine.runningCount,
      waiting: engine.waitingCount,
      kvBlocksUsed: engine.residency.pool.used,
      kvBlocks: engine.residency.pool.blocks,
      lastStepAgeMs: engine.lastStepAgeMs,
      workPending: engine.workPending,
      promptTokens: counters.promptTokens,
      generatedTokens: counters.generatedTokens,
      prefixQueries: counters.prefixQueries,
      prefixHits: counters.prefixHits,
      preemptions: counters.preemptions,
      links: this.exchange.stats(),
      seconds: this.seconds(),
      rowsDispatched: counters.rowsDispatched,
      remoteNodesVisited: counters.remoteNodesVisited,
      expertTokens: counters.expertTokens,
      residentBytes: model.residentBytes,
      awakeSeconds: awakeSeconds(),
      draftTokens: counters.draftTokens,
      draftTokensAccepted: counters.draftTokensAccepted,
      waitingForPrefix: engine.waitingForPrefixCount,
    };
  }

  /** Sequences that still run fail with `reason`, and no more are taken. */
  async endAll(reason: SwitchyardError): Promise<void> {
    // Links take a while to close, and what is asked for meanwhile would run without them.
    const drained = this.engine.drain(reason);
    this.engine.failAll(reason);
    // Without links no row is waited for any longer.
    await this.exchange.close();
    await drained;
  }

  /** Ends everything; drain the engine first where running sequences matter. */
  async close(reason: SwitchyardError): Promise<void> {
    await this.endAll(reason);
    this.server.serve(null);
    this.model.close();
  }

  /** A program that holds experts too is timed as one by the engine; the kernels know what its experts took. */
  private seconds(): number[] {
    const seconds = Array.from(this.times.seconds);
    const inPrograms = this.model.times().experts ?? 0;
    seconds[Activity.attention] -= inPrograms;
    seconds[Activity.expertsOwn] += inPrograms;
    return seconds;
  }
}
