import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceDescription, Native } from '@switchyard/native';
import {
  attachToCoordinator,
  availableCpus,
  type CoordinatorStream,
  dialBest,
  type ErrorCode,
  errorCatalogue,
  type FromWorker,
  idleStats,
  type LinkOptions,
  type Listeners,
  listenAny,
  memoriesBeside,
  PROTOCOL_VERSION,
  readTlsFiles,
  readTokenFile,
  SwitchyardError,
  type ToWorker,
} from '@switchyard/proto';
import { badCheckpoint } from '../checkpoint/bad-checkpoint.ts';
import { ExpertServer } from '../exchange/expert-server.ts';
import type { LoadOptions, Model } from '../model/contract.ts';
import { type Assignment, loadOptions, readAssignment } from './assignment.ts';
import { exposures } from './exposure.ts';
import type { WorkerFlags } from './flags.ts';
import type { Log } from './log.ts';
import { Serving } from './serving.ts';
import { weightsHash } from './weights-hash.ts';

export interface WorkerProcessOptions {
  flags: WorkerFlags;
  native: Native;
  load: (options: LoadOptions) => Promise<Model>;
  version: string;
  log: Log;
}

const HEARTBEAT_MS = 1_000;
/** How late a worker that stops may notice that the last home which used it has gone. */
const UNUSED_CHECK_MS = 50;
/** What a timer can wait; a longer one goes off at once, and a message may say so much. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const REATTACH_MS_MIN = 100;
const REATTACH_MS_MAX = 2_000;

/**
 * The life of a worker: listen for peers, attach to the coordinator, load what it assigns, serve until told to stop. The control stream may come and go; links to
 * peers and the loaded model stay, and a coordinator that assigns the same again finds it ready.
 */
export class WorkerProcess {
  private readonly options: WorkerProcessOptions;
  private readonly server = new ExpertServer();
  private links: LinkOptions = { token: '', tls: null };
  private listeners: Listeners | null = null;
  private device: ReturnType<typeof describeDevice> | null = null;
  private stream: CoordinatorStream | null = null;
  private serving: Serving | null = null;
  private loading: { assignment: Assignment; abort: AbortController } | null = null;
  /** One assignment at a time: the next begins when the one before has let go of its memory. */
  private turnover: Promise<void> = Promise.resolve();
  private readonly ending = new AbortController();
  private exitStatus = 0;
  private tracing = false;

  constructor(options: WorkerProcessOptions) {
    this.options = options;
  }

  /** Runs until `stop` or a refusal that trying again cannot help. Resolves to the exit status. */
  async run(): Promise<number> {
    const { flags, native, log } = this.options;
    // What cannot be computed on is found out here: it is no fault of the coordinator.
    this.device = describeDevice(native, flags);
    this.links = { token: readTokenFile(flags.tokenFile, '--token-file'), tls: readTlsFiles(flags, flags.tlsServerName) };
    this.listeners = await listenAny(flags.data, this.links, (link) => this.server.accept(link)).catch(naming('--data'));
    for (const exposure of exposures(flags)) log('warn', exposure);
    log('info', `listening for peers on ${this.listeners.addresses.join(', ')}`);
    const heartbeat = setInterval(() => this.beat(), HEARTBEAT_MS);
    try {
      await this.stayAttached();
    } finally {
      clearInterval(heartbeat);
      await this.release();
    }
    return this.exitStatus;
  }

  /** Refuses new requests, lets the running ones end for at most `graceMs`, its own and then those of homes that use its experts, then ends the process. */
  async stop(graceMs: number): Promise<void> {
    const { log } = this.options;
    log('info', `stopping; running requests have ${Math.min(graceMs, TIMEOUT_MS_MAX)} ms`);
    const reason = new SwitchyardError('shutting_down', `worker ${this.options.flags.name} is shutting down`);
    const { serving } = this;
    if (serving !== null) {
      const late = new AbortController();
      const timeUp = sleep(Math.min(graceMs, TIMEOUT_MS_MAX), undefined, { signal: late.signal, ref: false }).catch(() => {});
      const allEnded = serving.engine.drain(reason).then(() => this.unused(late.signal));
      await Promise.race([allEnded, timeUp]);
      late.abort();
      if (serving.engine.workPending) await serving.endAll(reason);
    }
    this.ending.abort();
    await this.stream?.close();
  }

  /**
   * Resolves when no home is in the middle of something that needs these experts. Nobody tells: it shows in what they ask. Where the coordinator has gone the whole
   * cluster is ending, as `up` ends it.
   */
  private async unused(signal: AbortSignal): Promise<void> {
    while (!signal.aborted && this.stream !== null) {
      const quietInMs = this.server.quietInMs(performance.now());
      if (quietInMs === 0) return;
      await sleep(Math.min(quietInMs, UNUSED_CHECK_MS), undefined, { signal }).catch(() => {});
    }
  }

