import { type Submit, SwitchyardError } from '@switchyard/proto';
import type { MoeLayer } from '../model/contract.ts';
import type { ReplayTrace } from './replay-trace.ts';
import type { StepBatch } from './step-batch.ts';

/**
 * Routing decisions of a recorded trace in the place of the router's own: what a model would do to a cluster can be measured with any model of the same shape, and
 * a recorded run can be repeated. The row of a sequence at position p takes, in each MoE layer, the expert ids of the trace's token p of the sequence that it
 * replays, from the beginning again after its last; the weights stay those that the router gave to its own choices, in order.
 *
 * What a request receives is then a function of the request, the weights and the sequence that it replays, and still of nothing else.
 */
export class RoutingReplay {
  private readonly trace: ReplayTrace;
  private readonly topK: number;
  /** Sequences of each domain, in the order of the file; '' has those without one. */
  private readonly domains = new Map<string, number[]>();

  /** @throws SwitchyardError `invalid_request` when the trace is of a model of another shape */
  constructor(trace: ReplayTrace, shape: { moeLayers: readonly number[]; experts: number; topK: number }) {
    requireEqual(trace, 'MoE layers', trace.layers, shape.moeLayers.length);
    requireEqual(trace, 'experts', trace.experts, shape.experts);
    requireEqual(trace, 'topK', trace.topK, shape.topK);
    this.trace = trace;
    this.topK = shape.topK;
    trace.sequences.forEach(({ domain }, index) => {
      const own = this.domains.get(domain);
      if (own === undefined) this.domains.set(domain, [index]);
      else own.push(index);
    });
  }

  /** Why this request cannot replay what it asks for, or null. */
  refuse({ replaySequence }: Submit): SwitchyardError | null {
    const { length } = this.trace.sequences;
    if (replaySequence <= length) return null;
    const message = `replay_sequence is ${replaySequence - 1}; the trace ${this.trace.file} has sequences 0 to ${length - 1}`;
    return new SwitchyardError('invalid_request', message, { param: 'replay_sequence' });
  }

  /** Index of the sequence that a request replays: the one it names, else by its number among those of its domain, else among all. */
  sequenceOf({ request, replaySequence, domain }: Pick<Submit, 'request' | 'replaySequence' | 'domain'>): number {
    if (replaySequence > 0) return replaySequence - 1;
    const own = this.domains.get(domain);
    return own === undefined ? request % this.trace.sequences.length : own[request % own.length];
  }

  /** Overwrites the choices of the MoE layer, the trace's layer number `layer`, for all rows of the batch. To be called when its segment has run, before rows are sent. */
  apply(layer: number, { ids: choices }: MoeLayer, batch: StepBatch): void {
    const { trace, topK } = this;
    const ids = choices.i32;
    batch.sequences.forEach((sequence, s) => {
      const { tokens } = trace.sequences[this.sequenceOf(sequence.request)];
      const first = batch.native.seqRow[s];
      const end = batch.native.seqRow[s + 1];
      const position = batch.native.seqPos[s];
      for (let row = first; row < end; row++) {
        const from = (tokens[(position + row - first) % tokens.length] * trace.layers + layer) * topK;
        for (let k = 0; k < topK; k++) ids[row * topK + k] = trace.ids[from + k];
      }
    });
  }
}

function requireEqual({ file }: ReplayTrace, what: string, value: number, limit: number): void {
  if (value === limit) return;
  throw new SwitchyardError('invalid_request', `replay_routing: ${file} has ${value} ${what}; the model has ${limit}`, {
    param: 'replay_routing',
  });
}
