import {
  type EngineConfig,
  type FromWorker,
  type Hello,
  isSocketOfFiles,
  limits,
  type Plan,
  type Ready,
  type Stats,
  type Submit,
  SwitchyardError,
  type Tokens,
  type TraceRows,
  type WorkerStream,
} from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { Log } from '../log.ts';
import { uncoveredExperts } from './coverage.ts';
import { tooLongIn } from './hello-bounds.ts';
import { checkedMemories, memoryGroups } from './shared-memory.ts';

export interface Assignment {
  epoch: number;
  modelDir: string;
  plan: Plan;
  engine: EngineConfig;
}

/** Of a numeric class: it becomes a label and part of every answer. */
const numericClassPattern = /^[a-z0-9][a-z0-9+=.-]{0,127}$/;

/** `loading` until the worker says ready, `loaded` until it knows its peers, then `serving`. `failed`: it cannot serve the assignment and said why. */
type PlaceState = 'absent' | 'loading' | 'loaded' | 'serving' | 'failed';

/** A worker's place in the plan, and who fills it now. */
export interface Place {
  readonly worker: number;
  readonly name: string;
  readonly node: number;
  /** (layer, expert) replicas that the plan gives it. */
  readonly replicas: number;
  state: PlaceState;
  stream: WorkerStream | null;
  hello: Hello | null;
  /** Lowest number of the attached workers that read the same memory, its own among them. */
  memory: number;
  /** Workers of the same machine reach it over no network. */
  local: boolean;
  ready: Ready | null;
  progress: { done: number; total: number; what: string } | null;
  failure: string | null;
  stats: Stats | null;
  statsAtMs: number;
  /** How often a worker was lost here. */
  losses: number;
}

interface MembershipEvents {
  onTokens(place: Place, tokens: Tokens): void;
  onTrace(place: Place, rows: TraceRows): void;
  onStats(place: Place, stats: Stats): void;
  /** A worker that did not keep up may again, or one has come. */
  onDrained(): void;
  /** Its stream ended while it held sequences, or could have. */
  onLost(place: Place, error: SwitchyardError): void;
  /** Some place changed its state. */
  onChange(): void;
}

/**
 * The workers of the plan: who is attached, what each was assigned, and whether together they cover every expert. A worker is a member while its control
 * stream is open. One that attaches under the name of another replaces it: after a crash its successor is often here before the old stream is known to be dead.
 */