  private async stayAttached(): Promise<void> {
    const { flags, log } = this.options;
    let pauseMs = REATTACH_MS_MIN;
    while (!this.ending.signal.aborted) {
      try {
        const stream = await attachToCoordinator(flags.coordinator, { ...this.links, signal: this.ending.signal });
        const attachedMs = performance.now();
        const reason = await this.converse(stream);
        // Whoever is let in and dropped again comes back less and less often, like one that is not let in.
        if (performance.now() - attachedMs > REATTACH_MS_MAX) pauseMs = REATTACH_MS_MIN;
        if (!this.ending.signal.aborted) log('warn', `the control stream ended: ${reason?.message ?? 'closed by the coordinator'}`);
      } catch (error) {
        if (this.ending.signal.aborted) return;
        const failure = asSwitchyardError(error);
        if (!errorCatalogue[failure.code].retry) {
          this.giveUp(`cannot attach to ${flags.coordinator}: ${failure.message}`);
          return;
        }
        log('warn', `cannot attach to ${flags.coordinator}: ${failure.message}`);
      }
      await sleep(pauseMs * (0.5 + Math.random()), undefined, { signal: this.ending.signal }).catch(() => {});
      pauseMs = Math.min(pauseMs * 2, REATTACH_MS_MAX);
    }
  }

  /** One attachment, until the stream closes. */
  private async converse(stream: CoordinatorStream): Promise<SwitchyardError | null> {
    const { flags, version, log } = this.options;
    const device = this.device!;
    this.stream = stream;
    stream.onMessage((message) => this.receive(message));
    this.send({
      type: 'hello',
      protocolVersion: PROTOCOL_VERSION,
      name: flags.name,
      node: flags.node,
      pid: process.pid,
      dataAddresses: this.listeners!.addresses,
      device: JSON.stringify(device),
      softwareVersion: version,
      memories: memoriesOf(flags, device),
    });
    log('info', `attached to ${flags.coordinator}`);
    const reason = await stream.closed;
    this.stream = null;
    this.trace(false);
    // Nobody can be told of its requests any more, and to a coordinator that attaches again they mean nothing.
    this.serving?.engine.abandonAll();
    return reason;
  }

  private receive(message: ToWorker): void {
    switch (message.type) {
      case 'assign':
        try {
          this.assign(readAssignment(message));
        } catch (error) {
          this.fail(message.epoch, error);
        }
        return;
      case 'peers':
        this.serving?.announce(message);
        return;
      case 'submit':
        if (this.serving === null) this.sendError(message.request, 'not_ready', 'the worker has not loaded its model yet');
        else this.serving.engine.submit(message);
        return;
      case 'cancel':
        this.serving?.engine.cancel(message.request);
        return;
      case 'trace':
        this.trace(message.on);
        return;
      case 'stop':
        void this.stop(message.graceMs);
        return;
      case 'refuse':
        this.giveUp(`refused by ${this.options.flags.coordinator}: ${message.message}`);
    }
  }

  /** Routing traces reveal prompts: they end with the coordinator that asked for them. */
  private trace(on: boolean): void {
    this.tracing = on;
    if (this.serving !== null) this.serving.engine.tracing = on;
  }

  private assign(assignment: Assignment): void {
    // While another is being loaded, what is served is on its way out.
    if (this.loading === null && this.serving?.assignment.key === assignment.key) {
      this.announceReady();
      return;
    }
    if (this.loading?.assignment.key === assignment.key) return; // it will say when it is ready
    this.loading?.abort.abort();
    const loading = { assignment, abort: new AbortController() };
    this.loading = loading;
    this.turnover = this.turnover.then(async () => {
      await this.serving?.close(new SwitchyardError('not_ready', `worker ${this.options.flags.name} was given another plan`));
      this.serving = null;
      if (loading.abort.signal.aborted) return;
      await this.load(assignment, loading.abort.signal);
      if (this.loading === loading) this.loading = null;
    });
  }

