import type { DeviceBuffer, Native, RowSum } from '@switchyard/native';
import {
  type DispatchFrame,
  type ErrorCode,
  encodeCombineHeader,
  encodeErrorFrame,
  FRAME_HEADER_BYTES,
  type Link,
  limits,
  parseFrame,
  SwitchyardError,
} from '@switchyard/proto';
import type { Counters } from '../engine/counters.ts';
import { Activity, type TimeSplit } from '../engine/time-split.ts';
import type { Model } from '../model/contract.ts';

export interface ServedModel {
  native: Native;
  model: Model;
  epoch: number;
  /** Index of this worker in the plan. */
  worker: number;
  /** Rows that are computed at once; a frame may not have more. */
  maxRows: number;
  counters: Counters;
  times: TimeSplit;
}

interface Arrival {
  client: Client;
  frame: DispatchFrame;
}

/** A home, as this worker's experts see it. */
interface Client {
  link: Link;
  queued: number;
  /** Its link holds too many unsent answers; the next ones wait. */
  blocked: boolean;
  closed: boolean;
}

/**
 * Serves this worker's experts to other homes: rows of any home and any layer, as they arrive. What waits for the same layer is computed in one call; it may be,
 * for a row's sum does not depend on the rows beside it. Per link at most `limits.framesInFlightMax` frames wait; a home that sends more is cut off.
 *
 * A frame that does not belong here (another epoch, class or size, an expert that lives elsewhere) is answered with an error frame; bytes that are no frame close
 * the link.
 */
export class ExpertServer {
  private served: Served | null = null;
  private readonly clients = new Set<Client>();
  private arrivals: Arrival[] = [];
  private scheduled = false;

  /** From now on frames are served with this model; null: they are refused with `not_ready`. */
  serve(served: ServedModel | null): void {
    this.served?.free();
    this.served = served === null ? null : new Served(served);
  }

  accept(link: Link): void {
    const client: Client = { link, queued: 0, blocked: false, closed: false };
    this.clients.add(client);
    link.onFrame((bytes) => this.receive(client, bytes));
    void link.closed.then(() => {
      client.closed = true;
      this.clients.delete(client);
    });
  }

  async close(): Promise<void> {
    await Promise.all([...this.clients].map((client) => client.link.close()));
    this.serve(null);
  }

  private receive(client: Client, bytes: Uint8Array): void {
    let frame: DispatchFrame;
    try {
      const parsed = parseFrame(bytes);
      if (parsed.kind !== 'dispatch') throw new SwitchyardError('bad_frame', `a ${parsed.kind} frame arrived where only dispatches may`);
      if (client.queued >= limits.framesInFlightMax) {
        throw new SwitchyardError(
          'bad_frame',
          `${client.queued} frames of this link wait already; the limit is ${limits.framesInFlightMax}`,
        );
      }
      frame = parsed;
    } catch (error) {
      void client.link.close(error instanceof SwitchyardError ? error : new SwitchyardError('bad_frame', String(error), { cause: error }));
      return;
    }
    client.queued++;
    this.arrivals.push({ client, frame });
    this.schedule();
  }

