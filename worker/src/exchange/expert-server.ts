import type { DeviceBuffer, Native, RowSum } from '@switchyard/native';
import {
  type DispatchFrame,
  type ErrorCode,
  encodeCombineHeader,
  encodeErrorFrame,
  FRAME_HEADER_BYTES,
  frameMemory,
  giveBackFrame,
  type Link,
  limits,
  parseFrame,
  SwitchyardError,
} from '@switchyard/proto';
import type { Counters } from '../engine/counters.ts';
import { Activity, type TimeSplit } from '../engine/time-split.ts';
import type { Model } from '../model/contract.ts';
import { FrameRoom } from './frame-room.ts';
import type { NodeGateway, Relay, RelayEnd } from './node-gateway.ts';
import { goesAlong, nextToServe, type WaitingFrame } from './serving-order.ts';

export interface ServedModel {
  native: Native;
  model: Model;
  epoch: number;
  /** Index of this worker in the plan. */
  worker: number;
  /** Rows that are computed at once; a frame may not have more. */
  maxRows: number;
  /** Serves frames for the whole node. */
  gateway: NodeGateway;
  counters: Counters;
  times: TimeSplit;
}

class Arrival implements WaitingFrame {
  readonly client: Client;
  readonly frame: DispatchFrame;
  /** Where the frame was accepted: it is computed there or not at all. */
  readonly served: Served;
  /** Null: this worker computes all of the frame. */
  readonly relay: Relay | null;
  passed = 0;

  constructor(client: Client, frame: DispatchFrame, served: Served, relay: Relay | null) {
    this.client = client;
    this.frame = frame;
    this.served = served;
    this.relay = relay;
  }

  get rows(): number {
    return this.frame.rows;
  }

  get blocked(): boolean {
    return this.client.blocked;
  }
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
 * A home that has asked nothing for so long is taken to have nothing under way. Between two layers of a step lie its own attention and other workers' answers, which may
 * take longer than this for very long prompts or peers that stand still: such a step then asks whoever else has the experts.
 */
const QUIET_MS = 1_000;

/**
 * Serves this worker's experts to other homes: rows of any home and any layer, as they arrive. What waits for the same layer is computed in one call; it may be,
 * for a row's sum does not depend on the rows beside it. Per link at most `limits.framesInFlightMax` frames wait; a home that sends more is cut off. What all
 * links together have waiting is bounded by `FrameRoom`. A frame for the whole node goes through the gateway, and this worker computes its own part like any other frame.
 *
 * A frame that does not belong here (another epoch, class or size, an expert that lives elsewhere) is answered with an error frame; bytes that are no frame close
 * the link.
 */
export class ExpertServer {
  private served: Served | null = null;
  private readonly clients = new Set<Client>();
  private readonly room: FrameRoom;
  private arrivals: Arrival[] = [];
  private rowsWaiting = 0;
  private scheduled = false;
  /** When a frame came, or its answer left, for the last time (performance.now). */
  private lastUsedMs = Number.NEGATIVE_INFINITY;

  constructor(room = new FrameRoom()) {
    this.room = room;
  }

  /** From now on frames are served with this model; null: they are refused with `not_ready`. */
  serve(served: ServedModel | null): void {
    this.served?.free();
    this.served = null;
    this.served = served === null ? null : new Served(served);
  }

  accept(link: Link): void {
    const client: Client = { link, queued: 0, blocked: false, closed: false };
    this.clients.add(client);
    this.room.open(link);
    link.onFrame((bytes) => this.receive(client, bytes));
    void link.closed.then(() => {
      client.closed = true;
      this.clients.delete(client);
      this.room.close(link);
    });
  }

  /** For how long, as far as is known at `nowMs`, homes may be in the middle of something that needs these experts; 0: nobody is. */
  quietInMs(nowMs: number): number {
    if (this.clients.size === 0) return 0;
    if ([...this.clients].some(({ queued }) => queued > 0)) return QUIET_MS;
    return Math.max(0, this.lastUsedMs + QUIET_MS - nowMs);
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
      cutFor(client, error);
      return;
    }
    client.queued++;
    this.room.take(client.link, frame);
    this.lastUsedMs = performance.now();
    const connecting = frame.scope === 'node' ? (this.served?.connecting ?? null) : null;
    if (connecting === null) this.take(client, frame);
    else connecting.then(() => this.take(client, frame)).catch((error) => cutFor(client, error));
  }