export class Membership {
  readonly places: readonly Place[];
  readonly #assignment: Assignment;
  readonly #planBytes: Uint8Array;
  readonly #events: MembershipEvents;
  readonly #log: Log;
  readonly #byName: ReadonlyMap<string, Place>;
  /** What workers said that cannot serve beside those that do: they may when these are gone. */
  readonly #different = new Map<Place, Ready>();
  #uncovered: number;
  #tracing = false;
  /** Of the introduction that is to come. */
  #soon: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(assignment: Assignment, events: MembershipEvents, log: Log) {
    this.#assignment = assignment;
    this.#planBytes = new TextEncoder().encode(JSON.stringify(assignment.plan));
    this.#events = events;
    this.#log = log;
    this.places = assignment.plan.workers.map(({ name, node }, worker) => ({
      worker,
      name,
      node,
      replicas: assignment.plan.replicas.reduce((sum, layer) => sum + layer.filter((holders) => holders.includes(worker)).length, 0),
      ...vacancy(),
      memory: worker,
      local: false,
      losses: 0,
    }));
    this.#byName = new Map(this.places.map((place) => [place.name, place]));
    this.#uncovered = uncoveredExperts(assignment.plan, new Set());
  }

  /** (layer, expert) pairs that no serving worker holds: nothing can be answered while there are any. */
  get uncovered(): number {
    return this.#uncovered;
  }

  get epoch(): number {
    return this.#assignment.epoch;
  }

  /** Takes over a new control stream. */
  accept(stream: WorkerStream): void {
    let place: Place | null = null;
    const silent = setTimeout(() => {
      void stream.close(new SwitchyardError('deadline_exceeded', `no hello within ${bounds.helloTimeoutMs} ms`));
    }, bounds.helloTimeoutMs);
    stream.onMessage((message) => {
      if (place !== null) this.#receive(place, stream, message);
      else if (message.type === 'hello') {
        clearTimeout(silent);
        const tooLong = tooLongIn(message);
        if (tooLong === null) place = this.#greet(stream, message);
        else {
          this.#log.warn({ peer: stream.peer }, `a worker was refused: ${tooLong}`);
          void stream.close(new SwitchyardError('bad_frame', tooLong));
        }
      } else void stream.close(new SwitchyardError('bad_frame', `the first message is ${message.type}, not hello`));
    });
    void stream.closed.then((error) => {
      clearTimeout(silent);
      if (place !== null && place.stream === stream) this.#lose(place, error);
    });
  }

  /** Prompts may be long, and a stream that is given more than it can hold is cut off: with those that wait there its worker would lose all it has. */
  keepsUp({ stream }: Place): boolean {
    return stream !== null && stream.pendingBytes < limits.controlPendingBytesMax;
  }

  /** @throws SwitchyardError `link_closed` when the worker has just gone */
  submit(place: Place, submit: Submit): void {
    const { stream } = place;
    if (stream === null) throw new SwitchyardError('link_closed', `worker ${place.name} is not attached`);
    if (!stream.send({ type: 'submit', ...submit })) void stream.drained().then(() => this.#events.onDrained());
  }

  cancel(place: Place, request: number): void {
    this.#tell(place, { type: 'cancel', request });
  }

  /** Turns trace rows on or off, for workers that attach later too. */
  trace(on: boolean): void {
    this.#tracing = on;
    for (const place of this.places) this.#tell(place, { type: 'trace', on });
  }

  /** Lets go of all workers: they outlive the coordinator and attach to the next. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#introducedNow();
    await Promise.all(this.places.map((place) => place.stream?.close()));
  }

  #greet(stream: WorkerStream, hello: Hello): Place | null {
    const place = this.#byName.get(hello.name);
    if (place === undefined) {
      const names = this.places.map(({ name }) => name).join(', ');
      const message = `worker ${JSON.stringify(hello.name.slice(0, bounds.nameCharsMax))} is not in the plan, whose workers are ${names}`;
      this.#log.warn({ peer: stream.peer }, message);
      stream.send({ type: 'refuse', code: 'bad_plan', message });
      void stream.close();
      return null;
    }
    if (place.stream !== null) {
      const error = new SwitchyardError('worker_lost', `another worker attached as ${place.name}`);
      // One that died does not read it. One that lives would take its place back, and so on for ever.
      this.#tell(place, { type: 'refuse', code: 'bad_plan', message: error.message });
      void place.stream.close(error);
      this.#lose(place, error);
    }
    Object.assign(place, vacancy(), {
      state: 'loading',
      stream,
      hello: { ...hello, dataAddresses: hello.dataAddresses.slice(0, limits.addressesMax) },
    });
    this.#regroup();
    this.#log.info({ worker: place.name, pid: hello.pid, peer: stream.peer }, 'worker attached');
    this.#compareNodes(place, hello);
    const { epoch, modelDir, engine } = this.#assignment;
    stream.send({ type: 'assign', worker: place.worker, epoch, modelDir, plan: this.#planBytes, engine });
    if (this.#tracing) stream.send({ type: 'trace', on: true });
    this.#events.onChange();
    return place;
  }

  /** Started on another machine than the plan was made for, it serves all the same, but what was local then is not. */
  #compareNodes({ name, node }: Place, hello: Hello): void {
    const planned = `n${node}`;
    if (hello.node === planned) return;
    const said = JSON.stringify(hello.node.slice(0, bounds.nameCharsMax));
    this.#log.warn({ worker: name }, `worker ${name} says it is on node ${said}; in the plan it is on "${planned}", which counts`);
  }

  #receive(place: Place, stream: WorkerStream, message: FromWorker): void {
    // A stream that was replaced may still have messages on their way.
    if (place.stream !== stream) return;
    try {
      this.#take(place, stream, message);
    } catch (error) {
      // It costs its sender the stream, and nobody else the coordinator.
      this.#log.error({ worker: place.name, err: error }, `${message.type} cannot be taken in`);
      void stream.close(error instanceof SwitchyardError ? error : new SwitchyardError('internal', `${message.type} cannot be taken in`));
    }
  }

  #take(place: Place, stream: WorkerStream, message: FromWorker): void {
    switch (message.type) {
      case 'tokens':
        this.#events.onTokens(place, message);
        return;
      case 'trace':
        this.#events.onTrace(place, message);
        return;
      case 'stats': {
        place.stats = message;
        place.statsAtMs = performance.now();
        this.#events.onStats(place, message);
        return;
      }
      case 'progress':
        place.progress = { done: message.done, total: message.total, what: message.what };
        return;
      case 'ready':
        if (message.epoch === this.epoch) this.#loaded(place, message);
        return;
      case 'failed':
        if (message.epoch === this.epoch) this.#becomeFailed(place, message.code, message.message);
        return;
      case 'hello':
        void stream.close(new SwitchyardError('bad_frame', 'hello is said once'));
    }
  }

  /** Rows of one model only may meet: workers that serve together have read checkpoints that agree in what their hash covers, and compute in the same class. */
  #loaded(place: Place, ready: Ready): void {
    if (!numericClassPattern.test(ready.numericClass)) {
      void place.stream?.close(new SwitchyardError('bad_frame', 'ready: numericClass is no name'));
      return;
    }
    const difference = this.places.reduce<string | null>((found, other) => found ?? differenceOf(ready, place, other), null);
    if (difference === null) {
      this.#becomeReady(place, ready);
      return;
    }
    this.#different.set(place, ready);
    this.#becomeFailed(place, 'version_mismatch', difference);
  }

  #becomeReady(place: Place, ready: Ready): void {
    // A heartbeat from before it had loaded says nothing of what it holds now.
    Object.assign(place, { state: 'loaded', ready, failure: null, progress: null, stats: null });
    this.#log.info({ worker: place.name, residentBytes: ready.residentBytes, kvBlocks: ready.kvBlocks }, 'worker ready');
    this.#recount();
    if (this.#uncovered > 0) this.#introduce();
    else this.#introduceSoon();
    this.#events.onChange();
  }

  /** After one is gone: whoever has loaded already may be needed now, and nobody should go on dialling it. */
  #coverWithOthers(): void {
    this.#recount();
    if (this.#uncovered === 0) this.#introduceSoon();
    else if (this.#soon !== null) this.#introduce();
  }

  #becomeFailed(place: Place, code: string, message: string): void {
    Object.assign(place, { state: 'failed', failure: `${code}: ${message}` });
    this.#log.error({ worker: place.name, code }, `worker cannot serve: ${message}`);
    this.#coverWithOthers();
    this.#events.onChange();
  }

  /** Where every expert is served already, those who come close together are introduced together: each introduction tells all of all. */
  #introduceSoon(): void {
    if (this.#closed) return;
    this.#soon ??= setTimeout(() => {
      this.#introduce();
      this.#events.onChange();
      // Answers that wait may begin at whoever came.
      this.#events.onDrained();
    }, bounds.introductionPauseMs);
  }

  #introducedNow(): void {
    if (this.#soon !== null) clearTimeout(this.#soon);
    this.#soon = null;
  }

  /** Tells all ready workers of each other as soon as they cover the plan; again whenever one comes back, for its address may be new. */
  #introduce(): void {
    this.#introducedNow();
    const ready = this.places.filter(({ state }) => state === 'loaded' || state === 'serving');
    const covered = uncoveredExperts(this.#assignment.plan, new Set(ready.map(({ worker }) => worker))) === 0;
    if (covered) {
      const peers = ready.map(({ worker, name, hello }) => ({ worker, name, node: hello!.node, dataAddresses: hello!.dataAddresses }));
      for (const place of ready) {
        // One that was not told cannot send its peers anything: its loss is about to be said.
        if (this.#tell(place, { type: 'peers', epoch: this.epoch, peers })) place.state = 'serving';
      }
    }
    this.#recount();
  }

  #lose(place: Place, error: SwitchyardError | null): void {
    const reason = error?.message ?? 'it closed its stream';
    Object.assign(place, vacancy(), { losses: place.losses + 1 });
    this.#different.delete(place);
    this.#regroup();
    this.#coverWithOthers();
    this.#log.warn({ worker: place.name, uncovered: this.#uncovered }, `worker lost: ${reason}`);
    this.#events.onLost(place, new SwitchyardError('worker_lost', `worker ${place.name} was lost: ${reason}`));
    // It may have been the one that others differ from.
    const different = [...this.#different];
    this.#different.clear();
    for (const [other, ready] of different) this.#loaded(other, ready);
    this.#events.onChange();
  }

  #regroup(): void {
    const groups = memoryGroups(this.places.map(({ hello }) => checkedMemories(hello?.memories ?? [])));
    for (const place of this.places) {
      place.memory = groups[place.worker];
      place.local = place.hello?.dataAddresses.some(isSocketOfFiles) ?? false;
    }
  }

  #recount(): void {
    const serving = this.places.filter(({ state }) => state === 'serving').map(({ worker }) => worker);
    this.#uncovered = uncoveredExperts(this.#assignment.plan, new Set(serving));
  }

  /** Whether it could be: a stream that has closed by now will say so itself. */
  #tell(place: Place, message: Parameters<WorkerStream['send']>[0]): boolean {
    try {
      place.stream?.send(message);
      return place.stream !== null;
    } catch (error) {
      this.#log.debug({ worker: place.name }, `not told ${message.type}: ${(error as Error).message}`);
      return false;
    }
  }
}

function vacancy() {
  return {
    state: 'absent' as PlaceState,
    stream: null,
    hello: null,
    ready: null,
    progress: null,
    failure: null,
    stats: null,
    statsAtMs: 0,
  };
}

/** Why a worker that has loaded cannot serve beside another; null where it can. */
function differenceOf(ready: Ready, place: Place, other: Place): string | null {
  if (other === place || other.ready === null) return null;
  const { numericClass, weightsHash } = other.ready;
  if (ready.numericClass !== numericClass) return `it computes in ${ready.numericClass}, ${other.name} in ${numericClass}`;
  if (ready.weightsHash !== weightsHash) return `its checkpoint is another than ${other.name} has read`;
  return null;
}