  /** Rows are served after the event loop has delivered what else has arrived, so that it can be merged. */
  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.serveNext();
      if (this.arrivals.some(({ client }) => !client.blocked)) this.schedule();
    });
  }

  /** Serves the frame that has waited longest, and with it all others of its layer that fit. */
  private serveNext(): void {
    const startedMs = performance.now();
    const { served } = this;
    const group: Arrival[] = [];
    const rest: Arrival[] = [];
    let rows = 0;
    for (const arrival of this.arrivals) {
      const { client, frame } = arrival;
      if (client.closed) continue;
      const joins =
        !client.blocked &&
        (group.length === 0 || (frame.layer === group[0].frame.layer && served !== null && rows + frame.rows <= served.maxRows));
      if (!joins) {
        rest.push(arrival);
        continue;
      }
      const refusal = served === null ? new SwitchyardError('not_ready', 'the worker serves no model yet') : served.refuse(frame);
      if (refusal !== null) {
        this.answerError(arrival, refusal.code, refusal.message);
        continue;
      }
      group.push(arrival);
      rows += frame.rows;
    }
    this.arrivals = rest;
    if (group.length === 0 || served === null) return;
    try {
      served.compute(group.map(({ frame }) => frame));
      let first = 0;
      for (const { client, frame } of group) {
        this.answer(client, served.encode(frame, first));
        first += frame.rows;
      }
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      for (const arrival of group) this.answerError(arrival, 'internal', message);
    }
    served.times.add(Activity.expertsOthers, startedMs);
  }

  private answerError({ client, frame }: Arrival, code: ErrorCode, message: string): void {
    this.answer(client, encodeErrorFrame({ ...echo(frame), source: this.served?.worker ?? 0 }, code, message));
  }

  private answer(client: Client, bytes: Uint8Array): void {
    client.queued--;
    if (client.closed) return;
    try {
      if (client.link.send(bytes)) return;
    } catch {
      return; // the link closed under us; its home sends the rows elsewhere or fails them
    }
    client.blocked = true;
    void client.link.drained().then(() => {
      client.blocked = false;
      if (this.arrivals.length > 0) this.schedule();
    });
  }
}

function echo(frame: DispatchFrame) {
  const { epoch, step, layer, rows, hidden, numericClass, tag } = frame;
  return { epoch, step, layer, rows, hidden, numericClass, tag };
}

/** Memory and kernels for one model's experts. */
class Served {
  readonly worker: number;
  readonly maxRows: number;
  readonly times: TimeSplit;
  private readonly native: Native;
  private readonly model: Model;
  private readonly epoch: number;
  private readonly counters: Counters;
  /** Rows of the frames computed now, (maxRows, hidden), and their sums. */
  private readonly x: DeviceBuffer;
  private readonly sum: RowSum;
  /** 0, 1, 2, …: sum rows of a frame are consecutive. */
  private readonly rowIndex: Int32Array;
  private readonly pairRow: Int32Array;
  private readonly pairSlot: Int32Array;
  private readonly pairExpert: Int32Array;
  private readonly pairWeight: Float32Array;
  /** Row bytes of merged frames, end to end; and where an answer is encoded before it is cut to size. Both grow to what was needed. */
  private staged = new Uint8Array(0);
  private encoded = new Uint8Array(0);

  constructor({ native, model, epoch, worker, maxRows, counters, times }: ServedModel) {
    const { hidden, topK, numericClass } = model.shape;
    this.native = native;
    this.model = model;
    this.epoch = epoch;
    this.worker = worker;
    this.maxRows = maxRows;
    this.counters = counters;
    this.times = times;
    this.x = native.bufferCreate(model.device, maxRows, hidden);
    this.sum = native.sumCreate(model.device, numericClass.sum, maxRows, hidden);
    this.rowIndex = Int32Array.from({ length: maxRows }, (_, i) => i);
    this.pairRow = new Int32Array(maxRows * topK);
    this.pairSlot = new Int32Array(maxRows * topK);
    this.pairExpert = new Int32Array(maxRows * topK);
    this.pairWeight = new Float32Array(maxRows * topK);
  }