  private take(client: Client, frame: DispatchFrame): void {
    if (client.closed) return;
    const { served } = this;
    const refusal = served === null ? new SwitchyardError('not_ready', 'the worker serves no model yet') : served.refuse(frame);
    if (served === null || refusal !== null) {
      this.answerError(client, frame, refusal!.code, refusal!.message);
      return;
    }
    const relay = served.relay(frame, this.rowsWaiting, {
      complete: (whole, answer) => this.answerRelay(client, served, whole, answer),
      failed: (_, code, message) => this.answerError(client, frame, code, message),
    });
    if (relay !== null && (relay.isOver || relay.own.length === 0)) return;
    this.arrivals.push(new Arrival(client, frame, served, relay));
    this.rowsWaiting += frame.rows;
    this.schedule();
  }

  /** Rows are served after the event loop has delivered what else has arrived, so that it can be merged. */
  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.dropStale();
      this.serveNext();
      if (this.arrivals.some(({ client }) => !client.blocked)) this.schedule();
    });
  }

  /** Frames whose home is gone, whose answer has failed already, or that were meant for a model that is served no longer. */
  private dropStale(): void {
    this.arrivals = this.arrivals.filter(({ client, frame, served, relay }) => {
      const stays = !client.closed && relay?.isOver !== true && served === this.served;
      if (stays) return true;
      this.rowsWaiting -= frame.rows;
      // Of a relay nobody else would hear that this worker's part will not come.
      if (client.closed) relay?.fail('link_closed', 'its home is gone');
      else if (served !== this.served && relay?.isOver !== true)
        this.answerError(client, frame, 'not_ready', 'the worker was given another plan');
      return false;
    });
  }

  /** Serves the frame whose turn it is, and with it all others of its layer that go along and fit. */
  private serveNext(): void {
    const startedMs = performance.now();
    const { served } = this;
    const next = nextToServe(this.arrivals);
    if (next < 0 || served === null) return;
    const first = this.arrivals[next];
    const group: Arrival[] = [first];
    const rest: Arrival[] = [];
    let rows = first.rows;
    this.arrivals.forEach((arrival, i) => {
      if (arrival === first) return;
      if (arrival.frame.layer === first.frame.layer && goesAlong(first, arrival) && rows + arrival.rows <= served.maxRows) {
        group.push(arrival);
        rows += arrival.rows;
        return;
      }
      if (i < next) arrival.passed++;
      rest.push(arrival);
    });
    this.arrivals = rest;
    this.rowsWaiting -= rows;
    const failed = messageOfFailure(() => served.compute(group));
    let row = 0;
    for (const arrival of group) {
      // What does not parse among a neighbour's sums fails the frame that they are for, and none beside it.
      const unanswered = failed ?? messageOfFailure(() => this.finish(arrival, served, row));
      if (unanswered !== null) this.fail(arrival, unanswered);
      row += arrival.rows;
    }
    served.times.add(Activity.expertsOthers, startedMs);
  }

  /** The frame's sums lie from `row` on. */
  private finish({ client, frame, relay }: Arrival, served: Served, row: number): void {
    if (relay !== null) {
      served.finish(relay, row);
      return;
    }
    this.answer(client, frame, served.encode(frame, row));
    giveBackFrame(frame.bytes);
  }

  private fail({ client, frame, relay }: Arrival, message: string): void {
    if (relay === null) this.answerError(client, frame, 'internal', message);
    else relay.fail('internal', message);
  }

  /** @param made by this worker with its own part; null: the last part came from a neighbour */
  private answerRelay(client: Client, served: Served, relay: Relay, made: Uint8Array | null): void {
    let answer: Uint8Array;
    try {
      answer = made ?? served.gather(relay);
    } catch (error) {
      this.answerError(client, relay.frame, 'internal', error instanceof Error ? error.message : String(error));
      return;
    }
    this.answer(client, relay.frame, answer);
    giveBackFrame(relay.frame.bytes);
  }

  private answerError(client: Client, frame: DispatchFrame, code: ErrorCode, message: string): void {
    this.answer(client, frame, encodeErrorFrame({ ...echo(frame), source: this.served?.worker ?? 0 }, code, message));
  }

  private answer(client: Client, frame: DispatchFrame, bytes: Uint8Array): void {
    client.queued--;
    this.room.give(client.link, frame);
    this.lastUsedMs = performance.now();
    if (client.closed) return;
    try {
      if (client.link.send(bytes)) return;
    } catch {
      return; // The link closed under us, for no answer is too large (`rowsPerFrame`): its home sends the rows elsewhere or fails them.
    }
    client.blocked = true;
    void client.link.drained().then(() => {
      client.blocked = false;
      if (this.arrivals.length > 0) this.schedule();
    });
  }
}