  private async load(assignment: Assignment, signal: AbortSignal): Promise<void> {
    const { flags, native, load, log } = this.options;
    const { epoch } = assignment;
    const startedMs = performance.now();
    let lastMs = 0;
    const onProgress = (done: number, total: number, what: string) => {
      const now = performance.now();
      if (done < total && now - lastMs < 100) return;
      lastMs = now;
      this.send({ type: 'progress', epoch, done, total, what });
    };
    try {
      const options = loadOptions(assignment, flags, onProgress, signal);
      const found = await weightsHash(assignment.modelDir).catch(() => null);
      const model = await load(options);
      try {
        const read = await weightsHash(assignment.modelDir);
        if (read !== found) throw badCheckpoint(assignment.modelDir, 'the checkpoint changed while it was loaded');
        this.serving = new Serving({
          native,
          assignment,
          model,
          weightsHash: read,
          server: this.server,
          dial: (addresses, dialSignal) => dialBest(addresses, { ...this.links, signal: dialSignal }),
          maxLogitRows: options.maxLogitRows,
          onTokens: (tokens) => this.send({ type: 'tokens', ...tokens }),
          onTrace: (rows) => this.send({ type: 'trace', ...rows }),
        });
      } catch (error) {
        model.close();
        throw error;
      }
      this.serving.engine.tracing = this.tracing;
      log(
        'info',
        `serving epoch ${epoch} after ${Math.round(performance.now() - startedMs)} ms, ${(model.residentBytes / 1e6).toFixed(1)} MB resident`,
      );
      this.announceReady();
    } catch (error) {
      if (!signal.aborted) this.fail(epoch, error);
    }
  }

  private announceReady(): void {
    const { assignment, model, weightsHash } = this.serving!;
    const { epoch } = assignment;
    const { residentBytes, shape } = model;
    const { kvBlocks, numericClass } = shape;
    this.send({ type: 'ready', epoch, residentBytes, kvBlocks, weightsHash, numericClass: numericClass.name });
  }

  private fail(epoch: number, error: unknown): void {
    const { code, message } = asSwitchyardError(error);
    this.options.log('error', `cannot serve epoch ${epoch}: ${message}`);
    this.send({ type: 'failed', epoch, code, message });
  }

  private giveUp(why: string): void {
    this.options.log('error', why);
    this.exitStatus = 1;
    this.ending.abort();
    void this.stream?.close();
  }

  private sendError(request: number, code: ErrorCode, message: string): void {
    const tokens = {
      request: [request],
      token: [0],
      finish: [3],
      logprob: [],
      top: [],
      errors: [{ code, message }],
      cachedTokens: [0],
      queuedUs: [0],
      prompt: [],
      traffic: [{ ...nothing, routing: { request, sampled: 0, held: [] } }],
      routing: [],
    };
    this.send({ type: 'tokens', ...tokens });
  }

  private beat(): void {
    this.send({ type: 'stats', ...(this.serving?.stats() ?? idleStats) });
    const written = this.serving?.model.writtenFile() ?? null;
    if (written !== null) void this.leaveWritten(written);
  }

  /** What it would answer is another model's, or none's. Whoever starts it again has it load what is there then. */
  private async leaveWritten(file: string): Promise<void> {
    if (this.exitStatus !== 0) return;
    this.exitStatus = 1;
    const failure = badCheckpoint(file, 'somebody writes to it while the model that reads it is served; give a new model files of its own');
    await this.serving?.endAll(failure);
    this.giveUp(failure.message);
  }

  /** What nobody listens to is dropped: without a coordinator there is nobody to tell. */
  private send(message: FromWorker): void {
    const { stream } = this;
    try {
      stream?.send(message);
    } catch (error) {
      const failure = asSwitchyardError(error);
      // A stream that is closing: `converse` is about to notice.
      if (failure.code === 'link_closed') return;
      this.options.log('error', `cannot send ${message.type}: ${failure.message}`);
      // The coordinator would wait for it for ever, and takes what follows for all there was.
      void stream!.close(failure);
    }
  }

  private async release(): Promise<void> {
    this.loading?.abort.abort();
    await this.turnover;
    await this.serving?.close(new SwitchyardError('shutting_down', `worker ${this.options.flags.name} is shutting down`));
    this.serving = null;
    await this.server.close();
    await this.listeners?.close();
  }
}

const nothing = { rows: 0, remoteNodes: 0, visits: 0, homeVisits: 0, interNodeBytes: 0, intraNodeBytes: 0 };

function describeDevice(native: Native, { backend, isa, threads, cpus }: WorkerFlags): DeviceDescription & Pick<WorkerFlags, 'cpus'> {
  const device = native.deviceOpen({ backend, isa, threads: 1, cpus: null });
  try {
    return { ...native.deviceDescribe(device), threads, cpus };
  } finally {
    native.deviceClose(device);
  }
}

/** Experts on a GPU are most of what is read: what its host's memory holds beside them counts for little. */
function memoriesOf({ cpus }: WorkerFlags, { acceleratorId }: DeviceDescription): string[] {
  return acceleratorId ? [acceleratorId] : memoriesBeside(cpus ?? availableCpus());
}

function naming(flag: string): (error: unknown) => never {
  return (error) => {
    const { code, message } = asSwitchyardError(error);
    throw new SwitchyardError(code, `${flag}: ${message}`, { cause: error });
  };
}

function asSwitchyardError(error: unknown): SwitchyardError {
  if (error instanceof SwitchyardError) return error;
  return new SwitchyardError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}
