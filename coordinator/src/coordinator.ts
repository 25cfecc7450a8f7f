import { createHash } from 'node:crypto';
import path from 'node:path';
import {
  type EngineConfig,
  type LinkTls,
  type Listener,
  lossyNames,
  type Plan,
  parseLossy,
  planChecksum,
  readTlsFiles,
  readTokenFile,
  SwitchyardError,
  serveControl,
} from '@switchyard/proto';
import { TokenTexts } from './api/answer-format.ts';
import { ApiKeys } from './api/api-keys.ts';
import { type HttpListener, listenHttp } from './api/http-server.ts';
import { LeasedMemory } from './api/leased-memory.ts';
import { OpenExchanges } from './api/open-exchanges.ts';
import type { Service } from './api/service.ts';
import { bounds } from './bounds.ts';
import { type Config, completeConfig, type GivenConfig } from './config.ts';
import { exposures } from './exposure.ts';
import { Health } from './health/health.ts';
import type { HealthReading } from './health/health-counters.ts';
import { createLog, type Log } from './log.ts';
import { type Assignment, Membership } from './membership/membership.ts';
import { Metrics } from './metrics/metrics.ts';
import { type ModelFolder, readModelFolder } from './model-folder.ts';
import { choosePlan } from './placement-plan.ts';
import { checkReplayedTrace } from './replayed-trace.ts';
import { Dispatcher, type HomePolicy } from './requests/dispatcher.ts';
import { HomeStatistics } from './requests/home-statistics.ts';
import { nodeCount, readPlanHomes } from './requests/plan-homes.ts';
import { beyondBatchMax, tenantPart } from './requests/waiting-answers.ts';
import { statusDocument } from './status.ts';
import { Tokenizing } from './tokenizing/tokenizing.ts';
import { TraceRecorder } from './trace/trace-recorder.ts';
import { version } from './version.ts';

export interface RunningCoordinator {
  /** Of the HTTP API, with the port that it got. */
  readonly url: string;
  /** Where workers attach. */
  readonly controlAddress: string;
  /** Of the health thread; null without one. */
  readonly healthUrl: string | null;
  /** What GET /v1/switchyard/status says. */
  status(): Record<string, unknown>;
  /** Refuses new requests, lets running ones end within the grace, then closes everything. Workers stay and attach to the next coordinator. */
  close(graceMs?: number): Promise<void>;
}

const BLOCK_TOKENS = 16;

/**
 * Starts a coordinator: the API, the control plane for workers, and what lies between. Resolves once both listen; requests are refused with `not_ready` until the
 * workers cover the plan.
 *
 * @param takeLog gets the lines of its log, which otherwise go to stderr
 * @throws SwitchyardError naming the option or file at fault
 */
export async function startCoordinator(given: GivenConfig, takeLog?: (line: string) => void): Promise<RunningCoordinator> {
  const config = completeConfig(given);
  const coordinator = new Coordinator(config, createLog(config.logLevel, takeLog));
  await coordinator.listen();
  return coordinator;
}

class Coordinator implements RunningCoordinator {
  url = '';
  controlAddress = '';
  healthUrl: string | null = null;
  readonly #config: Config;
  readonly #log: Log;
  readonly #folder: ModelFolder;
  readonly #plan: Plan;
  readonly #planChecksum: string;
  readonly #tokenizing: Tokenizing;
  readonly #metrics: Metrics;
  readonly #membership: Membership;
  readonly #dispatcher: Dispatcher;
  readonly #trace: TraceRecorder;
  readonly #health: Health;
  readonly #service: Service;
  readonly #apiKeys: ApiKeys | null;
  readonly #tenantWaitingMax: number;
  readonly #exchanges = new OpenExchanges();
  readonly #http: HttpListener[] = [];
  #control: Listener | null = null;
  #draining = false;
  #closing: Promise<void> | null = null;
  #classSaid: string | null = null;