function cutFor({ link }: Client, error: unknown): void {
  void link.close(error instanceof SwitchyardError ? error : new SwitchyardError('bad_frame', String(error), { cause: error }));
}

/** Null: `work` was done. */
function messageOfFailure(work: () => void): string | null {
  try {
    work();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
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
  /** Where the parts of a relayed frame are put together. */
  private readonly whole: RowSum;
  private readonly gateway: NodeGateway;
  /** Frames of which other workers' parts are missing. */
  private readonly relays = new Set<Relay>();
  /** 0, 1, 2, …: sum rows of a frame are consecutive. */
  private readonly rowIndex: Int32Array;
  private readonly shifted: Int32Array;
  private readonly pairsOfRow: Int32Array;
  private readonly pairRow: Int32Array;
  private readonly pairSlot: Int32Array;
  private readonly pairExpert: Int32Array;
  private readonly pairWeight: Float32Array;
  /** Row bytes of merged frames, end to end; and where sums are encoded before they are cut to size. Both grow to what was needed. */
  private staged = new Uint8Array(0);
  private scratch = new Uint8Array(0);

  constructor({ native, model, epoch, worker, maxRows, gateway, counters, times }: ServedModel) {
    const { hidden, topK, numericClass } = model.shape;
    this.native = native;
    this.model = model;
    this.epoch = epoch;
    this.worker = worker;
    this.maxRows = maxRows;
    this.gateway = gateway;
    this.counters = counters;
    this.times = times;
    this.x = native.bufferCreate(model.device, maxRows, hidden);
    this.sum = native.sumCreate(model.device, numericClass.sum, maxRows, hidden);
    this.whole = native.sumCreate(model.device, numericClass.sum, maxRows, hidden);
    this.shifted = new Int32Array(maxRows);
    this.pairsOfRow = new Int32Array(maxRows);
    this.rowIndex = Int32Array.from({ length: maxRows }, (_, i) => i);
    this.pairRow = new Int32Array(maxRows * topK);
    this.pairSlot = new Int32Array(maxRows * topK);
    this.pairExpert = new Int32Array(maxRows * topK);
    this.pairWeight = new Float32Array(maxRows * topK);
    for (const { experts, slotOf } of model.moe)
      if (slotOf.some((slot) => slot >= 0)) native.expertsReserve(experts, maxRows * topK, maxRows);
  }

  get connecting(): Promise<void> | null {
    return this.gateway.connecting;
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
    const { slotOf, layer } = moe[frame.layer];
    this.pairsOfRow.fill(0, 0, frame.rows);
    for (let p = 0; p < frame.pairs; p++) {
      const row = frame.pairRow[p];
      // Of each row, not of all together: a neighbour is sent some of the rows, and no frame of theirs may have more either.
      if (++this.pairsOfRow[row] > shape.topK)
        return new SwitchyardError('bad_frame', `row ${row} has more than ${shape.topK} pairs, the most that this model has`);
      const expert = frame.pairExpert[p];
      if (expert < slotOf.length && slotOf[expert] >= 0) continue;
      if (expert >= slotOf.length || frame.scope === 'worker')
        return new SwitchyardError('expert_unavailable', `expert ${expert} of layer ${layer} does not live here`);
      const nowhere = this.gateway.refusal(frame.layer, expert);
      if (nowhere !== null) return nowhere;
    }
    return null;
  }

  /** Sends on what other workers of this node compute. Null: everything is computed here. */
  relay(frame: DispatchFrame, rowsWaiting: number, end: RelayEnd): Relay | null {
    const relay = this.gateway.open(frame, this.model.moe[frame.layer], rowsWaiting, {
      complete: (whole, answer) => {
        this.relays.delete(whole);
        end.complete(whole, answer);
      },
      failed: (failed, code, message) => {
        this.relays.delete(failed);
        end.failed(failed, code, message);
      },
    });
    if (relay !== null && !relay.isOver) this.relays.add(relay);
    return relay;
  }

  /** Fills the sums of all rows of the frames, in their order. The frames are of one layer and have `maxRows` rows at most. */
  compute(group: readonly Arrival[]): void {
    const { native, x, sum } = this;
    const frames = group.map(({ frame }) => frame);
    const index = frames[0].layer;
    const layer = this.model.moe[index];
    let rows = 0;
    let pairs = 0;
    for (const { frame, relay } of group) {
      const count = relay === null ? frame.pairs : relay.own.length;
      for (let i = 0; i < count; i++, pairs++) {
        const p = relay === null ? i : relay.own[i];
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

  /** This worker's part of a relayed frame is computed, in sums from row `first` on. The last part to come takes the others in; an earlier one is put aside. */
  finish(relay: Relay, first: number): void {
    const { native, sum } = this;
    const { frame } = relay;
    if (!relay.onlyOwnMissing) {
      const bytes = this.encoded(frame, sum, first, 0);
      relay.add({ row: this.rowIndex.subarray(0, frame.rows), bytes, offset: 0, length: bytes.length });
      return;
    }
    for (const { row, bytes, offset, length } of relay.partials) {
      for (let i = 0; i < row.length; i++) this.shifted[i] = first + row[i];
      native.sumAddEncoded(sum, row.length, this.shifted, bytes, offset, length);
      giveBackFrame(bytes);
    }
    relay.complete(this.encode(frame, first));
  }

  /** The answer to a relayed frame all of whose parts came from elsewhere, or were put aside. */
  gather({ frame, partials }: Relay): Uint8Array {
    const { native, whole } = this;
    native.sumClear(whole, frame.rows);
    for (const { row, bytes, offset, length } of partials) {
      native.sumAddEncoded(whole, row.length, row, bytes, offset, length);
      giveBackFrame(bytes);
    }
    return this.encode(frame, 0, whole);
  }

  /** The answer to a frame whose sums begin at row `first`. */
  encode(frame: DispatchFrame, first: number, sum = this.sum): Uint8Array {
    const answer = this.encoded(frame, sum, first, FRAME_HEADER_BYTES);
    return encodeCombineHeader(answer, { ...echo(frame), source: this.worker }, answer.length - FRAME_HEADER_BYTES);
  }

  /** A frame's sums after so many bytes for a header, in memory of their own that is as small as they are: it is kept until they are written, or taken in. */
  private encoded(frame: DispatchFrame, sum: RowSum, first: number, headerBytes: number): Uint8Array {
    const { native } = this;
    const most = headerBytes + native.sumEncodedMax(frame.rows, frame.hidden);
    if (this.scratch.length < most) this.scratch = new Uint8Array(most);
    const rows = this.rowIndex.subarray(first, first + frame.rows);
    const length = headerBytes + native.sumEncode(sum, frame.rows, rows, this.scratch, headerBytes);
    const bytes = frameMemory(length);
    bytes.set(this.scratch.subarray(0, length));
    return bytes;
  }

  free(): void {
    for (const relay of [...this.relays]) relay.fail('not_ready', 'the worker was given another plan');
    this.native.objectFree(this.x);
    this.native.objectFree(this.sum);
    this.native.objectFree(this.whole);
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