  /** Why the frame cannot be served here, or null. */
  refuse(frame: DispatchFrame): SwitchyardError | null {
    const { shape, moe } = this.model;
    if (frame.epoch !== this.epoch) return new SwitchyardError('bad_plan', `epoch is ${frame.epoch}; this worker serves ${this.epoch}`);
    if (frame.numericClass !== shape.numericClass.id || frame.dtype !== shape.numericClass.wire) {
      const mine = `${shape.numericClass.id} (${shape.numericClass.name}, rows as ${shape.numericClass.wire})`;
      return new SwitchyardError(
        'version_mismatch',
        `numeric class is ${frame.numericClass} (rows as ${frame.dtype}); this worker computes in ${mine}`,
      );
    }
    if (frame.hidden !== shape.hidden)
      return new SwitchyardError('version_mismatch', `hidden is ${frame.hidden}; this model has ${shape.hidden}`);
    if (frame.layer >= moe.length)
      return new SwitchyardError('version_mismatch', `layer is ${frame.layer}; this model has ${moe.length} MoE layers`);
    if (frame.rows > this.maxRows)
      return new SwitchyardError('bad_frame', `rows is ${frame.rows}; this worker takes ${this.maxRows} at once`);
    if (frame.pairs > frame.rows * shape.topK) {
      return new SwitchyardError('bad_frame', `pairs is ${frame.pairs}; ${frame.rows} rows have ${frame.rows * shape.topK} at most`);
    }
    const { slotOf, layer } = moe[frame.layer];
    for (let p = 0; p < frame.pairs; p++) {
      const expert = frame.pairExpert[p];
      if (expert >= slotOf.length || slotOf[expert] < 0) {
        return new SwitchyardError('expert_unavailable', `expert ${expert} of layer ${layer} does not live here`);
      }
    }
    return null;
  }

  /** Fills the sums of all rows of the frames, in their order. The frames are of one layer and have `maxRows` rows at most. */
  compute(frames: readonly DispatchFrame[]): void {
    const { native, x, sum } = this;
    const index = frames[0].layer;
    const layer = this.model.moe[index];
    let rows = 0;
    let pairs = 0;
    for (const frame of frames) {
      for (let p = 0; p < frame.pairs; p++, pairs++) {
        this.pairRow[pairs] = rows + frame.pairRow[p];
        this.pairExpert[pairs] = frame.pairExpert[p];
        this.pairSlot[pairs] = layer.slotOf[frame.pairExpert[p]];
        this.pairWeight[pairs] = frame.pairWeight[p];
      }
      rows += frame.rows;
    }
    const only = frames.length === 1 ? frames[0] : null;
    const bytes = only === null ? this.stage(frames) : only.bytes;
    const rowsBytes = frames.reduce((total, frame) => total + frame.rowsBytes, 0);
    native.rowsDecode(x, rows, frames[0].dtype, bytes, only?.rowsOffset ?? 0, rowsBytes);
    native.sumClear(sum, rows);
    native.expertsRun(layer.experts, x, pairs, this.pairRow, this.pairSlot, this.pairWeight, layer.grid, sum);
    this.counters.addExperts(index, this.pairExpert, pairs);
  }

  /** The answer to a frame whose sums begin at row `first`. */
  encode(frame: DispatchFrame, first: number): Uint8Array {
    const { native, sum } = this;
    const most = FRAME_HEADER_BYTES + native.sumEncodedMax(frame.rows, frame.hidden);
    if (this.encoded.length < most) this.encoded = new Uint8Array(most);
    const rows = this.rowIndex.subarray(first, first + frame.rows);
    const sumBytes = native.sumEncode(sum, frame.rows, rows, this.encoded, FRAME_HEADER_BYTES);
    // A copy of its own, as small as the sums are: the link keeps it until it is written.
    const answer = this.encoded.slice(0, FRAME_HEADER_BYTES + sumBytes);
    return encodeCombineHeader(answer, { ...echo(frame), source: this.worker }, sumBytes);
  }

  free(): void {
    this.native.objectFree(this.x);
    this.native.objectFree(this.sum);
  }

  private stage(frames: readonly DispatchFrame[]): Uint8Array {
    const total = frames.reduce((bytes, frame) => bytes + frame.rowsBytes, 0);
    if (this.staged.length < total) this.staged = new Uint8Array(total * 2);
    let at = 0;
    for (const frame of frames) {
      this.staged.set(frame.bytes.subarray(frame.rowsOffset, frame.rowsOffset + frame.rowsBytes), at);
      at += frame.rowsBytes;
    }
    return this.staged;
  }
}