  constructor(config: Config, log: Log) {
    this.#config = config;
    this.#log = log;
    this.#folder = readModelFolder(config.model);
    this.#plan = choosePlan(config, this.#folder.plan);
    if (config.replayRouting !== null) checkReplayedTrace(config.replayRouting, this.#plan.model, this.#folder.topK);
    this.#planChecksum = planChecksum(this.#plan);
    this.#tokenizing = new Tokenizing(config.model, (what) => log.warn(what));
    const modelId = config.modelName ?? path.basename(path.resolve(config.model));
    this.#metrics = new Metrics(
      {
        model: modelId,
        version,
        plan: this.#plan,
        planChecksum: this.#planChecksum,
        numericClass: () => this.#numericClass(),
      },
      config.metricsCompat,
    );
    const assignment = { modelDir: path.resolve(config.model), plan: this.#plan, engine: engineConfig(config) };
    this.#membership = new Membership(
      { ...assignment, epoch: epochOf(assignment) },
      {
        onTokens: (place, tokens) => this.#dispatcher.onTokens(place, tokens),
        onTrace: (place, rows) => this.#trace.append(place.worker, rows),
        onStats: (place, stats) => {
          this.#metrics.workers?.onStats(place, stats);
          this.#dispatcher.onStats(place, stats);
        },
        onDrained: () => this.#dispatcher.onDrained(),
        onLost: (place, error) => this.#dispatcher.onLost(place, error),
        onChange: () => this.#health.update(),
      },
      log,
    );
    this.#apiKeys = config.apiKeyFile === null ? null : ApiKeys.read(config.apiKeyFile, '--api-key-file');
    const { requestsRunningMax: runningMax, requestsWaitingMax: waitingMax } = config;
    const tenants = this.#apiKeys?.tenants ?? 1;
    this.#tenantWaitingMax = tenantPart(waitingMax, tenants);
    // A worker runs no more sequences than a step has rows.
    const batchMax = Math.min(config.maxSequences, config.maxBatchRows);
    const ofWorker = { batchMax, beyondBatchMax: beyondBatchMax(batchMax, tenants) };
    const queue = { runningMax, waitingMax, tenantWaitingMax: this.#tenantWaitingMax, ...ofWorker };
    const planHomes = readPlanHomes(this.#plan, (problem) => log.warn(`plan: ${problem}`));
    const homes = { policy: homePolicy(config), statistics: new HomeStatistics(nodeCount(this.#plan), planHomes) };
    this.#dispatcher = new Dispatcher(this.#membership, queue, this.#metrics.requests, homes);
    this.#metrics.watch(this.#membership, this.#dispatcher);
    const { type: modelType, ...shape } = this.#plan.model;
    this.#trace = new TraceRecorder(
      config.traceDir,
      { format: 'switchyard-trace', version: 1, model: modelId, modelType, ...shape, topK: this.#folder.topK, ...this.#folder.grouping },
      (worker, request) => this.#dispatcher.answerOf(worker, request)?.spec ?? null,
      (what) => {
        this.#log.error({ failure: what }, 'routing trace has failed: nothing is recorded any more');
        this.#membership.trace(false);
      },
    );
    this.#health = new Health(() => this.#healthReading(), { stallMs: config.stallMs, liveMs: config.liveMs });
    this.#service = this.#createService(modelId);
  }

  async listen(): Promise<void> {
    try {
      this.#health.start();
      const { listen, control, healthPort, adminSocket, tokenFile } = this.#config;
      const { host, port } = splitAddress(listen);
      const token = readTokenFile(tokenFile, '--token-file');
      this.#control = await serveControl(control, { token, tls: readTls(this.#config) }, (stream) => this.#membership.accept(stream));
      this.controlAddress = this.#control.address;
      for (const exposure of exposures(this.#config)) this.#log.warn(exposure);
      if (healthPort !== null) this.healthUrl = `http://${urlHost(host)}:${await this.#health.serve(host, healthPort)}`;
      if (adminSocket !== null) this.#http.push(await listenHttp(this.#service, { socket: adminSocket }));
      this.#tokenizing.start();
      const http = await listenHttp(this.#service, { host, port });
      this.#http.push(http);
      this.url = `http://${urlHost(host)}:${http.port}`;
      this.#log.info({ url: this.url, control: this.controlAddress, workers: this.#plan.workers.length }, 'coordinator listens');
    } catch (error) {
      await this.close(0);
      throw error;
    }
  }

  status(): Record<string, unknown> {
    return this.#service.status();
  }

  close(graceMs = this.#config.graceMs): Promise<void> {
    this.#closing ??= this.#shutDown(graceMs);
    return this.#closing;
  }

  async #shutDown(graceMs: number): Promise<void> {
    this.#draining = true;
    this.#health.update();
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs);
    });
    // Whoever was let in gets an answer: also one whose prompt is still on its way here, or whose answer is on its way there.
    await Promise.race([this.#exchanges.idle().then(() => this.#dispatcher.idle()), grace]);
    clearTimeout(timer);
    const ended = new SwitchyardError('shutting_down', 'the server is shutting down');
    this.#dispatcher.failAll(ended);
    this.#exchanges.refuse(ended);
    for (const http of this.#http) http.stop();
    // What was just said must reach the clients before their connections end.
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all(this.#http.map((http) => http.close()));
    this.#membership.trace(false);
    await this.#trace.stop().catch((error: Error) => this.#log.error(error.message));
    await this.#membership.close();
    await this.#control?.close();
    await this.#tokenizing.close();
    await this.#health.close();
    if (this.url !== '') this.#log.info('coordinator closed');
  }

  #createService(modelId: string): Service {
    const config = this.#config;
    const adminKeys = config.adminTokenFile === null ? null : ApiKeys.read(config.adminTokenFile, '--admin-token-file');
    const draining = () => this.#draining;
    const numericClass = () => this.#numericClass();
    const service: Service = {
      config,
      version,
      modelId,
      modelDir: path.resolve(config.model),
      createdAt: Math.floor(Date.now() / 1000),
      model: {
        vocab: this.#folder.vocab,
        eosTokens: this.#folder.eosTokens,
        defaults: this.#folder.sampling,
        // More would be refused for ever, however little there is to do.
        sequencesMax: Math.min(bounds.sequencesPerRequestMax, config.requestsRunningMax + this.#tenantWaitingMax),
        replaying: config.replayRouting !== null,
      },
      topK: this.#folder.topK,
      hidden: this.#folder.hidden,
      tokenizing: this.#tokenizing,
      tokenTexts: new TokenTexts(this.#tokenizing.pieces),
      membership: this.#membership,
      dispatcher: this.#dispatcher,
      metrics: this.#metrics,
      health: this.#health,
      trace: this.#trace,
      exchanges: this.#exchanges,
      bodies: LeasedMemory.ofBodies(Math.max(bounds.bodiesBytesMax, config.bodyBytesMax)),
      answers: LeasedMemory.ofAnswers(bounds.answersBytesMax, bounds.socketPendingBytesMax, this.#apiKeys?.tenants),
      log: this.#log,
      apiKeys: this.#apiKeys,
      adminKeys,
      get draining() {
        return draining();
      },
      get numericClass() {
        return numericClass();
      },
      contextMax: () => this.#contextMax(),
      fingerprint: () => this.#fingerprint(),
      status: () => statusDocument(service, this.#plan, this.#planChecksum),
    };
    return service;
  }

  /** What is asked for, within what the model was made for. A sequence fits where it is sent: the smallest cache decides, as far as workers have said theirs. */
  #contextMax(): number | null {
    const asked = this.#config.maxContext;
    const caches = this.#membership.places.flatMap(({ ready }) => (ready === null ? [] : [ready.kvBlocks * BLOCK_TOKENS]));
    const known = [...(asked > 0 ? [asked] : []), ...(this.#folder.contextMax === null ? [] : [this.#folder.contextMax]), ...caches];
    return known.length === 0 ? null : Math.min(...known);
  }

  /** As workers say; until one has loaded, as far as config.json tells. */
  #numericClass(): string {
    const said = this.#membership.places.find(({ ready }) => ready !== null)?.ready?.numericClass;
    this.#classSaid = said ?? this.#classSaid;
    return this.#classSaid ?? numericClassName(this.#config, this.#folder);
  }

  /** Answers of equal fingerprints and seeds are equal. Known once the workers have read the weights. */
  #fingerprint(): string {
    const weights = new Set(
      this.#membership.places.flatMap(({ ready }) => (ready === null ? [] : [ready.weightsHash.toString(16).padStart(16, '0')])),
    );
    const hash = createHash('sha256')
      .update([...weights].sort().join())
      .digest('hex')
      .slice(0, 8);
    return `sy-${this.#planChecksum.slice(0, 8)}-${hash}-${this.#numericClass()}`;
  }

  #healthReading(): Omit<HealthReading, 'beatMs'> {
    const { places, uncovered } = this.#membership;
    return {
      ready: uncovered === 0 ? 1 : 0,
      draining: this.#draining ? 1 : 0,
      uncoveredExperts: uncovered,
      missingWorkers: places.filter(({ state }) => state !== 'serving').length,
      running: this.#dispatcher.running,
      waiting: this.#dispatcher.waiting,
      stepAgeMs: this.#dispatcher.stepAgeMs(performance.now()),
    };
  }
}

/** Steps that a prompt must take for a move after the first to pay: two of them are computed in vain, the first and one that is under way by then. */
const MOVE_STEPS_MIN = 8;

/** A home that holds more of its cache reads it for longer than the weights that its sequences share, and may have no room for what they become. */
const FILLING_CACHE_MAX = 0.25;

/**
 * What filling a home is worth to a sequence that decodes, as a share of its visits. Measured over four hosts at 250 Mb/s with eight streams of five domains: from
 * 0.25 to 0.36 alike, a little slower with 0.23 and with 1, which has one home for all (`bench/results/hosts-filled.md`). Inside a machine, where no network is between
 * workers, it is worth all of them (`bench/results/filling.md`).
 */
const FILLING_WORTH = 0.3;

function homePolicy(config: Config): HomePolicy {
  const { homeChoice, homeFill, homeSlackSequences, homeSlackTokens, homeMovePercent, maxBatchRows } = config;
  return {
    choice: homeChoice,
    slack: { sequences: homeSlackSequences, promptTokens: homeSlackTokens },
    filling: {
      sequences: homeChoice === 'load' ? 1 : homeFill,
      promptTokens: maxBatchRows,
      cacheUsed: FILLING_CACHE_MAX,
      worth: FILLING_WORTH,
    },
    moveGain: homeMovePercent / 100,
    movePromptTokensMin: MOVE_STEPS_MIN * maxBatchRows,
  };
}

function engineConfig(config: Config): EngineConfig {
  return {
    numericClass: config.numeric,
    expertDtype: config.expertDtype,
    denseDtype: config.denseDtype,
    sumMode: config.sum,
    maxContext: config.maxContext,
    kvBlocks: config.kvBlocks,
    kvBytes: config.kvBytes,
    maxBatchRows: config.maxBatchRows,
    maxSequences: config.maxSequences,
    prefixCache: config.prefixCache,
    rowDeadlineMs: config.rowDeadlineMs,
    lossy: config.lossy,
    draftMax: config.draftMax,
    replayRouting: config.replayRouting === null ? '' : path.resolve(config.replayRouting),
  };
}

/**
 * 32 bits that name what workers are to serve: rows for another plan, checkpoint or engine are refused, also where they come from another cluster. What lies in the
 * checkpoint's folder its readers add. Never 0.
 */
function epochOf({ modelDir, plan, engine }: Omit<Assignment, 'epoch'>): number {
  const hash = createHash('sha256')
    .update(JSON.stringify([planChecksum(plan), modelDir, engine]))
    .digest();
  return hash.readUInt32LE() || 1;
}

/** As workers name it, where config.json says how experts are stored. */
function numericClassName({ numeric, expertDtype, denseDtype, sum, lossy }: Config, { storedWide }: ModelFolder): string {
  return [
    numeric !== 'auto' ? numeric : storedWide ? 'f32' : 'bf16',
    ...(expertDtype === 'stored' ? [] : [`${expertDtype}-experts`]),
    ...(denseDtype === 'stored' ? [] : [`${denseDtype}-dense`]),
    ...(sum === 'exact' ? [] : [`${sum}-sum`]),
    ...lossyNames(parseLossy(lossy)),
  ].join('+');
}

function readTls(config: Config): LinkTls | null {
  const tls = readTlsFiles(config, null);
  if (tls !== null && tls.cert === null) throw new SwitchyardError('invalid_request', '--tls-ca needs --tls-cert and --tls-key beside it');
  return tls;
}

function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  const host = address.slice(0, at).replace(/^\[|\]$/g, '');
  const port = Number(address.slice(at + 1));
  if (port > 65_535)
    throw new SwitchyardError('invalid_request', `--listen ${address}: port ${port}; the limit is 65535`, { param: 'listen' });
  return { host, port };
}

function urlHost(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}
