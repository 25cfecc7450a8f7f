/**
 * What coordinator and workers say to each other: the TypeScript face of protos/control.proto, which says what each field means. A message is a plain object with
 * a `type` and every field present (proto3 defaults: 0, '', false, [], an empty submessage). u64 fields are JS numbers, refused above 2^53 - 1, except the two
 * that use all 64 bits (`Sampling.seed`, `Ready.weightsHash`), which are bigints.
 */
export type FromWorker =
  | ({ type: 'hello' } & Hello)
  | ({ type: 'progress' } & Progress)
  | ({ type: 'ready' } & Ready)
  | ({ type: 'tokens' } & Tokens)
  | ({ type: 'stats' } & Stats)
  | ({ type: 'failed' } & Failed)
  | ({ type: 'trace' } & TraceRows);

export type ToWorker =
  | ({ type: 'assign' } & Assign)
  | ({ type: 'refuse' } & Refuse)
  | ({ type: 'peers' } & Peers)
  | ({ type: 'submit' } & Submit)
  | ({ type: 'cancel' } & Cancel)
  | ({ type: 'trace' } & Trace)
  | ({ type: 'stop' } & Stop);

/** Packed columns are plain arrays, or any array-like of numbers when sent. */
export type Column = ArrayLike<number>;

export interface Hello {
  protocolVersion: number;
  name: string;
  node: string;
  pid: number;
  dataAddresses: string[];
  /** JSON of the device's description. */
  device: string;
  softwareVersion: string;
  /** That its weights are read from, by names that are the same wherever they are seen. */
  memories: string[];
}

export interface Refuse {
  code: string;
  message: string;
}

export interface Assign {
  worker: number;
  epoch: number;
  modelDir: string;
  /** JSON of Plan, UTF-8. */
  plan: Uint8Array;
  engine: EngineConfig;
}

export interface EngineConfig {
  numericClass: string;
  expertDtype: string;
  denseDtype: string;
  sumMode: string;
  maxContext: number;
  kvBlocks: number;
  kvBytes: number;
  maxBatchRows: number;
  maxSequences: number;
  prefixCache: boolean;
  rowDeadlineMs: number;
  /** As `parseLossy` reads it; empty: nothing is given up. */
  lossy: string;
  replayRouting: string;
  /** Tokens that a stream may guess for one step; 0: none. */
  draftMax: number;
}

export interface Peer {
  worker: number;
  name: string;
  node: string;
  dataAddresses: string[];
}

export interface Peers {
  epoch: number;
  peers: Peer[];
}

export interface Progress {
  epoch: number;
  done: number;
  total: number;
  what: string;
}

export interface Ready {
  epoch: number;
  residentBytes: number;
  kvBlocks: number;
  weightsHash: bigint;
  /** Its name: what `auto` means is known once it has been seen how the experts are stored. */
  numericClass: string;
}

export interface Failed {
  epoch: number;
  code: string;
  message: string;
}

export interface Submit {
  request: number;
  prompt: Column;
  maxTokens: number;
  sampling: Sampling;
  stopTokens: Column;
  logprobs: number;
  wantLogprob: boolean;
  promptLogprobs: boolean;
  tenant: string;
  domain: string;
  minTokens: number;
  reportRouting: boolean;
  replaySequence: number;
  prediction: Column;
}

export interface Sampling {
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  seed: bigint;
  biasToken: Column;
  biasValue: Column;
}

export interface Cancel {
  request: number;
}

export interface Trace {
  on: boolean;
}

export interface Stop {
  graceMs: number;
}

/** One step of one worker, as columns: entry i is one event of `request[i]`. */
export interface Tokens {
  request: Column;
  token: Column;
  /** See `Finish`. */
  finish: Column;
  logprob: Column;
  top: TopLogprobs[];
  errors: RequestError[];
  cachedTokens: Column;
  prompt: PromptLogprobs[];
  traffic: Traffic[];
  routing: Routing[];
  /** Microseconds from its submit until a step first computed something of it; 0 after the first token. */
  queuedUs: Column;
}

/** What the rows of one sequence cost the network, summed over its MoE layers. */
export interface Traffic {
  rows: number;
  remoteNodes: number;
  visits: number;
  homeVisits: number;
  /** Fractions come from frames whose bytes are shared by rows of several sequences. */
  interNodeBytes: number;
  intraNodeBytes: number;
  routing: Routing;
}

/** Of `sampled` (row, expert) pairs, those whose expert each node holds. */
export interface Routing {
  request: number;
  sampled: number;
  /** [node]; empty on a plan of one node. */
  held: Column;
}

export const Finish = { none: 0, stop: 1, length: 2, error: 3, cancelled: 4, stopWithoutToken: 5 } as const;
export type Finish = (typeof Finish)[keyof typeof Finish];

export interface TopLogprobs {
  token: Column;
  logprob: Column;
}

export interface PromptLogprobs {
  request: number;
  logprob: Column;
  top: TopLogprobs[];
}

export interface RequestError {
  code: string;
  message: string;
}

export interface Stats {
  steps: number;
  running: number;
  waiting: number;
  kvBlocksUsed: number;
  kvBlocks: number;
  lastStepAgeMs: number;
  workPending: boolean;
  promptTokens: number;
  generatedTokens: number;
  prefixQueries: number;
  prefixHits: number;
  preemptions: number;
  links: LinkStats[];
  /** attention, exchange wait, experts (own rows), experts (others' rows), sampling, other, idle */
  seconds: Column;
  rowsDispatched: number;
  remoteNodesVisited: number;
  /** (moeLayers * experts) */
  expertTokens: Column;
  residentBytes: number;
  /** Processor time in which the worker waited awake for frames; any other program could have had it. */
  awakeSeconds: number;
  /** Guessed tokens that steps checked, and those that were right. */
  draftTokens: number;
  draftTokensAccepted: number;
  /** Sequences whose beginning another one is computing, which are not in `waiting`. */
  waitingForPrefix: number;
}

/** Of a worker that has done nothing yet. */
export const idleStats: Stats = {
  steps: 0,
  running: 0,
  waiting: 0,
  kvBlocksUsed: 0,
  kvBlocks: 0,
  lastStepAgeMs: 0,
  workPending: false,
  promptTokens: 0,
  generatedTokens: 0,
  prefixQueries: 0,
  prefixHits: 0,
  preemptions: 0,
  links: [],
  seconds: [0, 0, 0, 0, 0, 0, 0],
  rowsDispatched: 0,
  remoteNodesVisited: 0,
  expertTokens: [],
  residentBytes: 0,
  awakeSeconds: 0,
  draftTokens: 0,
  draftTokensAccepted: 0,
  waitingForPrefix: 0,
};

export interface LinkStats {
  peer: number;
  bytesSent: number;
  bytesReceived: number;
  framesSent: number;
  transport: string;
  roundTripSeconds: number;
  roundTrips: number;
}

export interface TraceRows {
  request: Column;
  position: Column;
  generated: boolean[];
  /** u16 little endian, (rows, moeLayers, topK) */
  experts: Uint8Array;
}
