import { type Batch, type DeviceBuffer, native, type RowSum } from '@switchyard/native';
import { chooseReplicas, type Plan } from '@switchyard/proto';
import type { Model, MoeLayer } from '../model/contract.ts';
import { requirePlanFits } from '../model/hosted-experts.ts';
import { requireCompleteRows } from '../model/row-checks.ts';

/** Runs batches and leaves logits in `model.logits`, expert ids in `model.moe[i].ids`: one model alone, or the home of a cluster. */
export interface Runner {
  readonly model: Model;
  run(batch: Batch): void;
}

/** A model that hosts every expert, as one native call a batch. */
export function wholeModel(model: Model): Runner {
  const run = model.runWhole;
  if (run === null) throw new Error('wholeModel: the model does not host every expert');
  return {
    model,
    run: (batch) => {
      run(batch);
      requireCompleteRows(model, null, batch);
    },
  };
}

/**
 * Several workers in one process, in lockstep: the exchange with nothing asynchronous about it. Rows and sums cross between workers in the encodings
 * that frames carry, and replicas are chosen by the rule that plans are made for. What it computes is what any engine must compute, bit for bit.
 */
export class LockstepCluster {
  private readonly workers: readonly Model[];
  private readonly plan: Plan;
  private readonly nodeOf: readonly number[];
  private readonly inbox: readonly Inbox[];
  /** Pairs given to each worker so far: the load that replica choice balances. */
  private readonly load: Float64Array;

  constructor(workers: readonly Model[], plan: Plan) {
    if (workers.length !== plan.workers.length)
      throw new Error(`LockstepCluster: ${workers.length} models for the ${plan.workers.length} workers of the plan`);
    for (const worker of workers) requirePlanFits(plan, worker.shape);
    this.workers = workers;
    this.plan = plan;
    this.nodeOf = plan.workers.map((worker) => worker.node);
    this.inbox = workers.map(createInbox);
    this.load = new Float64Array(workers.length);
  }

  /** Worker `home` with its sequences: attention, routers and logits run there. */
  runner(home: number): Runner {
    const model = this.workers[home]!;
    return { model, run: (batch) => this.run(home, batch) };
  }

  private run(home: number, batch: Batch): void {
    const model = this.workers[home]!;
    for (let i = 0; i < model.moe.length; i++) {
      model.runSegment(i, batch);
      requireCompleteRows(model, i, batch);
      this.exchange(home, i, batch.rows);
    }
    model.runSegment(model.moe.length, batch);
    requireCompleteRows(model, model.moe.length, batch);
  }

  /** Fills the home's sum of MoE layer i with every chosen expert's contribution to its rows. */
  private exchange(home: number, i: number, rows: number): void {
    const layer = this.workers[home]!.moe[i]!;
    native.sumClear(layer.sum, rows);
    this.dispatch(home, i, rows).forEach((dispatched, worker) => {
      if (dispatched.row.length === 0) return;
      if (worker === home) this.computeAtHome(layer, dispatched);
      else this.computeRemotely(home, worker, i, dispatched);
    });
  }

  /** Which (row, expert, weight) goes where. */
  private dispatch(home: number, i: number, rows: number): Dispatch[] {
    const { topK } = this.workers[home]!.shape;
    const { ids, weights } = this.workers[home]!.moe[i]!;
    const out = this.workers.map((): Dispatch => ({ row: [], expert: [], weight: [] }));
    const chosen = new Int32Array(topK);
    for (let row = 0; row < rows; row++) {
      const from = row * ids.width;
      chooseReplicas(ids.i32.subarray(from, from + topK), topK, this.plan.replicas[i]!, this.nodeOf, home, this.load, chosen);
      for (let k = 0; k < topK; k++) {
        const to = out[chosen[k]!]!;
        to.row.push(row);
        to.expert.push(ids.i32[from + k]!);
        to.weight.push(weights.f32[row * weights.width + k]!);
        this.load[chosen[k]!]! += 1;
      }
    }
    return out;
  }

  private computeAtHome(layer: MoeLayer, { row, expert, weight }: Dispatch): void {
    const slot = Int32Array.from(expert, (e) => layer.slotOf[e]!);
    native.expertsRun(layer.experts, layer.x, row.length, Int32Array.from(row), slot, Float32Array.from(weight), layer.grid, layer.sum);
  }

  /** One row per visited worker goes out, however many of its experts the row chose; one sum per row comes back. */
  private computeRemotely(home: number, worker: number, i: number, { row, expert, weight }: Dispatch): void {
    const { shape, moe } = this.workers[home]!;
    const layer = moe[i]!;
    const remote = this.workers[worker]!.moe[i]!;
    const { x, sum } = this.inbox[worker]!;
    const wire = shape.numericClass.wire;

    const sent = Int32Array.from(new Set(row));
    const frame = new Uint8Array(sent.length * shape.hidden * 4);
    const frameBytes = native.rowsEncode(layer.x, sent.length, sent, wire, frame, 0);
    native.rowsDecode(x, sent.length, wire, frame, 0, frameBytes);

    const placeOf = new Map(Array.from(sent, (r, place) => [r, place] as const));
    const places = Int32Array.from(row, (r) => placeOf.get(r)!);
    const slot = Int32Array.from(expert, (e) => remote.slotOf[e]!);
    native.sumClear(sum, sent.length);
    native.expertsRun(remote.experts, x, row.length, places, slot, Float32Array.from(weight), remote.grid, sum);

    const answer = new Uint8Array(native.sumEncodedMax(sent.length, shape.hidden));
    const answerRows = Int32Array.from(sent, (_, place) => place);
    const answerBytes = native.sumEncode(sum, sent.length, answerRows, answer, 0);
    native.sumAddEncoded(layer.sum, sent.length, sent, answer, 0, answerBytes);
  }
}

/** Parallel lists, one entry per (row, expert) pair. */
interface Dispatch {
  row: number[];
  expert: number[];
  weight: number[];
}

/** Where a worker keeps the rows of others, and their sums. */
interface Inbox {
  x: DeviceBuffer;
  sum: RowSum;
}

function createInbox(model: Model): Inbox {
  const { device, shape } = model;
  const rows = model.createBatch().token.length;
  return {
    x: native.bufferCreate(device, rows, shape.hidden),
    sum: native.sumCreate(device, shape.numericClass.sum, rows, shape.hidden),
  };
}
